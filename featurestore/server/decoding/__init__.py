"""Decoding of Arrow and Parquet bodies, in processes of their own."""
