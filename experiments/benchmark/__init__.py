"""Timings of the methods in JAX and PyTorch."""
