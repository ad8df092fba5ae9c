"""The methods timed, here and in PyTorch."""
