"""Spines in object storage: objects, folders and globs give what the same rows in memory give."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from deltalake import write_deltalake
from polars.testing import assert_frame_equal
from typer.testing import CliRunner

from featurestore import Entity, FeatureStore, FeatureView, FrameSource
from featurestore.cli.app import app
from featurestore.errors import ConfigError, RequestError
from featurestore.offline.object_folder import ObjectFolder

START = datetime(2024, 1, 1, tzinfo=UTC)
ROWS = pl.DataFrame({"k": [f"{number % 7}" for number in range(50)], "x": [float(number) for number in range(50)]}).with_columns(
    at=START + pl.int_range(50) * timedelta(hours=1)
)
SPINE = pl.DataFrame({"k": [f"{number % 9}" for number in range(90)], "n": range(90)}).with_columns(
    t=START + (89 - pl.int_range(90)) * timedelta(hours=1)
)


class V(FeatureView, entity=Entity("e", k=str), source=FrameSource("s", ROWS, event_time="at")):
    x: float


@pytest.fixture(scope="module")
def options(seaweed: Any) -> dict[str, str]:
    return {"endpoint_url": seaweed.url, "region": "us-east-1", "allow_http": "true"}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, options: dict[str, str]) -> Iterator[FeatureStore]:
    """A store whose settings say where object storage is."""
    with FeatureStore(tmp_path_factory.mktemp("project"), project="test", storage_options=options) as opened:
        opened.apply([V])
        opened.materialize()
        yield opened


@pytest.fixture
def folder(s3_url: str, options: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> ObjectFolder:
    """The spine in three objects; the environment has the keys alone."""
    for name in ("AWS_ENDPOINT_URL", "AWS_ALLOW_HTTP", "AWS_REGION"):
        monkeypatch.delenv(name)
    folder = ObjectFolder(s3_url, options)
    for number in range(3):
        put(folder, f"spine/part-{number}.parquet", SPINE[number * 30 : number * 30 + 30])
    folder.write("spine/_manifest.json", b"{}")
    return folder


def put(folder: ObjectFolder, name: str, rows: pl.DataFrame) -> None:
    file = BytesIO()
    rows.write_parquet(file)
    folder.write(name, file.getvalue())


@pytest.mark.parametrize("path", ["spine", "spine/", "spine/*.parquet", "**/part-?.parquet"])
def test_a_spine_of_many_objects(store: FeatureStore, folder: ObjectFolder, path: str, tmp_path: Path) -> None:
    url = f"{folder.address().url}/{path}"
    expected = store.training_frame(SPINE, "v", time="t")
    assert_frame_equal(store.training_frame(url, "v", time="t"), expected)
    written = store.training_frame(url, "v", time="t", sink=tmp_path / "out.parquet")
    assert_frame_equal(written.collect(), expected)


def test_a_spine_of_one_object_whose_name_looks_like_a_glob(store: FeatureStore, folder: ObjectFolder) -> None:
    put(folder, "day=1/[a] b.parquet", SPINE[:5])
    put(folder, "day=1/a b.parquet", SPINE[5:])
    frame = store.training_frame(f"{folder.address().url}/day=1/[a] b.parquet", "v", time="t")
    assert_frame_equal(frame, store.training_frame(SPINE[:5], "v", time="t"))


def test_the_folders_of_a_spine_tell_columns(store: FeatureStore, folder: ObjectFolder, tmp_path: Path) -> None:
    for day in (1, 2):
        put(folder, f"hive/day={day}/rows.parquet", SPINE[day * 10 : day * 10 + 10])
    expected = store.training_frame(SPINE[10:30], "v", time="t")
    for sink in (None, tmp_path / "out.parquet"):
        frame = store.training_frame(f"{folder.address().url}/hive", "v", time="t", sink=sink).lazy().collect()
        assert_frame_equal(frame.drop("day"), expected)
        assert frame["day"].to_list() == [1] * 10 + [2] * 10


def test_from_the_command_line(
    store: FeatureStore, folder: ObjectFolder, options: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FEATURESTORE_STORAGE_OPTIONS", json.dumps(options))
    monkeypatch.setenv("FEATURESTORE_PROJECT", "test")
    given = ["-C", str(store.settings.root), "train", folder.address("spine").url, "v", "--time", "t", "--json"]
    answer = CliRunner().invoke(app, [*given, "--out", str(tmp_path / "out.parquet")])
    assert answer.exit_code == 0, answer.output
    assert json.loads(answer.stdout)["rows"] == 90
    assert_frame_equal(pl.read_parquet(tmp_path / "out.parquet"), store.training_frame(SPINE, "v", time="t"))


class TestMessages:
    @pytest.mark.parametrize(
        ("path", "message"),
        [
            ("none.parquet", r"is not there: there is no such object and no such folder\. Give a Parquet file"),
            ("spine/*.csv", r"is not there: there are 4 objects below s3://.*/spine/, but none of them is meant"),
            ("text", r"is not there: there are 1 objects below"),
            ("text/a.txt", r"cannot be read as Parquet: .*Give Parquet, or read another format first"),
            ("table", r"is a Delta table\. Read it first: pl\.scan_delta"),
        ],
    )
    def test_what_is_no_spine(
        self, store: FeatureStore, folder: ObjectFolder, options: dict[str, str], path: str, message: str, tmp_path: Path
    ) -> None:
        folder.write("text/a.txt", b"no Parquet")
        write_deltalake(folder.address("table").url, SPINE, storage_options=options)
        for sink in (None, tmp_path / "out.parquet"):
            with pytest.raises(RequestError, match=f"The spine 's3://.*/{path.replace('*', '.')}' {message}"):
                store.training_frame(f"{folder.address().url}/{path}", "v", time="t", sink=sink)
        assert not list(tmp_path.iterdir())

    def test_no_bucket_no_right_no_secret(self, store: FeatureStore, folder: ObjectFolder, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(RequestError, match=r"'s3://nosuchbucket/x' cannot be read: there is no such bucket"):
            store.training_frame("s3://nosuchbucket/x", "v", time="t")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "RECOGNISED")
        with pytest.raises(RequestError, match=r"cannot be read: it is not allowed \(answer 403.*check the credentials"):
            store.training_frame(folder.address("spine").url, "v", time="t")
        with pytest.raises(ConfigError, match="has a user, a password or a signature in it") as caught:
            store.training_frame("s3://me:RECOGNISED@lake/x", "v", time="t")
        assert "RECOGNISED" not in str(caught.value)
