"""Streams as definitions: what they refuse, and that no secret gets into the registry."""

from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from featurestore import Entity, FeatureView, ParquetSource, StreamSource, count
from featurestore.definitions.feature_view import FeatureView as View
from featurestore.definitions.serialization import data_digest, from_json, to_json
from featurestore.errors import DefinitionError

COLUMNS = {"k": str, "x": float, "at": datetime, "id": int}


def made(url: str = "redis://localhost:6379/0", **options: Any) -> StreamSource:
    return StreamSource("orders", url, **{"topic": "orders", "columns": COLUMNS, "event_time": "at", **options})


def view_on(source: StreamSource) -> type[View]:
    class V(FeatureView, entity=Entity("thing", k=str), source=source):
        n: int = count().over("1h")

    return V


def test_it_is_read_as_it_was_written() -> None:
    batch = ParquetSource("archive", "a/*.parquet", event_time="at", event_id="id", rename={"ID": "id"})
    for source in (made(), made(payload=None, group="g", rename={"k": "key"}), made(batch=batch, event_id="id", owner="x")):
        again = from_json("source", to_json(source))
        assert again == source
        assert to_json(again) == to_json(source)


def test_the_entrys_own_id_tells_events_apart() -> None:
    assert made().event_id == "entry_id"
    assert made(event_id="id").event_id == "id"
    assert made().row_schema["entry_id"] == pl.String()
    assert made(available_time="entry_time").time_columns == ("at", "entry_time")


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"url": "kafka://h"}, "names no broker"),
        ({"url": "localhost:6379"}, "names no broker"),
        ({"url": "redis://user:secret@h"}, "holds a password"),
        ({"url": "redis://:a${B}@h"}, "holds a password"),
        ({"url": "redis://h/0?password=secret"}, "holds a password"),
        ({"url": "redis://h?ssl_password=secret"}, "holds a password"),
        ({"url": "nats://secret@h:4222"}, "holds a password"),
        ({"topic": ""}, "topic is empty"),
        ({"columns": {**COLUMNS, "x": object}}, "column 'x'"),
        ({"columns": {**COLUMNS, "entry_id": str}}, "'entry_id' is the entry's own"),
        ({"event_time": "when"}, "event_time='when' is none of its columns"),
        ({"event_time": "x"}, "event_time='x' is Float64, not a time"),
        ({"event_id": "ids"}, "Did you mean 'id'"),
        ({"rename": {"y": "z"}}, "rename= has no column 'y'"),
        ({"batch": ParquetSource("a", "a", event_time="at")}, "name its event_id"),
        ({"batch": ParquetSource("a", "a", event_time="at"), "event_id": "id"}, "must be the same"),
        ({"batch": made(), "event_id": "id"}, "is a stream as well"),
    ],
)
def test_what_is_refused(options: dict[str, Any], fault: str) -> None:
    with pytest.raises(DefinitionError, match=fault) as caught:
        made(**options)
    assert "secret" not in str(caught.value)
    assert Path(__file__).name in str(caught.value)


@pytest.mark.parametrize(
    "url", ["redis://user:${PASSWORD}@h", "redis://h?password=${P}", "nats://${TOKEN}@h", "redis://user@h", "unix:///tmp/s?db=0"]
)
def test_a_variable_may_stand_for_a_secret(url: str) -> None:
    assert made(url).url == url


def test_moving_the_broker_or_adding_a_column_does_not_recompute_a_view() -> None:
    def digest(**options: Any) -> str:
        return data_digest(view_on(made(**options)).__view__)

    same = digest()
    assert digest(url="rediss://other") == digest(group="g") == digest(columns={**COLUMNS, "more": int}) == same
    assert digest(topic="returns") != same
    assert digest(event_id="id") != same
    assert digest(payload=None) != same
