"""The one training loop, its evaluation, checkpoints and loggers."""
