"""One file per algorithm; each is found through the entry-point group ``offline_rl.algos``."""
