"""Sweeps: one file in W&B's format, run without an account, on one machine or many."""
