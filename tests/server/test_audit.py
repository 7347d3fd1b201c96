"""The audit log: who asked for what and whether they might, and no value and no secret, there or in any other log."""

import json
import shutil
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pytest

from featurestore import FeatureStore
from featurestore.client.store import RemoteFeatureStore
from featurestore.errors import ConfigError
from featurestore.server.app import create_app
from featurestore.server.security.guard import make_guard
from featurestore.server.telemetry.fan_out import make_observer
from tests.server.conftest import Serve, make_project, served
from tests.server.issuers import AUDIENCE, Issuer
from tests.server.test_oidc import claims_of

MARK = "XVALUEX"


@pytest.fixture
def store(lab_folder: Path, tmp_path: Path) -> Iterator[FeatureStore]:
    folder = shutil.copytree(lab_folder, tmp_path / "lab")
    with FeatureStore(folder, access="required", audit="logs/audit.jsonl") as opened:
        yield opened


def lines_of(store: FeatureStore) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (store.settings.root / "logs" / "audit.jsonl").read_text().splitlines()]


def bearer(text: str) -> dict[str, str]:
    return {"authorization": f"Bearer {text}"}


def test_each_request_is_a_line(store: FeatureStore) -> None:
    made = store.keys.create("dashboard", ["reader service:delay_model"])
    headers = {**bearer(made.secret), "x-request-id": "r-1"}
    rows = [{"origin": "JFK", "distance": 1.0}] * 2
    app = create_app(store, guard=make_guard(store), observer=make_observer(store))
    with served(app) as url, httpx.Client(base_url=url) as client:
        client.post("/v1/online", json={"features": "delay_model", "rows": rows}, headers=headers)
        client.post("/v1/online", json={"features": ["weather.temp", "every"], "rows": rows}, headers=headers)
        client.post("/v1/push/observations", json={"rows": rows}, headers=headers)
        client.get("/v1/views", headers=bearer("fs_0_0"))
        client.post("/v1/online", content=b"{", headers=headers)
        client.get("/healthz")
    found = lines_of(store)
    keys = ("who", "key", "action", "kind", "names", "rows", "decision", "status", "route")
    assert [tuple(line[key] for key in keys) for line in found] == [
        ("dashboard", made.key.id, "read", "features", ["delay_model"], 2, "allowed", 200, "/v1/online"),
        ("dashboard", made.key.id, "read", "features", ["weather.temp", "every"], 0, "denied", 403, "/v1/online"),
        ("dashboard", made.key.id, "write", "source", ["observations"], 0, "denied", 403, "/v1/push/{source}"),
        (None, None, "read", None, [], 0, "unknown", 401, "/v1/views"),
        ("dashboard", made.key.id, "read", None, [], 0, "none", found[-1]["status"], "/v1/online"),
    ]
    assert [line["request_id"] == "r-1" for line in found] == [True, True, True, False, True]
    assert {line["client"] for line in found} == {"127.0.0.1"}
    assert all(line["time"].endswith("+00:00") for line in found)


PEOPLE = """
from featurestore import Feature, FeatureService, OnDemandView, FeatureView
import polars as pl
from definitions.lab import airport, observations

class Person(FeatureView, entity=airport, source=observations):
    temp: float | None = Feature(pii=True)
    gust: float | None

class Made(OnDemandView, inputs=[Person.temp, Person.gust]):
    twice: float | None = Feature(pl.col("temp") * 2)
    plain: float | None = Feature(pl.col("gust") * 2)

model = FeatureService("by_name", [Person.temp])
"""


@pytest.fixture(scope="module")
def people_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_project(tmp_path_factory.mktemp("audited") / "people")
    (folder / "definitions" / "people.py").write_text(PEOPLE)
    with FeatureStore(folder) as opened:
        opened.apply()
        opened.materialize()
    return folder


@pytest.fixture
def people(people_folder: Path, tmp_path: Path) -> Iterator[FeatureStore]:
    folder = shutil.copytree(people_folder, tmp_path / "people")
    with FeatureStore(folder, access="open", audit="logs/audit.jsonl") as opened:
        yield opened


