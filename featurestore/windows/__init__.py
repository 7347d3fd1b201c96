"""Windows: sums over sliding spans of time, in training and online."""
