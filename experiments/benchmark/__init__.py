"""The same algorithms in PyTorch, to check against. The only room that knows it."""
