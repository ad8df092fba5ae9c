"""Where images come from, how the long tail is cut, and how batches are made."""
