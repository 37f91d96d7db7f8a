"""How updates are made: one by one, compiled, as CUDA graphs, or for all seeds at once."""
