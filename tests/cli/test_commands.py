"""Every command on the starter project: what it prints for people, and for scripts."""

import json
import re
import time
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from featurestore import Entity, FeatureStore, FrameSource
from featurestore.clock import utc_now
from tests.cli.conftest import Invoke
from tests.projects import store_at, view_of

SERVICE = ["amount", "items", "channel", "coupon", "item_price", "spent_7d", "spent_30d", "orders", "tier", "newsletter"]


def test_init_leaves_a_readme_that_was_there(invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    told = invoke("-C", tmp_path, "init").stdout
    assert "was there" in told
    assert (tmp_path / "README.md").read_text() == "mine"
    assert (tmp_path / "definitions" / "shop.py").exists()


def test_init_names_the_project_after_its_folder(invoke: Invoke, tmp_path: Path) -> None:
    invoke("init", tmp_path / "my shop!")
    assert FeatureStore(tmp_path / "my shop!").settings.project == "my_shop"


def test_plan(invoke: Invoke, shop: Path) -> None:
    assert invoke("plan", "-C", shop, "--exit-code").stdout == "Nothing to do: 7 definitions are as applied (revision 1).\n"
    definitions = shop / "definitions" / "shop.py"
    definitions.write_text(
        definitions.read_text().replace('ttl="60d"', 'ttl="30d"').replace('unit="EUR", ge=0', 'unit="EUR", ge=1')
    )
    told = invoke("plan", "-C", shop, "--exit-code", code=2).stdout
    assert "~ view      last_order" in told
    assert "to recompute: 600 rows" in told
    found = json.loads(invoke("plan", "-C", shop, "--json").stdout)
    [change] = found["changes"]
    assert (change["name"], change["action"], change["recompute"], change["rows"]) == ("last_order", "change", True, 600)


def test_apply(invoke: Invoke, shop: Path) -> None:
    definitions = shop / "definitions" / "shop.py"
    definitions.write_text(definitions.read_text().replace('ttl="60d"', 'ttl="30d"'))
    done = json.loads(invoke("-C", shop, "apply", "--json").stdout)
    assert (done["revision"], len(done["changes"])) == (2, 1)
    assert invoke("-C", shop, "apply").stdout.startswith("Nothing to do")


@pytest.mark.parametrize("words", [(), ("--json",), ("--allow-breaking",)])
def test_nothing_is_removed_where_nobody_is_there_to_be_asked(words: tuple[str, ...], invoke: Invoke, shop: Path) -> None:
    definitions = shop / "definitions" / "shop.py"
    kept = definitions.read_text()
    definitions.unlink()
    refused = " ".join(invoke("-C", shop, "apply", *words, code=1).output.split())
    assert "nothing was applied. Say --yes" in refused
    assert "view last_order" in refused
    definitions.write_text(kept)
    assert invoke("-C", shop, "apply").output.startswith("Nothing to do")
    definitions.unlink()
    invoke("-C", shop, "apply", *words, "--yes")
    assert json.loads(invoke("-C", shop, "status", "--json").output) == []


def test_materialize(invoke: Invoke, shop: Path) -> None:
    again = json.loads(invoke("-C", shop, "materialize", "--json").stdout)
    assert {each["view"]: each["rows_written"] for each in again} == {"account": 0, "last_order": 0, "spending": 0}
    tried = json.loads(invoke("-C", shop, "materialize", "last_order", "--start", "2000-01-01", "--dry-run", "--json").stdout)
    assert [(each["view"], each["rows_read"], each["rows_written"]) for each in tried] == [("last_order", 600, 0)]


def test_rejected_rows_are_told_and_shown(invoke: Invoke, shop: Path) -> None:
    file = shop / "data" / "orders.parquet"
    orders = pl.read_parquet(file)
    wrong = orders.tail(3).with_columns(amount=pl.lit(-1.0), loaded_at=pl.lit(utc_now(), orders.schema["loaded_at"]))
    file.unlink()
    pl.concat([orders, wrong]).write_parquet(file)
    told = invoke("-C", shop, "materialize", "last_order").stdout
    assert "last_order: rejected 3: amount breaks ge=0" in told
    assert f"-C {shop} status last_order --rejected" in told.replace("\n", "")
    shown = invoke("-C", shop, "status", "last_order", "--rejected").stdout
    assert "amount breaks ge=0" in shown
    assert len(json.loads(invoke("-C", shop, "status", "last_order", "--rejected", "--json").stdout)) == 3
    assert "No row of 'account' was rejected" in invoke("-C", shop, "status", "account", "--rejected").stdout


@pytest.mark.parametrize("features", [["churn_model"], ["last_order", "account"], ["last_order.amount"]])
def test_train(invoke: Invoke, made_shop: Path, tmp_path: Path, features: list[str]) -> None:
    file = tmp_path / "frame.parquet"
    told = invoke("-C", made_shop, "train", "spine.parquet", *features, "--time", "asked_at", "--out", file).stdout
    assert f"written to {file}" in told
    expected = FeatureStore(made_shop).training_frame(made_shop / "spine.parquet", features, time="asked_at")
    assert pl.read_parquet(file).equals(expected)


def test_train_without_a_file_shows_the_head(invoke: Invoke, made_shop: Path) -> None:
    query = "select customer_id, available_time as t from last_order"
    found = json.loads(invoke("-C", made_shop, "train", query, "account", "--time", "t", "--json").stdout)
    assert found == {
        "rows": 600,
        "columns": ["customer_id", "t", "tier", "newsletter"],
        "features": ["tier", "newsletter"],
        "file": None,
    }
    assert "600 rows of 4 columns, 2 of them features" in invoke("-C", made_shop, "train", query, "account", "--time", "t").stdout


def test_train_on_corrected_history_sees_rows_before_they_were_available(invoke: Invoke, made_shop: Path, tmp_path: Path) -> None:
    """S6."""
    query = "select customer_id, min(event_time) as t, count(*) as n from last_order group by customer_id"
    known, corrected = tmp_path / "known.parquet", tmp_path / "corrected.parquet"
    invoke("-C", made_shop, "train", query, "last_order.amount", "--time", "t", "--out", known)
    invoke("-C", made_shop, "train", query, "last_order.amount", "--time", "t", "--out", corrected, "--corrected")
    assert pl.read_parquet(known)["amount"].null_count() == 100
    assert pl.read_parquet(corrected)["amount"].null_count() == 0


def test_s24_train_as_the_store_was(invoke: Invoke, made_shop: Path, tmp_path: Path) -> None:
    asked = ("-C", made_shop, "train", "spine.parquet", "account", "--time", "asked_at", "--out", tmp_path / "frame.parquet")
    invoke(*asked, "--stored-by", datetime.now(UTC).isoformat())
    expected = FeatureStore(made_shop).training_frame(made_shop / "spine.parquet", "account", time="asked_at")
    assert pl.read_parquet(tmp_path / "frame.parquet").equals(expected)
    refused = invoke(*asked, "--stored-by", "2020-01-01", code=1)
    assert "nothing is known to have been stored by 2020-01-01" in refused.stderr.replace("\n", " ")


def test_online(invoke: Invoke, made_shop: Path) -> None:
    told = invoke("-C", made_shop, "online", "churn_model", "customer_id=1001,7").stdout
    assert "customer_id=1001" in told
    assert "missing" in told
    found = json.loads(invoke("-C", made_shop, "online", "churn_model", "customer_id=1001,7,", "--json").stdout)
    assert [row["customer_id"] for row in found["rows"]] == [1001, 7, None]
    assert list(found["rows"][0])[1:] == SERVICE
    assert found["status"]["amount"] == ["present", "missing", "missing"]
    assert found["event_time"]["last_order"][0].endswith("Z")
    assert found["event_time"]["last_order"][1:] == [None, None]


def test_online_as_of_a_time(invoke: Invoke, made_shop: Path) -> None:
    found = json.loads(invoke("-C", made_shop, "online", "last_order", "customer_id=1001", "--at", "2013-01-01", "--json").stdout)
    assert found["status"]["amount"] == ["missing"]
    found = json.loads(invoke("-C", made_shop, "online", "last_order", "customer_id=1001", "--at", "2100-01-01", "--json").stdout)
    assert found["status"]["amount"] == ["expired"]


@pytest.mark.parametrize("given", [[{"customer_id": 1001, "note": "kept"}], {"customer_id": 1001, "note": "kept"}])
def test_online_with_rows_from_a_file(invoke: Invoke, made_shop: Path, tmp_path: Path, given: Any) -> None:
    file = tmp_path / "rows.json"
    file.write_text(json.dumps(given))
    [row] = json.loads(invoke("-C", made_shop, "online", "account.tier", "--rows", file, "--json").stdout)["rows"]
    assert row == {"customer_id": 1001, "note": "kept", "tier": "basic"}


ORDER = {
    "order_id": 9001, "customer_id": 1001, "ordered_at": "2013-07-01T12:00", "loaded_at": "2013-07-01T12:05",
    "amount": 7.5, "items": 3, "channel": "web", "coupon": None,
}  # fmt: skip


@pytest.mark.parametrize("ending", [".json", ".jsonl", ".csv", ".parquet"])
def test_push(invoke: Invoke, shop: Path, tmp_path: Path, ending: str) -> None:
    rows = pl.DataFrame([ORDER, {**ORDER, "items": 0}], schema_overrides={"coupon": pl.String})
    file = tmp_path / f"new{ending}"
    write = {".json": "write_json", ".jsonl": "write_ndjson", ".csv": "write_csv", ".parquet": "write_parquet"}[ending]
    getattr(rows, write)(file)
    told = invoke("push", "-C", shop, "orders", file).stdout
    assert re.search(r"^ last_order +2 +1 +0 +1 ", told, re.MULTILINE)
    assert "last_order: rejected 1: items breaks ge=1" in told
    [again] = json.loads(invoke("push", "-C", shop, "orders", file, "--view", "last_order", "--json").stdout)
    assert (again["rows_new"], again["rows_known"], again["rows_rejected"]) == (0, 1, 1)
    found = json.loads(invoke("sql", "-C", shop, "select item_price from last_order where amount = 7.5", "--json").stdout)
    assert found == [{"item_price": 2.5}]


def test_push_reads_standard_input(invoke: Invoke, shop: Path) -> None:
    lines = pl.DataFrame([ORDER]).write_ndjson()
    pushed = json.loads(invoke("push", "-C", shop, "orders", "-", "--json", stdin=lines * 2).stdout)
    assert [(each["view"], each["rows_read"], each["rows_new"]) for each in pushed] == [("last_order", 2, 1), ("spending", 2, 1)]
    told = invoke("push", "-C", shop, "orders", "-", stdin="no", code=1).stderr
    assert "Standard input is not JSON lines" in told.replace("\n", " ")


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("gone.parquet", None, "cannot be read: "),
        ("rows.parquet", "no", "is not a valid .parquet file"),
        ("rows.xls", "", "is named like no file of rows. It must end in one of .parquet"),
        ("rows.json", '[{"customer_id": 1}]', "have no column 'order_id'"),
    ],
)
def test_what_cannot_be_pushed_is_told(invoke: Invoke, shop: Path, tmp_path: Path, name: str, text: str | None, told: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    assert told in invoke("push", "-C", shop, "orders", tmp_path / name, code=1).stderr.replace("\n", "")


REQUESTED = """
from datetime import date

import polars as pl
from featurestore import Feature, OnDemandView, Request

from shop import Account


class Visit(Request):
    cart: float
    day: date = date(2013, 7, 1)


class Offer(OnDemandView, inputs=[Account.tier, Visit]):
    free_shipping: bool = Feature((pl.col("tier") == "gold") | (pl.col("cart") > 50))
    weekday: int = Feature(pl.col("day").dt.weekday())
"""


def test_what_is_computed_on_demand(invoke: Invoke, shop: Path, tmp_path: Path) -> None:
    (shop / "definitions" / "offer.py").write_text(REQUESTED)
    invoke("apply", "-C", shop, "--yes")
    asked = ("online", "-C", shop, "offer", "account.tier", "customer_id=1001,77777")
    told = invoke(*asked, "cart=60,5").stdout
    assert "customer_id=1001, cart=60.0" in told
    assert re.search(r"^ free_shipping +true +present *$", told, re.MULTILINE)
    found = json.loads(invoke(*asked, "cart=60,5", "day=2013-07-02", "--json").stdout)
    assert [row["weekday"] for row in found["rows"]] == [2, 2]
    assert found["status"]["weekday"] == ["present", "present"]
    assert "no request field 'cart'" in invoke(*asked, code=1).stderr.replace("\n", "")
    (tmp_path / "rows.json").write_text('[{"customer_id": 1001, "cart": 60, "day": "2013-07-03"}]')
    told = invoke("online", "-C", shop, "offer", "--rows", tmp_path / "rows.json", "--json").stdout
    assert json.loads(told)["rows"][0]["weekday"] == 3


def test_sql(invoke: Invoke, made_shop: Path) -> None:
    query = "select channel, count(*) as orders from last_order group by channel order by channel"
    rows = json.loads(invoke("-C", made_shop, "sql", query, "--json").stdout)
    assert [row["channel"] for row in rows] == ["app", "store", "web"]
    assert sum(row["orders"] for row in rows) == 600
    told = invoke("-C", made_shop, "sql", "select * from last_order", "--limit", "2").stdout
    assert "600 rows; the first 2 are shown" in " ".join(told.split())
    assert max(len(line) for line in told.splitlines()) <= 80


@pytest.mark.parametrize("code", [13, 27, 155])
def test_k21_no_table_says_anything_to_a_terminal(code: int, invoke: Invoke, made_shop: Path, tmp_path: Path) -> None:
    """Values and names, in each table that shows what users stored or asked with; in JSON they are escaped."""
    evil = f"chr({code}) || ']0;x'"
    file = tmp_path / "rows.json"
    file.write_text(json.dumps([{"customer_id": 1001, "evil": f"{chr(code)}]0;x"}]))
    train = "select customer_id, available_time as t, EVIL as 'e]0;x' from last_order limit 2".replace("EVIL", evil)
    for command in (
        ["sql", f"select {evil} as evil"],
        ["sql", f'select 1 as "a{chr(code)}]0;x"'],
        ["train", train, "account", "--time", "t"],
        ["online", "account", "--rows", file],
    ):
        for form in ([], ["--json"]):
            told = invoke("-C", made_shop, *command, *form).output
            assert "0;x" in told, told
            assert chr(code) not in told, (command, form)


def test_a_time_beyond_pythons_is_shown_as_a_number(invoke: Invoke, made_shop: Path) -> None:
    query = "select date '20000-01-01' as a, [date '20000-01-01'] as b, 'infinity'::timestamptz as c"
    assert "6585322" in invoke("-C", made_shop, "sql", query).stdout
    [row] = json.loads(invoke("-C", made_shop, "sql", query, "--json").stdout)
    assert row == {"a": 6585322, "b": [6585322], "c": 2**63 - 1}


def test_s1_a_naive_time_is_in_utc_wherever_the_machine_stands(
    invoke: Invoke, made_shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        assert "2026-01-01 00:00:00" in invoke("-C", made_shop, "sql", "select timestamp '2026-01-01' as a").stdout
    finally:
        monkeypatch.undo()
        time.tzset()


def test_rejected_times_beyond_pythons_are_shown(invoke: Invoke, tmp_path: Path) -> None:
    """They ended the command with a traceback, whatever other rows were rejected."""
    rows = pl.DataFrame({"k": [1], "at": [datetime(2026, 1, 1, tzinfo=UTC)], "day": [2**31 - 1]})
    source = FrameSource("s", rows.with_columns(pl.col("day").cast(pl.Int32).cast(pl.Date)), event_time="at")
    (tmp_path / "featurestore.toml").write_text('project = "test"')
    with store_at(tmp_path, utc_now) as store:
        store.apply([view_of(source, {"k": int}, {"day": date})])
        store.materialize()
    for command in (["status", "v", "--rejected"], ["runs", "show", "v/1/1"]):
        assert "day does not fit date" in invoke("-C", tmp_path, *command).stdout
        assert "infinity" in invoke("-C", tmp_path, *command, "--json").stdout


def test_json_has_no_nan(invoke: Invoke, made_shop: Path) -> None:
    told = invoke(
        "-C", made_shop, "sql", "select 'nan'::double as a, 1.5::decimal(9,2) as b, date '2013-07-01' as c", "--json"
    ).stdout
    assert json.loads(told) == [{"a": None, "b": "1.50", "c": "2013-07-01"}]


def test_status(invoke: Invoke, made_shop: Path) -> None:
    told = invoke("-C", made_shop, "status").stdout
    assert "last_order" in told
    assert "done just now" in told
    standing = json.loads(invoke("-C", made_shop, "status", "--json").stdout)
    assert {view["view"]: view["last_run"]["state"] for view in standing} == {
        "account": "done",
        "last_order": "done",
        "spending": "done",
    }


def test_status_of_a_view(invoke: Invoke, made_shop: Path) -> None:
    told = invoke("-C", made_shop, "status", "last_order").stdout
    assert "last_order version 1 · customer (customer_id: Int64) from orders" in told
    assert "ge=1 le=100" in told
    [status] = json.loads(invoke("-C", made_shop, "status", "last_order", "--json").stdout)
    assert status["view"] == "last_order"
    assert status.keys() == json.loads(invoke("-C", made_shop, "status", "--json").stdout)[0].keys()
    [run] = json.loads(invoke("-C", made_shop, "runs", "--view", "last_order", "--json").stdout)
    assert (run["rows_read"], run["rows_written"], run["state"]) == (600, 600, "done")


def test_status_tells_what_runs_noticed_of_a_source(invoke: Invoke, shop: Path) -> None:
    path = shop / "data" / "accounts.parquet"
    pl.read_parquet(path)[1:].write_parquet(path)
    invoke("-C", shop, "materialize", "account")
    words = "account, run 2: Source 'accounts': "
    assert words in invoke("-C", shop, "status").stdout
    assert words in invoke("-C", shop, "status", "account").stdout
    assert words not in invoke("-C", shop, "status", "last_order").stdout
    noticed = {view["view"]: view["notices"] for view in json.loads(invoke("-C", shop, "status", "--json").stdout)}
    assert [len(each) for each in noticed.values()] == [1, 0, 0]
    assert "rows fewer" in noticed["account"][0]


def test_status_checks_what_is_promised(invoke: Invoke, shop: Path) -> None:
    invoke("-C", shop, "status", "--check")
    definitions = shop / "definitions" / "shop.py"
    definitions.write_text(definitions.read_text().replace('ttl="60d"', 'ttl="60d", freshness="1ms"'))
    invoke("-C", shop, "apply", "--yes")
    told = invoke("-C", shop, "status", "--check", code=1)
    assert "last_order: the latest event is" in told.stdout
    assert "and the view promises 1ms" in told.stdout


def test_runs(invoke: Invoke, made_shop: Path) -> None:
    told = invoke("-C", made_shop, "runs").stdout
    assert "spending/1/1" in told
    found = json.loads(invoke("-C", made_shop, "runs", "--view", "last_order", "--json").stdout)
    assert [(each["id"], each["rows_written"]) for each in found] == [("last_order/1/1", 600)]
    assert "There are no such runs" in invoke("-C", made_shop, "runs", "--state", "failed").stdout
    invoke("-C", made_shop, "runs", "--state", "over", code=2)
    assert "1 chunk: read 600, written 600" in invoke("-C", made_shop, "runs", "show", "last_order/1/1").stdout
    assert json.loads(invoke("-C", made_shop, "runs", "show", "last_order/1/1", "--json").stdout)["rejected"] == []
    assert "Did you mean 'last_order/1/1'" in invoke("-C", made_shop, "runs", "show", "last_order/1/2", code=1).stderr


def test_before_anything_is_applied(invoke: Invoke, tmp_path: Path) -> None:
    invoke("init", tmp_path / "shop")
    assert "featurestore -C" in invoke("-C", tmp_path / "shop", "status").stdout
    assert "There are no views to materialize" in invoke("-C", tmp_path / "shop", "materialize").stdout


def test_an_empty_project_is_settings_and_a_folder(tmp_path: Path, invoke: Invoke) -> None:
    invoke("init", "--empty", tmp_path / "fraud")
    assert sorted(path.name for path in (tmp_path / "fraud").iterdir()) == [".gitignore", "definitions", "featurestore.toml"]
    assert "No views are applied in project 'fraud'" in " ".join(invoke("-C", tmp_path / "fraud", "status").stdout.split())


def test_a_project_that_is_not_named_is_told_which_there_are(shop: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEATURESTORE_PROJECT", "nobodys")
    for command in ("status", "list"):
        shown = " ".join(invoke("-C", shop, command).stdout.split())
        assert "No views are applied in project 'nobodys'" in shown
        assert "This registry has other projects: shop. Name one: FEATURESTORE_PROJECT=shop" in shown


def test_a_project_that_a_notebook_made_is_opened(tmp_path: Path, invoke: Invoke) -> None:
    with FeatureStore(tmp_path, project="default") as store:
        store.apply([Entity("airport", origin=str)])
    assert "airport" in invoke("-C", tmp_path, "list", "entities").stdout


def test_faults_are_json_too(shop: Path, invoke: Invoke) -> None:
    (shop / "definitions" / "more.py").write_text("from featurestore import Entity\n\nEntity('x', k=float)\n")
    [fault] = json.loads(invoke("-C", shop, "plan", "--json", code=1).stdout)["faults"]
    assert (fault["line"], Path(fault["file"]).name) == (3, "more.py")
    assert "join key 'k'" in fault["message"]
