"""On-demand features: computed at request time."""
