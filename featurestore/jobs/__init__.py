"""Jobs: what brings rows into the stores."""
