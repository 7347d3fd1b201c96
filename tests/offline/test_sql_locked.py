"""SQL over the history reads the views and nothing else: no file, no network, no setting, no variable (D18)."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from featurestore import Entity, FeatureStore, FeatureView, FrameSource
from featurestore.errors import FeatureStoreError, RequestError
from featurestore.testing import FakeClock
from tests.projects import store_at

AT = datetime(2020, 1, 1, tzinfo=UTC)


class Scores(
    FeatureView,
    entity=Entity("user", u=str),
    source=FrameSource("s", pl.DataFrame({"u": ["a"], "at": [AT], "x": [1]}), event_time="at"),
):
    x: int


OTHERS = pl.DataFrame({"secret": [1]})


@pytest.fixture(scope="module", params=["plain", "it's a folder"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FeatureStore]:
    """A store that stays as it is: whatever is asked of it, the next query finds what was there."""
    with store_at(tmp_path_factory.mktemp("locked") / request.param, FakeClock(1_600_000_000_000_000)) as opened:
        opened.apply([Scores])
        opened.materialize()
        yield opened


@pytest.mark.parametrize(
    "query",
    [
        "copy (select 1) to '{out}'",
        "select 1; copy (select 1) to '{out}'",
        "select * from read_csv('/etc/passwd')",
        "select * from '/etc/passwd'",
        "select content from read_text('/etc/passwd')",
        "select * from glob('/etc/*')",
        "select * from read_parquet('https://example.org/a.parquet')",
        "select *, (select count(*) from read_text('/etc/passwd')) from scores",
        "attach '{out}' as other",
        "install httpfs",
        "load httpfs",
        "set enable_external_access = true",
        "set lock_configuration = false",
        "export database '{out}'",
        "create table t as select 1",
        "create view scores as select 1",
        "drop view scores",
        "insert into scores values (1)",
        "select * from OTHERS",
        "select getenv('HOME') as h from read_blob('/etc/passwd')",
        "pragma database_list",
        "explain analyze copy (select 1) to '{out}'",
        "select write_blob('{out}', 'x')",
        "",
    ],
)
def test_nothing_but_the_views_is_reached(query: str, store: FeatureStore, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(FeatureStoreError):
        store.sql(query.format(out=out))
    assert not out.exists()
    assert store.sql("select x from scores").item() == 1


def test_a_spine_given_as_text_goes_the_same_way(store: FeatureStore, tmp_path: Path) -> None:
    (tmp_path / "spine.csv").write_text("u,t\na,2020-01-02\n")
    with pytest.raises(RequestError, match="reads the views"):
        store.training_frame("select u, t from read_csv('PATH')".replace("PATH", str(tmp_path / "spine.csv")), [Scores], time="t")
    frame = store.training_frame("select u, event_time + interval 1 day as t from scores", [Scores], time="t")
    assert frame["x"].to_list() == [1]


READS = (
    "from scores", "with a as (select 1 as n) select * from a", "describe scores", "explain select 1", "values (1)",
    "summarize scores",
)  # fmt: skip


@pytest.mark.parametrize("query", READS)
def test_what_reads_goes_on(query: str, store: FeatureStore) -> None:
    assert store.sql(query).height > 0
