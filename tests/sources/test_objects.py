"""Sources in object storage: the contract on a real server, addresses and globs, what is said where something is wrong."""

import gzip
import os
import re
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from datetime import date
from io import BytesIO
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake

from featurestore import Entity, FeatureStore, FeatureView
from featurestore.clock import from_micros, utc_now
from featurestore.definitions.source import CSVSource, DeltaSource, ParquetSource
from featurestore.errors import DefinitionError, SourceError, SourceMissingError
from featurestore.offline.object_folder import ObjectFolder
from featurestore.sources.base import SourceContext, SourceReader
from featurestore.sources.csv import CSVReader
from featurestore.sources.delta import DeltaReader
from featurestore.sources.parquet import ParquetReader
from featurestore.testing.sources import (
    AVAILABLE,
    EVENT,
    MANY,
    TIMES,
    Place,
    SourceReaderContract,
    frame,
    new_folder,
    pin,
    read,
    run,
)
from tests.servers.s3_proxy import s3_proxy
from tests.sources.object_places import CSVObject, DeltaObjects, Objects, ParquetObjectHive, ParquetObjects


class ObjectSourceContract(SourceReaderContract):
    kind: type[Objects]

    @pytest.fixture(scope="class")
    @classmethod
    def new_place(cls, tmp_path_factory: pytest.TempPathFactory, seaweed: Any) -> Iterator[Callable[[], Place]]:
        """The keys are in the environment, where the store is say the settings."""
        options = {"endpoint_url": seaweed.url, "region": "us-east-1", "allow_http": "true"}
        kind = type(cls.kind.__name__, (cls.kind,), {"options": options})
        with pytest.MonkeyPatch.context() as patch:
            for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
                patch.setenv(name, seaweed.variables[name])
            yield lambda: kind(new_folder(tmp_path_factory))


class TestParquetObjects(ObjectSourceContract):
    kind = ParquetObjects


@pytest.mark.slow
class TestParquetObjectHive(ObjectSourceContract):
    kind = ParquetObjectHive


class TestCSVObject(ObjectSourceContract):
    kind = CSVObject


class TestDeltaObjects(ObjectSourceContract):
    kind = DeltaObjects


@pytest.fixture
def folder(s3_url: str) -> ObjectFolder:
    return ObjectFolder(s3_url)


def rows_of(reader: SourceReader, chunk_rows: int = MANY) -> pl.DataFrame:
    return read(reader, pin(reader, None, 4_000_000_000_000_000, chunk_rows).chunks).sort("id")


def parquet(path: str, **words: Any) -> ParquetReader:
    return ParquetReader(ParquetSource("s", path, **{**TIMES, **words}), Path())


def put(folder: ObjectFolder, name: str, *numbers: int) -> None:
    file = BytesIO()
    frame([(number, number, number) for number in numbers]).write_parquet(file)
    folder.write(name, file.getvalue())


def test_objects_folders_globs_and_what_they_pass_over(folder: ObjectFolder) -> None:
    put(folder, "lake/day=2013-01-01/a.parquet", 1)
    put(folder, "lake/day=2013-01-02/b.parquet", 2)
    put(folder, "lake/day=2013-01-02/_half.parquet", 3)
    put(folder, "lake/.hidden/c.parquet", 4)
    put(folder, "lake/_temporary/d.parquet", 5)
    put(folder, "lake2/day=2013-01-02/e.parquet", 6)
    folder.write("lake/day=2013-01-01", b"")  # as a console marks a folder
    folder.write("lake/_SUCCESS", b"")
    url = folder.address().url
    for path, numbers in {
        "lake": [1, 2], "lake/": [1, 2], "lake/**": [1, 2], "lake/**/*.parquet": [1, 2], "lake/day=*/*": [1, 2],
        "lake/day=2013-01-0[2-9]/*.parquet": [2], "lake/day=2013-01-0?/a.parquet": [1], "lake/*.parquet": None,
        "**/e.parquet": [6], "lake*/day=*/*.parquet": [1, 2, 6], "lake/_temporary/*.parquet": [5], "lake/.hidden": [4],
        "lake/day=2013-01-02/_half.parquet": [3], "lake/**/_*.parquet": [3],
    }.items():  # fmt: skip
        reader = parquet(f"{url}/{path}")
        if numbers is None:
            with pytest.raises(SourceMissingError):
                reader.schema()
            continue
        assert rows_of(reader)["id"].to_list() == numbers, path
    days = rows_of(parquet(f"{url}/lake/**/*.parquet"))
    assert days["day"].to_list() == [date(2013, 1, 1), date(2013, 1, 2)]
    assert rows_of(parquet(f"{url}/lake", columns={"day": str}))["day"].to_list() == ["2013-01-01", "2013-01-02"]


