"""A project whose history is in object storage, as its users have it: what it says, keeps, copies and deletes."""

import subprocess
import sysconfig
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from featurestore import FeatureStore
from featurestore.errors import ConfigError, OfflineStoreError, RequestError
from featurestore.offline.object_folder import ObjectFolder
from tests.sales import BEGAN, sales, views
from tests.servers.s3_server import KEYS, S3Server

SALES = sales(300)
SPINE = pl.DataFrame({"shop": range(7), "t": [BEGAN + timedelta(days=1)] * 7})


def filled(root: Path, **settings: Any) -> FeatureStore:
    """A project with a run, a fold of pushes, and a push that waits."""
    root.mkdir(exist_ok=True)
    store = FeatureStore(root, project="sold", **settings)
    store.apply(views(SALES.head(100)))
    store.materialize()
    store.push("sales", SALES[100:200])
    store.materialize()
    store.push("sales", SALES[200:])
    return store


def seen(store: FeatureStore) -> tuple[Any, ...]:
    """All that may be asked of it."""
    rows = [{"shop": shop} for shop in range(7)]
    frame = store.training_frame(SPINE, ["last_sale", "takings"], time="t").sort("shop")
    served = store.online(["last_sale", "takings"], rows, at=BEGAN + timedelta(days=1)).to_dicts()
    counted = store.sql("select shop, count(*) as n, sum(price) as p from last_sale group by all order by shop")
    return frame.rows(), served, counted.rows()


def test_it_is_as_in_a_folder(s3_url: str, tmp_path: Path) -> None:
    with filled(tmp_path / "bucket", offline=s3_url) as one, filled(tmp_path / "folder") as other:
        assert seen(one) == seen(other)
        assert not list((tmp_path / "bucket").rglob("*.parquet"))
        one.admin.maintain()
        assert seen(one) == seen(other)
        findings = [finding for finding in one.admin.doctor() if finding.state != "ok" and finding.check == "history"]
        assert [finding.message for finding in findings] == [
            "its registry is a file of this machine, whose locks others do not see"
        ]
        assert one.admin.delete_project().summary
        assert list(ObjectFolder(s3_url).list("")) == []


def test_a_project_moves_to_a_bucket_and_back_by_a_backup(s3_url: str, tmp_path: Path) -> None:
    with filled(tmp_path / "local") as store:
        before = seen(store)
        made = store.admin.backup(f"{s3_url}/backup")
        assert (made.folder, made.registry) == (f"{s3_url}/backup", True)
        with pytest.raises(RequestError, match="not an empty folder"):
            store.admin.backup(f"{s3_url}/backup")
        with pytest.raises(RequestError, match="has a registry"):
            store.admin.restore(f"{s3_url}/backup")
    (tmp_path / "moved").mkdir()
    with FeatureStore(tmp_path / "moved", project="sold", offline=f"{s3_url}/history") as moved:
        with pytest.raises(RequestError, match=r"There is no backup.json in s3://"):
            moved.admin.restore(f"{s3_url}/nowhere")
        restored = moved.admin.restore(f"{s3_url}/backup")
        assert (restored.files, restored.size, restored.registry) == (made.files, made.size, True)
        moved.apply(views(SALES.head(100)))
        moved.admin.rebuild_online()
        assert seen(moved) == before
        moved.push("sales", SALES)
        moved.materialize()
        assert seen(moved) == before
        moved.admin.backup(tmp_path / "copy")
    (tmp_path / "back").mkdir()
    with FeatureStore(tmp_path / "back", project="sold") as back:
        back.admin.restore(tmp_path / "copy")
        back.apply(views(SALES.head(100)))
        back.admin.rebuild_online()
        assert seen(back) == before
    (tmp_path / "other").mkdir()
    with (
        FeatureStore(tmp_path / "other", project="bought") as other,
        pytest.raises(RequestError, match="has no history of the project 'bought'; there is sold"),
    ):
        other.admin.restore(tmp_path / "copy")


