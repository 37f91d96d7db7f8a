"""What is private to PyTorch or to a processor: the fast matrix products."""