@pytest.mark.parametrize("name", ["a b/ü%41#1.parquet", "y=%2F y/[1].parquet", "plus+and&.parquet"])
def test_names_with_letters_that_mean_something_elsewhere(folder: ObjectFolder, name: str) -> None:
    put(folder, name, 1)
    put(folder, "other/1.parquet", 2)
    assert rows_of(parquet(f"{folder.address().url}/{name}"))["id"].to_list() == [1]
    assert rows_of(parquet(f"{folder.address().url}/**/*.parquet"))["id"].to_list() == [1, 2]


def test_gzipped_csv_and_one_that_is_read_in_many_ranges(folder: ObjectFolder) -> None:
    count = 40_000
    ids = pl.DataFrame({"id": range(count), "t": ["2013-01-01"] * count, "v": ["a long text, with a comma"] * count})
    text = ids.write_csv().encode()
    assert len(text) > 1 << 20
    folder.write("data/a.csv", text)
    folder.write("data/b.csv.gz", gzip.compress(text.replace(b"\n", b"\n1")))
    reader = CSVReader(CSVSource("s", f"{folder.address().url}/data", event_time="t"), Path())
    rows = rows_of(reader, chunk_rows=15_000)
    assert rows.height == 2 * count
    assert rows.filter(pl.col("id") < 3)["id"].to_list() == [0, 1, 2]
    folder.write("data/b.csv.gz", gzip.compress(text)[:-12])
    with pytest.raises(SourceError, match=r"data/b\.csv\.gz could not be read"):
        rows_of(reader)


def test_a_footer_longer_than_what_is_asked_for_first(folder: ObjectFolder) -> None:
    wide = frame([(number, number, number) for number in range(100)]).with_columns(pl.lit(1).alias(f"c{n}") for n in range(200))
    file = BytesIO()
    wide.write_parquet(file, row_group_size=10)
    assert pq.read_metadata(file).serialized_size > 64 << 10
    folder.write("wide.parquet", file.getvalue())
    assert rows_of(parquet(f"{folder.address().url}/wide.parquet"), 50).height == 100


class TestChanges:
    def test_an_object_that_is_replaced_is_read_again(self, folder: ObjectFolder) -> None:
        url = folder.address().url
        put(folder, "data/1.parquet", 1)
        put(folder, "data/2.parquet", 2)
        ids, cursor = run(parquet(f"{url}/data"), None, 100)
        assert ids == [1, 2]
        put(folder, "data/1.parquet", 1, 3)
        put(folder, "data/2.parquet", 2)  # the same bytes
        assert run(parquet(f"{url}/data"), cursor, 100)[0] == [1, 3]

    def test_what_was_pinned_is_not_there_any_more(self, folder: ObjectFolder) -> None:
        url = folder.address().url
        put(folder, "1.parquet", 1)
        folder.write("1.csv", b"id,t\n1,2013-01-01\n")
        reader = parquet(f"{url}/1.parquet")
        text = CSVReader(CSVSource("s", f"{url}/1.csv", event_time="t"), Path())
        [chunk] = reader.span(None, None, from_micros(100), MANY).chunks
        [lines] = text.span(None, None, from_micros(4_000_000_000_000_000), MANY).chunks
        put(folder, "1.parquet", 2)
        folder.write("1.csv", b"id,t\n2,2013-01-01\n")
        with pytest.raises(SourceError, match=r"was replaced after a run had pinned rows of it.*Start the run again"):
            reader.read(chunk)
        with pytest.raises(SourceError, match=r"was rewritten after a run had pinned rows of it.*Start the run again"):
            text.read(lines)
        folder.delete(["1.parquet", "1.csv"])
        with pytest.raises(SourceError, match=r"pinned in s3://.*/1\.parquet are no longer there: there is no such object"):
            reader.read(chunk)
        with pytest.raises(SourceError, match=r"s3://.*/1\.csv could not be read: there is no such object"):
            text.read(lines)


