"""From finished runs to tables and figures of many: means, spreads, differences."""
