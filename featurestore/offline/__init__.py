"""The offline store: history at rest."""
