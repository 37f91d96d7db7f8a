"""Exact nearest neighbours among the rows of a dataset."""
