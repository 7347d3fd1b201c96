"""Hostile bodies: each is an error of ours for its sender, within bounds, and nobody else notices (K02, K03, K06, K07)."""

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import polars as pl
import psutil
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from featurestore import FeatureStore
from featurestore.errors import LimitError, RequestError, UnavailableError
from featurestore.server.app import create_app
from featurestore.server.decoding.decoder import Bounds
from featurestore.server.decoding.pool import Decoders, Strikes
from featurestore.server.endpoints.online import OnlineRequest
from featurestore.server.endpoints.push import PushRequest
from featurestore.server.http.content_types import ARROW, JSON, MSGPACK, PARQUET, Codec, check_shape
from featurestore.server.http.problems import Problem
from featurestore.server.limits import Limits
from tests.effort import examples
from tests.server import hostile
from tests.server.conftest import served

BOUNDS = Bounds(10_000, 256 << 20, 500)
GOOD = {"features": "weather.temp", "rows": [{"origin": "JFK"}]}


@pytest.fixture(scope="module")
def decoders() -> Iterator[Decoders]:
    made = Decoders(Limits(decoders=1))
    yield made
    made.close()


def test_what_is_sound_is_decoded_as_polars_does(decoders: Decoders) -> None:
    frame = pl.DataFrame(
        {"text": ["a", None], "number": [1, 2], "list": [["a"], []], "en": ["x", "y"], "cat": ["p", "q"], "single": [0.1, None]},
        schema_overrides={"number": pl.UInt8, "en": pl.Enum(["x", "y"]), "cat": pl.Categorical, "single": pl.Float32},
    )
    for kind in (ARROW, PARQUET):
        buffer = io.BytesIO()
        frame.write_ipc_stream(buffer, compression="zstd") if kind == ARROW else frame.write_parquet(buffer)
        found = decoders.frame(buffer.getvalue(), kind, BOUNDS, "somebody")
        assert found.schema == frame.schema
        assert found.equals(frame)


HARMLESS = {"a tensor", "nested lists"}
"""What is a frame like any other, one of them without its extension type."""


@pytest.mark.parametrize("what", hostile.FRAMES)
def test_a_hostile_frame_is_an_error_for_its_sender(decoders: Decoders, what: str) -> None:
    kind, make = hostile.FRAMES[what]
    body = make()
    before = psutil.Process().memory_info().rss
    if what in HARMLESS:
        assert decoders.frame(body, kind, BOUNDS, what).height <= 1
    else:
        with pytest.raises((LimitError, RequestError)) as caught:
            decoders.frame(body, kind, BOUNDS, what)
        assert len(str(caught.value)) < 2000
    assert psutil.Process().memory_info().rss - before < (1 << 30)
    assert decoders.frame(hostile.sound(), ARROW, BOUNDS, "somebody else").height == 2


@pytest.mark.parametrize("what", hostile.WIDENED)
def test_k02_what_grows_when_it_is_cast_is_counted_as_it_grows(what: str) -> None:
    """Neither the server nor a cast in it meets more bytes than a body may decode to."""
    body = hostile.WIDENED[what]()
    assert len(body) < 100_000
    decoders = Decoders(Limits(decoders=1))
    try:
        with pytest.raises(LimitError):
            decoders.frame(body, ARROW, BOUNDS, what)
    finally:
        decoders.close()


DICTIONARIES = pl.DataFrame(
    {"cat": ["p", "q", None], "en": ["x", "y", "x"], "cats": [["p"], [], None], "in": [{"a": "p"}, {"a": None}, {"a": "q"}]},
    schema_overrides={
        "cat": pl.Categorical, "en": pl.Enum(["x", "y", "z"]), "cats": pl.List(pl.Categorical),
        "in": pl.Struct({"a": pl.Categorical}),
    },
)  # fmt: skip


@pytest.mark.parametrize("given", [ARROW, PARQUET])
@pytest.mark.parametrize("to_file", [False, True])
def test_dictionaries_come_back_as_they_were(decoders: Decoders, tmp_path: Path, given: str, to_file: bool) -> None:
    """With more rows than are decoded at once, of several row groups."""
    frame = pl.concat([DICTIONARIES] * 30_000)
    if given == PARQUET:
        frame = frame.drop("cats", "in")  # pyarrow does not read these of several row groups
    buffer = io.BytesIO()
    frame.write_ipc_stream(buffer) if given == ARROW else frame.write_parquet(buffer, row_group_size=50_000)
    bounds = BOUNDS._replace(rows=100_000)
    if to_file:
        found = decoders.file(buffer.getvalue(), given, bounds, "somebody", tmp_path / "rows.arrow").collect()
    else:
        found = decoders.frame(buffer.getvalue(), given, bounds, "somebody")
    assert found.schema == frame.schema
    assert found.equals(frame)


