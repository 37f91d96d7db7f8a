"""FamO2O: the algorithm and its balance model."""
