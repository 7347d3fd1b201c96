"""What users write: frozen values that do no I/O."""
