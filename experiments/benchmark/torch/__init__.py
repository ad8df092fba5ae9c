"""The same algorithms in PyTorch, for checks and timings.

Only this package imports PyTorch.
"""