def asked_of(store: FeatureStore, *bodies: Any) -> list[dict[str, Any]]:
    app = create_app(store, guard=make_guard(store), observer=make_observer(store))
    with served(app) as url, httpx.Client(base_url=url) as client:
        for body in bodies:
            assert client.post("/v1/online", json=body).status_code == 200, body
    return lines_of(store)


@pytest.mark.parametrize(
    ("features", "personal"),
    [
        (["person.temp"], True), (["person.gust"], False), (["weather.temp"], False), ("by_name", True), (["person"], True),
        (["made.twice"], True), (["made.plain"], False), (["made"], True),
        (["weather.gust"] * 120 + ["person.temp"], True),  # past the names that a line has
    ],
)  # fmt: skip
def test_k18_a_line_says_whether_personal_information_was_read(people: FeatureStore, features: Any, personal: bool) -> None:
    [line] = asked_of(people, {"features": features, "rows": [{"origin": "JFK"}]})
    assert line["personal"] is personal


def test_k18_a_line_names_entities_by_digests(people: FeatureStore) -> None:
    """Those of all forms of rows, each once; whoever knows the person finds the lines, and nobody else does."""
    jfk, lga = (people.admin.entity_digests.of("airport", {"origin": code}) for code in ("JFK", "LGA"))
    found = asked_of(
        people,
        {"features": ["person.temp", "weather.gust"], "rows": [{"origin": "JFK"}, {"origin": "LGA"}, {"origin": "JFK"}]},
        {"features": "person", "rows": {"origin": ["LGA", "JFK"]}},
        {"features": ["person.temp"], "rows": []},
    )
    assert [line["entities"] for line in found] == [[jfk, lga], [lga, jfk], []]
    assert "JFK" not in (people.settings.root / "logs" / "audit.jsonl").read_text()
    with FeatureStore(people.settings.root) as other:
        assert other.admin.entity_digests.of("airport", {"origin": "JFK"}) == jfk
    with FeatureStore(people.settings.root, project="other") as other:
        assert other.admin.entity_digests.of("airport", {"origin": "JFK"}) != jfk


def test_k18_a_key_has_one_digest_whatever_its_type(people: FeatureStore) -> None:
    of = people.admin.entity_digests.of
    same = [(42, "42", 42.0), (date(2026, 1, 2), "2026-01-02", datetime(2026, 1, 2, tzinfo=UTC)), (True, "true"), ("x", b"x")]
    for values in same:
        assert len({of("e", {"k": value}) for value in values}) == 1, values
    others = [{"k": 42}, {"k": 43}, {"j": 42}, {"a": "x", "b": "yz"}, {"a": "xy", "b": "z"}, {"a": "x"}]
    assert len({of("e", keys) for keys in others} | {of("f", {"k": 42})}) == len(others) + 1
    assert of("e", {"b": 1, "a": 2}) == of("e", {"a": 2, "b": 1})


def test_k18_many_rows_of_a_look_up_are_cut(people: FeatureStore) -> None:
    rows = [{"origin": str(number)} for number in range(1_500)]
    [line] = asked_of(people, {"features": "person", "rows": rows})
    assert (line["rows"], len(line["entities"])) == (1_500, 1_000)


def test_k18_a_frame_for_training_says_so_too(people: FeatureStore) -> None:
    app = create_app(people, guard=make_guard(people), observer=make_observer(people))
    spine = pl.DataFrame({"origin": ["JFK"], "t": [datetime(2026, 1, 1, tzinfo=UTC)]})
    with served(app) as url, RemoteFeatureStore(url) as remote:
        for features in ("person.temp", "weather.temp"):
            remote.training_frame(spine, features, time="t")
    assert [line["personal"] for line in lines_of(people) if line["route"] == "/v1/training"] == [True, False]


@pytest.mark.parametrize("header", [b"a b\xff\x80c", b"x" * 5000, b'"}\\'])
def test_a_hostile_request_id_stays_in_its_place(store: FeatureStore, header: bytes) -> None:
    made = store.keys.create("a", ["reader project"])
    with served(create_app(store, guard=make_guard(store), observer=make_observer(store))) as url:
        raw = [(b"authorization", f"Bearer {made.secret}".encode()), (b"x-request-id", header)]
        assert httpx.get(f"{url}/v1/views", headers=raw).status_code == 200
    [line] = lines_of(store)
    assert line["request_id"] == "".join(chr(each) for each in header[:200] if 32 < each < 127)