class TestMessages:
    """Each says what failed, what was found, and what to do; none of them has a key in it."""

    @pytest.mark.parametrize(
        ("path", "message"),
        [
            ("none/*.parquet", r"of the 0 objects below s3://.*/none/ none matches s3://.*/none/\*\.parquet\. Check path="),
            ("data/*.csv", r"of the 1 objects below s3://.*/data/ none matches s3://.*/data/\*\.csv"),
            ("none.parquet", r"there is no object and no folder s3://.*/none\.parquet\. Check path=.*put the first object there"),
            ("csv", r"of the 1 objects in the folder s3://.*/csv none ends in \.parquet or \.parq or \.pq"),
        ],
    )
    def test_what_was_looked_for(self, folder: ObjectFolder, path: str, message: str) -> None:
        put(folder, "data/1.parquet", 1)
        folder.write("csv/1.csv", b"t\n")
        with pytest.raises(SourceMissingError, match=f"'s': {message}"):
            parquet(f"{folder.address().url}/{path}").span(None, None, from_micros(1), MANY)

    @pytest.mark.parametrize("kind", ["parquet", "csv", pytest.param("delta", marks=pytest.mark.slow)])
    def test_no_bucket_no_right_no_server(self, s3_url: str, kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        def opened(path: str) -> SourceReader:
            context = SourceContext(tmp_path, utc_now, pytest.fail, {"region": "us-east-1"})
            if kind == "delta":
                return DeltaReader.open(DeltaSource("s", path, **TIMES), context)
            if kind == "csv":
                return CSVReader.open(CSVSource("s", path, **TIMES), context)
            return ParquetReader.open(ParquetSource("s", path, **TIMES), context)

        with pytest.raises(SourceError, match=r"'s': .*s3://nosuchbucket/x.*there is no such bucket: create it, or correct"):
            opened("s3://nosuchbucket/x").schema()
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "RECOGNISED")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "RECOGNISEDTOO")
        with pytest.raises(SourceError, match=r"'s': .*s3://.*is not allowed \(answer 403.*check the credentials") as refused:
            opened(f"{s3_url}/x").schema()
        shown = "".join(traceback.format_exception(refused.value))
        assert "RECOGNISED" not in shown
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        with pytest.raises(SourceError, match=r"'s': .*s3://.*the store cannot be reached: check the endpoint"):
            opened(f"{s3_url}/x").schema()

    def test_a_delta_table_is_for_another_source(self, folder: ObjectFolder) -> None:
        url = folder.address("table").url
        write_deltalake(url, frame([(1, 1, 1)]))
        with pytest.raises(SourceError, match=r"'s': s3://.*/table is a Delta table\. Use a DeltaSource"):
            parquet(url).schema()

    def test_what_is_no_parquet(self, folder: ObjectFolder) -> None:
        for number, content in enumerate([b"", b"no", b"PAR1 and then nothing more", os.urandom(100_000)]):
            folder.write(f"{number}.parquet", content)
            with pytest.raises(SourceError, match=rf"'s': file s3://.*/{number}\.parquet could not be read"):
                parquet(f"{folder.address().url}/{number}.parquet").schema()
        put(folder, "good/1.parquet", 1)
        folder.write("good/2.parquet", b"PAR1 and then nothing more")
        span = parquet(f"{folder.address().url}/good", on_bad_file="set_aside").span(None, None, from_micros(9), MANY)
        assert span.rows == 1
        assert "2.parquet is set aside" in span.notices[0]

    @pytest.mark.parametrize(
        "path",
        [
            "s3://me:RECOGNISED@lake/x.parquet",
            "az://lake/x.parquet?sv=2024&sig=RECOGNISED",
            "s3://lake/x?X-Amz-Signature=RECOGNISED",
        ],
    )
    @pytest.mark.parametrize("kind", [ParquetSource, CSVSource, DeltaSource])
    def test_an_address_with_a_secret_is_no_definition(self, kind: Any, path: str) -> None:
        with pytest.raises(DefinitionError, match=r"path= of source 's' has a user, a password or a signature") as caught:
            kind("s", path, event_time="t")
        assert "RECOGNISED" not in str(caught.value)
        kind("s", "s3://lake/day=?/part_??.parquet", event_time="t")

    def test_the_extra_that_is_missing(self) -> None:
        code = """
import sys
sys.modules["obstore"] = None
from pathlib import Path
from featurestore.definitions.source import CSVSource
from featurestore.sources.csv import CSVReader
CSVReader(CSVSource("s", "s3://lake/x.csv", event_time="t"), Path()).schema()
"""
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert re.search(r"MissingExtraError: .*bject storage needs .*pip install 'featurestore\[object\]'", done.stderr), (
            done.stderr
        )


