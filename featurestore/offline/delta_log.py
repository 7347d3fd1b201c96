"""The feature log in Delta tables: what services answered, as far as it was sampled."""

import hashlib
import json
from pathlib import Path

import polars as pl
from deltalake import DeltaTable, write_deltalake
from deltalake.exceptions import TableNotFoundError

from featurestore.dtypes import dtype_from_name, dtype_name
from featurestore.offline.delta_files import storage_dtype, translated

_SCHEMA = "_schema.json"


class DeltaFeatureLog:
    """Keeps each service's answers under ``folder/project/_logs/service``.

    Rows of other columns lie in another table, ``…/service/<digest of the columns>``: a service may change what it gives,
    and nothing that was written before is touched. Beside each table is what dtypes its columns have once they are read.

    Args:
        folder: the folder of the history.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def append(self, project: str, service: str, rows: pl.DataFrame) -> None:
        """See ``FeatureLog.append``."""
        schema = json.dumps({name: dtype_name(dtype) for name, dtype in rows.schema.items()})
        folder = self._of(project, service) / hashlib.sha256(schema.encode()).hexdigest()[:12]
        stored = rows.with_columns(pl.col(name).cast(storage_dtype(dtype)) for name, dtype in rows.schema.items())
        with translated("write", str(folder)):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / _SCHEMA).write_text(schema, encoding="utf-8")
            write_deltalake(str(folder), stored, mode="append")

    def read(self, project: str, service: str) -> pl.LazyFrame:
        """See ``FeatureLog.read``."""
        folder = self._of(project, service)
        with translated("read", str(folder)):
            parts = [_scan(path.parent) for path in sorted(folder.glob(f"*/{_SCHEMA}"))]
        found = [part for part in parts if part is not None]
        return pl.concat(found, how="diagonal_relaxed") if found else pl.LazyFrame()

    def _of(self, project: str, service: str) -> Path:
        return self._folder / project / "_logs" / service


def _scan(folder: Path) -> pl.LazyFrame | None:
    try:
        files = DeltaTable(str(folder)).file_uris()
    except TableNotFoundError:  # it is being made at this moment
        return None
    if not files:
        return None
    schema = json.loads((folder / _SCHEMA).read_text(encoding="utf-8"))
    return pl.scan_parquet(files, glob=False).select(pl.col(name).cast(dtype_from_name(each)) for name, each in schema.items())
