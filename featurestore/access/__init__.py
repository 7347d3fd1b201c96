"""Access: who may read and write what, and what is personal."""
