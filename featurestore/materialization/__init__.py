"""Materialization: runs, backfills and pushes into both stores."""
