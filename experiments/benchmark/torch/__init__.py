"""The same algorithms in PyTorch, to check and time against. The only room with it."""
