"""Files that a run writes to its folder."""
