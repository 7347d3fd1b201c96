"""Plans: what to compute, as pure functions of specs and requests."""
