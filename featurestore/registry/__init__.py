"""The registry: specs by kind, name and version, and the ledger of runs."""
