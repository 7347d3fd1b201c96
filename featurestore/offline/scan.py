"""Reading Parquet files where they lie: on a disk of this machine, or in object storage."""

from collections.abc import Sequence

import polars as pl

from featurestore.offline.folder import Address


def scan_files(files: Sequence[Address]) -> pl.LazyFrame:
    """Return the rows of some Parquet files of one place as they are stored, those of the first before those of the next.

    A name is taken as it is: it may have a glob's characters in it, or tell of a column.
    """
    options = dict(files[0].options) if files else {}
    return pl.scan_parquet([file.url for file in files], glob=False, hive_partitioning=False, storage_options=options or None)