@pytest.mark.parametrize("to_file", [False, True])
def test_batches_may_have_dictionaries_of_their_own(decoders: Decoders, tmp_path: Path, to_file: bool) -> None:
    batches = [pa.record_batch({"cat": pa.array(texts).dictionary_encode()}) for texts in (["a", "b"], ["c", "a"], ["d"])]
    buffer = io.BytesIO()
    with pa.ipc.new_stream(buffer, batches[0].schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    if to_file:
        found = decoders.file(buffer.getvalue(), ARROW, BOUNDS, "somebody", tmp_path / "rows.arrow").collect()
    else:
        found = decoders.frame(buffer.getvalue(), ARROW, BOUNDS, "somebody")
    assert found["cat"].to_list() == ["a", "b", "c", "a", "d"]
    assert found.dtypes == [pl.Categorical]


def test_every_number_of_a_stream_may_lie(decoders: Decoders) -> None:
    """Lengths, offsets, counts: each in turn made very large or negative."""
    for number, body in enumerate(hostile.lying(hostile.sound())):
        try:
            decoders.frame(body, ARROW, BOUNDS, str(number))
        except (LimitError, RequestError):
            continue


@settings(max_examples=examples(300), deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32), compressed=st.booleans(), given=st.sampled_from([ARROW, PARQUET]))
def test_any_bytes_are_a_frame_or_an_error(decoders: Decoders, seed: int, compressed: bool, given: str) -> None:
    frame = pl.DataFrame({"origin": ["JFK", None], "l": [[1], []], "f": [0.5, None], "b": [True, None]})
    buffer = io.BytesIO()
    compression = "zstd" if compressed else "uncompressed"
    frame.write_ipc_stream(buffer, compression=compression) if given == ARROW else frame.write_parquet(
        buffer, compression=compression
    )
    for body in hostile.mutated(buffer.getvalue(), 3, seed):
        try:
            found = decoders.frame(body, given, BOUNDS, str(seed))
        except (LimitError, RequestError):
            continue
        assert found.height <= BOUNDS.rows


def test_whose_bodies_end_decoders_is_not_decoded_for_a_while() -> None:
    strikes = Strikes()
    for _ in range(2):
        strikes.count("a")
        strikes.check("a")
    strikes.count("a")
    with pytest.raises(LimitError, match="ended the server's decoder") as caught:
        strikes.check("a")
    assert caught.value.limit == "decoder"
    strikes.check("b")


def test_a_decoder_that_dies_is_429_after_three_times_while_json_goes_on(lab: FeatureStore) -> None:
    """With so little memory that each frame is too much."""
    tight = lab.settings.replace(server={"decoder_memory_mib": 1.0})
    spine = io.BytesIO()
    pl.select(origin=pl.repeat("JFK", 200_000), event_time=pl.repeat(0, 200_000).cast(pl.Datetime("us", "UTC"))).write_ipc_stream(
        spine
    )
    with served(create_app(lab, tight)) as url, httpx.Client(base_url=url, timeout=60) as client:
        sent = {"params": {"features": "weather.temp"}, "content": spine.getvalue(), "headers": {"content-type": ARROW}}
        answers = [client.post("/v1/training", **sent) for _ in range(4)]
        assert [answer.status_code for answer in answers] == [413, 413, 413, 429], answers[0].text
        assert answers[-1].headers["retry-after"] == "60"
        assert answers[-1].json()["type"] == "urn:featurestore:problem:decoder"
        assert client.post("/v1/online", json=GOOD).status_code == 200


def test_a_decoder_that_was_killed_is_replaced(lab: FeatureStore, decoders: Decoders) -> None:
    decoders.frame(hostile.sound(), ARROW, BOUNDS, "somebody")
    for child in psutil.Process().children():
        if "decoding.py" in " ".join(child.cmdline()):
            os.kill(child.pid, 9)
            psutil.wait_procs([child], 10)
    for _ in range(2):
        try:
            assert decoders.frame(hostile.sound(), ARROW, BOUNDS, "somebody").height == 2
            break
        except UnavailableError:
            continue


@pytest.mark.parametrize("what", hostile.TEXTS)
@pytest.mark.parametrize("push", [False, True], ids=["look-up", "push"])
def test_a_hostile_text_is_refused_before_work_is_done_for_it(what: str, push: bool) -> None:
    """None of them comes to where rows are worked on, but for what is small."""
    kind, make = hostile.TEXTS[what]
    body = hostile.pushed(make()) if push else make()
    limits = Limits()
    codec: Any = Codec(PushRequest) if push else Codec(OnlineRequest)

    def decode() -> None:
        check_shape(codec.decode(body, kind, limits.values).rows, limits)

    if what in SMALL_ENOUGH:
        decode()
        return
    with pytest.raises((Problem, LimitError, RequestError)) as caught:
        decode()
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize("what", ["very many names", "very many names and objects", "very many names in a column",
                                  "very many names of MessagePack", "empty lists of MessagePack in little"])  # fmt: skip
