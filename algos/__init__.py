"""One file or folder per algorithm; its name is the algorithm's name."""
