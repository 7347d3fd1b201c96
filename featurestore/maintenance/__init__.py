"""Maintenance: status, doctor, compaction, backup and deletion."""