def test_a_project_reads_its_sources_where_its_settings_say(
    folder: ObjectFolder, seaweed: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ALLOW_HTTP", "AWS_REGION"):
        monkeypatch.delenv(name)
    options = {"endpoint_url": seaweed.url, "region": "us-east-1", "allow_http": "true"}
    folder = ObjectFolder(folder.address().url, options)
    put(folder, "data/1.parquet", 1, 2)
    source = ParquetSource("s", f"{folder.address().url}/data/*.parquet", **TIMES)
    view = type("Seen", (FeatureView,), {"__annotations__": {"x": float}}, entity=Entity("place", k=str), source=source)
    for number, (new, written) in enumerate([((3,), 3), ((), 0), ((4, 5), 2)]):
        with FeatureStore(tmp_path, project="test", storage_options=options) as store:
            if not number:
                store.apply([view])
            if new:
                put(folder, f"data/{number + 2}.parquet", *new)
            [summary] = store.materialize()
            assert summary.rows_written == written
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    secret = os.environ["AWS_SECRET_ACCESS_KEY"].encode()
    assert not [path for path in files if secret in path.read_bytes()]


def test_a_large_object_is_read_in_parts_by_the_settings(
    folder: ObjectFolder, seaweed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ALLOW_HTTP", "AWS_REGION"):
        monkeypatch.delenv(name)
    options = {"endpoint_url": seaweed.url, "region": "us-east-1", "allow_http": "true"}
    folder = ObjectFolder(folder.address().url, options)
    noise = pl.Series("noise", [os.urandom(1 << 19) for _ in range(10)])
    rows = frame([(number, number, number) for number in range(10)]).with_columns(noise)
    file = BytesIO()
    rows.write_parquet(file, row_group_size=4)
    assert file.tell() > 5 << 20
    folder.write("large[1].parquet", file.getvalue())
    source = ParquetSource("s", folder.address("large[1].parquet").url, **TIMES)
    reader = ParquetReader.open(source, SourceContext(Path(), utc_now, pytest.fail, options))
    chunks = reader.span(None, None, from_micros(100), 2).chunks
    assert len(chunks) >= 5
    assert pl.concat(reader.read(chunk) for chunk in chunks)["noise"].to_list() == rows["noise"].to_list()


def test_a_zone_that_polars_does_not_know(folder: ObjectFolder) -> None:
    times = pa.array([0, 1_000_000], pa.timestamp("us", "+05:17"))
    file = BytesIO()
    pq.write_table(pa.table({"id": [1, 2], EVENT: times, AVAILABLE: times}), file, store_schema=True)
    folder.write("zoned.parquet", file.getvalue())
    assert rows_of(parquet(folder.address("zoned.parquet").url))[EVENT].to_physical().to_list() == [0, 1_000_000]


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_an_outage_sets_no_file_aside(seaweed: Any, s3_url: str, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """The store answers the listing, and then nothing more."""
    rows = frame([(1, 10, 10)])
    folder = ObjectFolder(s3_url)
    for number in range(3):
        folder.write(f"{number}.{kind}", rows.write_parquet if kind == "parquet" else rows.write_csv)
    sources = {"parquet": (ParquetSource, ParquetReader), "csv": (CSVSource, CSVReader)}
    definition, reader = sources[kind]
    source = definition("rows", s3_url, event_time=EVENT, on_bad_file="set_aside")
    monkeypatch.setattr("featurestore.offline.object_folder._ATTEMPTS", 0)
    with s3_proxy(seaweed.url) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        proxy.fault = lambda _method, path: "none" if "list-type" in path else "overload"
        with pytest.raises(SourceError, match="the store has an error of its own"):
            pin(reader(source, Path(), utc_now), None, 100)
        proxy.fault = lambda _method, _path: "none"
        span = pin(reader(source, Path(), utc_now), None, 100)
    assert not [notice for notice in span.notices if "set aside" in notice]
