"""Dichotomy of Control (DoC): the algorithm, its latent models, and the energy that keeps luck out of them."""