def test_k06_very_many_names_are_refused_before_objects_are_made_of_them(what: str) -> None:
    """Making them holds all threads up for seconds; counting them does not."""
    kind, make = hostile.TEXTS[what]
    with pytest.raises(LimitError) as caught:
        Codec(OnlineRequest).decode(make(), kind, Limits().values)
    assert caught.value.limit == "body"


@pytest.mark.parametrize("kind", [JSON, MSGPACK])
@pytest.mark.parametrize("columns", [False, True])
def test_many_rows_are_decoded_in_pieces_as_they_would_be_at_once(kind: str, columns: bool) -> None:
    rows: Any = [{"origin": f"é {number}", "at": "2026-01-01T00:00:00", "in": {"a:": [number, None]}} for number in range(9_000)]
    if columns:
        rows = {name: [row[name] for row in rows] for name in rows[0]}
    asked = {"features": "weather.temp", "rows": rows, "metadata": False, "at": "2026-01-01"}
    encode = msgspec.json.encode if kind == JSON else msgspec.msgpack.encode
    found = Codec(OnlineRequest).decode(encode(asked), kind, Limits().values)
    assert found == OnlineRequest(features="weather.temp", rows=rows, metadata=False, at="2026-01-01")


def test_a_wrong_row_among_many_is_told() -> None:
    rows = [{"origin": "JFK", "at": "2026-01-01T00:00:00", "more": "x"}] * 9_000
    body = msgspec.json.encode({"features": "weather.temp", "rows": [*rows, 7]})
    with pytest.raises(Problem, match=r"object.*int.*rows\[9000\]") as caught:
        Codec(OnlineRequest).decode(body, JSON, Limits().values)
    assert caught.value.status == 422


SMALL_ENOUGH = {"a name that is asked for", "very many that are asked for", "the same asked for", "names like those there are",
                "a long text"}  # fmt: skip
"""What is decoded, and is refused then, or is no trouble."""


@pytest.mark.parametrize("what", hostile.TEXTS)
def test_a_hostile_text_is_an_error_over_http(http: httpx.Client, what: str) -> None:
    kind, make = hostile.TEXTS[what]
    answer = http.post("/v1/online", content=make(), headers={"content-type": kind}, timeout=30)
    assert answer.status_code in (200, 400, 404, 413, 422), answer.text[:500]
    assert len(answer.content) < 20_000
    assert http.post("/v1/online", json=GOOD).status_code == 200


@settings(max_examples=examples(150), deadline=None, suppress_health_check=list(HealthCheck))
@given(
    path=st.sampled_from(["/v1/online", "/v1/training?features=weather.temp", "/v1/training", "/v1/push/no", "/v1/views", "/%00"]),
    kind=st.sampled_from([JSON, MSGPACK, ARROW, PARQUET, "text/plain", ""]),
    body=st.binary(max_size=300) | st.text(max_size=100).map(str.encode)
    | st.sampled_from([b'{"features":', b'{"rows":{}}', b'{"features":"weather","rows":{}}', b"\x80", b"\x82"]),
)  # fmt: skip
def test_any_bytes_to_any_route_are_an_error_of_ours_or_an_answer(http: httpx.Client, path: str, kind: str, body: bytes) -> None:
    answer = http.post(path, content=body, headers={"content-type": kind})
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400:
        assert answer.json()["type"].startswith("urn:featurestore:problem:")


def test_an_encoded_body_is_not_taken(http: httpx.Client) -> None:
    answer = http.post("/v1/online", content=b"\x1f\x8b", headers={"content-type": JSON, "content-encoding": "gzip"})
    assert (answer.status_code, answer.json()["type"]) == (415, "urn:featurestore:problem:media-type")


@pytest.mark.parametrize("path", ["/v1/views/", "/v1/online/", "//v1/views", "/docs/"])
def test_an_address_is_fixed_and_nothing_is_redirected(http: httpx.Client, path: str) -> None:
    """A redirect would repeat whatever Host the client says."""
    for method in ("GET", "POST"):
        answer = http.request(method, path, headers={"host": "evil.example"}, follow_redirects=False)
        assert answer.status_code in (404, 405), answer.headers
        assert "evil.example" not in str(answer.headers)


def test_suggestions_are_bounded() -> None:
    from featurestore.errors import did_you_mean

    assert "Did you mean" not in did_you_mean("w" * 8_000_000, ["weather"])
    assert len(did_you_mean("weather", (f"weather{'x' * 1000}{number}" for number in range(10**6)))) < 1000
    assert did_you_mean("wether", ["weather", *(f"n{number}" for number in range(10_000))]) == "Did you mean 'weather'?"
