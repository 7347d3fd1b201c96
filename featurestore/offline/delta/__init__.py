"""The offline store on Delta tables."""
