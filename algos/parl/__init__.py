"""O-PARL: the algorithm, its upper level, its lower level, and how rewards are learned from comparisons."""
