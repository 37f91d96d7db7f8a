"""Labelled pairs of segments: where they come from, and how they are read."""