def test_a_log_that_is_moved_away_is_begun_anew(store: FeatureStore) -> None:
    made = store.keys.create("a", ["reader project"])
    folder = store.settings.root / "logs"
    app = create_app(store, guard=make_guard(store), observer=make_observer(store))
    with served(app) as url, httpx.Client(base_url=url, headers=bearer(made.secret)) as client:
        for number in range(200):
            client.get("/v1/entities")
            if number == 9:
                (folder / "audit.jsonl").rename(folder / "audit.jsonl.1")
    counts = [len((folder / name).read_text().splitlines()) for name in ("audit.jsonl.1", "audit.jsonl")]
    assert sum(counts) == 200
    assert counts[1] > 100


def test_a_log_that_cannot_be_written_is_told_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with FeatureStore(tmp_path, audit="file/audit.jsonl") as store, pytest.raises(ConfigError, match="cannot be written"):
        make_observer(store)


def test_no_log_has_a_value_or_a_secret(tmp_path: Path) -> None:
    """All that a server writes, while it is asked rightly and wrongly, by keys and tokens, with values that would be seen."""
    folder = make_project(tmp_path / "lab")
    with FeatureStore(folder) as store, Issuer() as issuer:
        store.apply()
        store.materialize()
        made = store.keys.create("dashboard", ["reader project", "writer view:weather", "writer view:recent"])
        token = issuer.sign(claims_of(issuer))
        variables = {
            "FEATURESTORE_ACCESS": "required", "FEATURESTORE_AUDIT": "stderr", "FEATURESTORE_OIDC__ISSUER": issuer.url,
            "FEATURESTORE_OIDC__AUDIENCE": AUDIENCE, "FEATURESTORE_OIDC__GRANTS": '{"ml": "reader project"}',
        }  # fmt: skip
        wrong = made.secret[:-4] + "0000"
        with Serve(folder, **variables) as server, httpx.Client(base_url=server.url) as client:
            statuses = []
            for secret in (made.secret, wrong, token, token[:-3], MARK):
                for path, body in (
                    ("/v1/online", {"features": "delay_model", "rows": [{"origin": MARK, "distance": 987654.25}]}),
                    ("/v1/online", {"features": "delay_model", "rows": [{"origin": 7, "distance": MARK}]}),
                    ("/v1/online", {"features": "delay_model", "rows": [{"origin": "JFK", "distance": -987654.25}]}),
                    ("/v1/push/observations", {"rows": [{"origin": MARK, "observed_at": MARK, "temp": 987654.25, "gust": None}]}),
                    (
                        "/v1/push/observations",
                        {"rows": [{"origin": MARK, "observed_at": "2026-02-01", "temp": 987654.25, "gust": 1}]},
                    ),
                ):
                    statuses.append(client.post(path, json=body, headers=bearer(secret)).status_code)
                client.get("/v1/views", headers=bearer(secret))
                client.get(f"/v1/views?token={secret}", headers=bearer(secret))
        assert {200, 401, 403, 422} <= set(statuses)
        told = server.told
        audit = [json.loads(line) for line in told.splitlines() if line.startswith("{")]
        assert len(audit) == 5 * 7
        for secret in (made.secret, made.secret[-64:], wrong[-64:], token, token.split(".")[2], MARK, "987654"):
            assert secret not in told, secret


@pytest.mark.slow
def test_several_workers_write_whole_lines(tmp_path: Path) -> None:
    folder = make_project(tmp_path / "lab")
    with FeatureStore(folder) as store:
        store.apply()
    with Serve(folder, "--workers", "2", FEATURESTORE_AUDIT="audit.jsonl") as server:
        for _ in range(40):
            assert httpx.get(f"{server.url}/v1/views", timeout=60).status_code == 200  # the workers may be starting
    lines = (folder / "audit.jsonl").read_text().splitlines()
    assert [json.loads(line)["who"] for line in lines] == ["anybody"] * 40
    assert (folder / "audit.jsonl").stat().st_mode & 0o007 == 0
