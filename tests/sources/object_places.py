"""Sources in object storage that tests can write to: the places of ``places.py``, with objects in the place of files."""

import itertools
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any
from uuid import uuid4

import polars as pl
from deltalake import DeltaTable, write_deltalake

from featurestore.clock import utc_now
from featurestore.definitions.source import CSVSource, DeltaSource, ParquetSource, Source
from featurestore.offline.folder import Folder
from featurestore.offline.open_folder import open_folder
from featurestore.sources.base import SourceContext, SourceReader
from featurestore.sources.csv import CSVReader
from featurestore.sources.delta import DeltaReader
from featurestore.sources.files import FilesReader
from featurestore.sources.parquet import ParquetReader
from featurestore.testing.sources import Place
from tests.servers.seaweed import BUCKET
from tests.sources.places import MICROSECOND_TIMES, CSVFiles, csv_format


class Objects(Place):
    """A prefix of one's own. The settings say where the store is, the environment has the keys."""

    options: Mapping[str, str] = {}

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.url = f"s3://{BUCKET}/{uuid4().hex}"
        self.numbers: Iterator[int] = itertools.count()

    @property
    def folder(self) -> Folder:
        return open_folder(self.url, options=self.options)

    def open(self, kind: type[FilesReader[Any]], source: Source) -> SourceReader:
        def no_other(other: Source) -> SourceReader:
            raise AssertionError(other)

        return kind.open(source, SourceContext(self.root, utc_now, no_other, self.options))


class ParquetObjects(Objects):
    """A glob; every write is a new object."""

    def write(self, rows: pl.DataFrame) -> None:
        self.folder.write(f"data/part_{next(self.numbers)}.parquet", _parquet(rows, row_group_size=3))

    def reader(self, **words: Any) -> SourceReader:
        return self.open(ParquetReader, ParquetSource("s", f"{self.url}/data/*.parquet", **words))


class ParquetObjectHive(Objects):
    """A folder of hive partitions, in which some objects have no statistics."""

    def write(self, rows: pl.DataFrame) -> None:
        number = next(self.numbers)
        name = f"lake/day=2013-01-{number + 1:02}/rows.parquet"
        self.folder.write(name, _parquet(rows, statistics=number % 2 == 0))

    def reader(self, **words: Any) -> SourceReader:
        return self.open(ParquetReader, ParquetSource("s", f"{self.url}/lake", **words))


class CSVObject(Objects):
    """One object, replaced each time by one with all rows."""

    times = CSVFiles.times
    far_times = False

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.rows: list[pl.DataFrame] = []

    def write(self, rows: pl.DataFrame) -> None:
        self.rows.append(rows)
        everything = pl.concat(self.rows)
        self.folder.write("log.csv", everything.write_csv(datetime_format=csv_format(rows)).encode())

    def reader(self, **words: Any) -> SourceReader:
        return self.open(CSVReader, CSVSource("s", f"{self.url}/log.csv", columns={"k": str, "x": float}, **words))


class DeltaObjects(Objects):
    """A Delta table, compacted now and then."""

    times = MICROSECOND_TIMES

    def write(self, rows: pl.DataFrame) -> None:
        write_deltalake(f"{self.url}/table", rows, mode="append", storage_options=dict(self.options))
        table = DeltaTable(f"{self.url}/table", storage_options=dict(self.options))
        if table.version() % 3 == 2:
            table.optimize.compact()
            table.vacuum(retention_hours=0, dry_run=False, enforce_retention_duration=False)

    def reader(self, **words: Any) -> SourceReader:
        return self.open(DeltaReader, DeltaSource("s", f"{self.url}/table", **words))


def _parquet(rows: pl.DataFrame, **options: Any) -> bytes:
    file = BytesIO()
    rows.write_parquet(file, **options)
    return file.getvalue()
