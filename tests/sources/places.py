"""Sources that tests can write to, one class a kind. Each write adds rows as that kind of source usually gets them."""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
from adbc_driver_postgresql import dbapi
from deltalake import DeltaTable, write_deltalake

from featurestore.definitions.source import CSVSource, DeltaSource, FrameSource, ParquetSource, SQLSource
from featurestore.sources.base import SourceReader
from featurestore.sources.csv import CSVReader
from featurestore.sources.delta import DeltaReader
from featurestore.sources.frame import FrameReader
from featurestore.sources.parquet import ParquetReader
from featurestore.sources.sql import SQLReader
from featurestore.testing.sources import INSTANT, NAIVE, Place

MICROSECOND_TIMES: tuple[pl.DataType, ...] = (NAIVE, INSTANT, pl.Datetime("us", "America/New_York"), pl.Date())


class ParquetFiles(Place):
    """A glob; every write is a new file, of row groups so small that they matter."""

    options: Mapping[str, Any] = {"row_group_size": 3}

    def write(self, rows: pl.DataFrame) -> None:
        folder = self.root / "data"
        folder.mkdir(exist_ok=True)
        rows.write_parquet(folder / f"part_{len(list(folder.iterdir()))}.parquet", **self.options)

    def reader(self, **words: Any) -> SourceReader:
        return ParquetReader(ParquetSource("s", "data/*.parquet", **words), self.root)


class ParquetWithoutStatistics(ParquetFiles):
    """The same, where the footers tell nothing."""

    options: Mapping[str, Any] = {"row_group_size": 3, "statistics": False}


class ParquetFile(Place):
    """One file, written anew each time with all rows."""

    def write(self, rows: pl.DataFrame) -> None:
        path = self.root / "all.parquet"
        old = [pl.read_parquet(path)] if path.exists() else []
        path.unlink(missing_ok=True)
        pl.concat([*old, rows]).write_parquet(path, row_group_size=4)

    def reader(self, **words: Any) -> SourceReader:
        return ParquetReader(ParquetSource("s", "all.parquet", **words), self.root)


class ParquetHive(Place):
    """A folder of hive partitions."""

    def write(self, rows: pl.DataFrame) -> None:
        number = len(list(self.root.glob("lake/*")))
        folder = self.root / "lake" / f"day=2013-01-{number + 1:02}"
        folder.mkdir(parents=True)
        rows.write_parquet(folder / "rows.parquet")

    def reader(self, **words: Any) -> SourceReader:
        return ParquetReader(ParquetSource("s", "lake", **words), self.root)


class CSVFiles(Place):
    """A glob; every write is a new file."""

    times = (NAIVE, pl.Datetime("ns"), INSTANT, pl.Datetime("us", "America/New_York"), pl.Date())
    far_times = False

    def write(self, rows: pl.DataFrame) -> None:
        folder = self.root / "data"
        folder.mkdir(exist_ok=True)
        rows.write_csv(folder / f"part_{len(list(folder.iterdir()))}.csv", datetime_format=csv_format(rows))

    def reader(self, **words: Any) -> SourceReader:
        return CSVReader(CSVSource("s", "data/*.csv", columns={"k": str, "x": float}, **words), self.root)


class CSVLog(CSVFiles):
    """One file that grows."""

    def write(self, rows: pl.DataFrame) -> None:
        path = self.root / "log.csv"
        with path.open("ab") as log:
            rows.write_csv(log, include_header=path.stat().st_size == 0, datetime_format=csv_format(rows))

    def reader(self, **words: Any) -> SourceReader:
        return CSVReader(CSVSource("s", "log.csv", columns={"k": str, "x": float}, **words), self.root)


class Delta(Place):
    """A Delta table, compacted now and then."""

    times = MICROSECOND_TIMES

    def write(self, rows: pl.DataFrame) -> None:
        write_deltalake(self.root / "table", rows, mode="append")
        table = DeltaTable(self.root / "table")
        if table.version() % 3 == 2:
            table.optimize.compact()
            table.vacuum(retention_hours=0, dry_run=False, enforce_retention_duration=False)

    def reader(self, **words: Any) -> SourceReader:
        return DeltaReader(DeltaSource("s", "table", **words), self.root)


class SQLOverFiles(ParquetFiles):
    """A query over Parquet files."""

    missing_hint = "The query begins:"

    def reader(self, **words: Any) -> SourceReader:
        return SQLReader(SQLSource("s", "select * from 'data/*.parquet' -- all", **words), self.root)


class SQLOverDuckDB(Place):
    """A query over a DuckDB file."""

    missing_hint = "The query begins:"

    def write(self, rows: pl.DataFrame) -> None:
        with duckdb.connect(self.root / "rows.duckdb") as connection:
            connection.register("new_rows", rows)
            connection.execute("create table if not exists observations as select * from new_rows limit 0")
            connection.execute("insert into observations select * from new_rows")

    def reader(self, **words: Any) -> SourceReader:
        return SQLReader(SQLSource("s", "select *\nfrom observations;", database="rows.duckdb", **words), self.root)


class SQLOverPostgres(Place):
    """A query over a PostgreSQL server."""

    times = MICROSECOND_TIMES
    missing_hint = "The query begins:"
    _numbers = itertools.count()

    def __init__(self, root: Path, dsn: str) -> None:
        super().__init__(root)
        self.dsn = dsn
        self.table = f"observations_{next(self._numbers)}"

    def write(self, rows: pl.DataFrame) -> None:
        with dbapi.connect(self.dsn) as connection, connection.cursor() as cursor:
            cursor.adbc_ingest(self.table, rows.to_arrow(), mode="create_append")
            connection.commit()

    def reader(self, **words: Any) -> SourceReader:
        return SQLReader(SQLSource("s", f"table {self.table}", database=self.dsn, **words), self.root)


class Frame(Place):
    """A frame in memory."""

    missing_hint = "lives only in the process that defined it"

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.frame = pl.DataFrame()

    def write(self, rows: pl.DataFrame) -> None:
        self.frame = pl.concat([self.frame, rows]) if self.frame.columns else rows

    def reader(self, **words: Any) -> SourceReader:
        return FrameReader(FrameSource("s", self.frame, **words), self.root)


def csv_format(rows: pl.DataFrame) -> str:
    zone = any(getattr(dtype, "time_zone", None) for dtype in rows.dtypes)
    return "%Y-%m-%d %H:%M:%S%.f" + ("%:z" if zone else "")
