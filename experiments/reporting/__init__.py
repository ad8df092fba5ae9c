"""Tables and figures of finished runs: means, spreads, differences."""
