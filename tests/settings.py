"""Settings that tests share."""

TINY = {"hidden_dims": [16, 16], "batch_size": 16, "eval_episodes": 2, "quiet": True}
"""Make a run of a few hundred updates take a moment."""
