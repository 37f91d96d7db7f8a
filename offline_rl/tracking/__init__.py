"""The record of a run, and who shows it: the terminal, Weights & Biases, TensorBoard."""
