"""Measurements: ours, the floor of the same run, and the ratio. Run them with scripts/bench."""
