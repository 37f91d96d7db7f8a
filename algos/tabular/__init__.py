"""Algorithms on tables, for problems so small that every expectation can be written out."""