def test_the_commands(s3_url: str, tmp_path: Path) -> None:
    program = Path(sysconfig.get_path("scripts")) / "featurestore"

    def call(*words: str, cwd: Path) -> str:
        done = subprocess.run([program, *words], cwd=cwd, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    call("init", "shop", cwd=tmp_path)
    text = (tmp_path / "shop/featurestore.toml").read_text()
    (tmp_path / "shop/featurestore.toml").write_text(f'offline = "{s3_url}"\n{text}')
    for words in (("apply",), ("materialize",)):
        call(*words, cwd=tmp_path / "shop")
    assert f"restore {s3_url}-backup" in call("backup", f"{s3_url}-backup", cwd=tmp_path / "shop")
    (tmp_path / "again").mkdir()
    (tmp_path / "again/featurestore.toml").write_text('project = "shop"\n')
    assert "were restored from" in call("restore", f"{s3_url}-backup", cwd=tmp_path / "again")
    assert "600" in call("status", cwd=tmp_path / "again")


def test_a_bucket_that_keeps_versions_is_found(seaweed: S3Server, s3_url: str, tmp_path: Path) -> None:
    seaweed.keep_versions("versioned")
    with FeatureStore(tmp_path, project="sold", offline="s3://versioned/history") as store:
        [finding] = [finding for finding in store.admin.doctor() if "older versions" in finding.message]
    assert finding.state == "warning"


SECRETS = (*KEYS.values(), "WRONGKEYWRONGKEY", "wrongsecretwrongsecret")


@pytest.mark.parametrize(
    ("variables", "offline", "told"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrongsecretwrongsecret"}, "", "it is not allowed"),
        pytest.param({"AWS_ACCESS_KEY_ID": "WRONGKEYWRONGKEY"}, "", "it is not allowed", marks=pytest.mark.slow),
        pytest.param({}, "s3://there-is-none/x", "there is no such bucket", marks=pytest.mark.slow),
        pytest.param({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "", "the store cannot be reached", marks=pytest.mark.slow),
    ],
)
def test_what_is_wrong_is_said_without_a_secret(
    variables: dict[str, str], offline: str, told: str, s3_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with filled(tmp_path / "good", offline=s3_url):
        pass
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("featurestore.offline.object_folder._ATTEMPTS", 0)
    with FeatureStore(tmp_path / "good", project="sold", offline=offline or s3_url) as store:
        store.apply(views(SALES.head(100)))
        calls = {
            "push": lambda: store.push("sales", SALES),
            "train": lambda: store.training_frame(SPINE, ["last_sale"], time="t"),
            "sql": lambda: store.sql("from last_sale"),
            "backup": lambda: store.admin.backup(f"{offline or s3_url}/backup"),
        }
        for name, call in calls.items():
            with pytest.raises(OfflineStoreError, match=told) as caught:
                call()
            errors = [caught.value, caught.value.__cause__, caught.value.__context__]
            assert not [secret for secret in SECRETS if secret in f"{errors!r} {caught.value}"], name


def test_a_secret_in_the_settings_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="storage_options") as caught:
        FeatureStore(tmp_path, storage_options={"aws_secret_access_key": "hush-hush"})
    assert "hush-hush" not in str(caught.value)
    with pytest.raises(ConfigError, match="has a user, a password"), FeatureStore(tmp_path, offline="s3://me:hush@lake/x") as store:
        store.training_frame(SPINE, ["last_sale"], time="t")


def test_options_of_the_settings_reach_every_library(seaweed: S3Server, s3_url: str, tmp_path: Path, monkeypatch: Any) -> None:
    """Of the environment only the keys are left."""
    for name in set(seaweed.variables) - set(KEYS):
        monkeypatch.delenv(name)
    options = {"endpoint_url": seaweed.url, "region": "us-east-1", "allow_http": "true"}
    with filled(tmp_path / "there", offline=s3_url, storage_options=options) as one, filled(tmp_path / "here") as other:
        assert seen(one) == seen(other)
        one.admin.maintain()
        assert one.admin.doctor().is_well


@pytest.mark.slow
def test_a_bucket_and_postgresql(s3_url: str, postgres_url: str, tmp_path: Path) -> None:
    with filled(tmp_path / "there", offline=s3_url, registry=postgres_url) as one, filled(tmp_path / "here") as other:
        assert seen(one) == seen(other)
        assert not [finding for finding in one.admin.doctor() if finding.state == "error"]
