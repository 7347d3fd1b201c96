"""A writer that loses the write barrier while it writes: an erasure does not wait for it, and is known not to be complete."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import polars as pl
import psycopg
import pytest

from featurestore import Entity, FeatureStore, FeatureView, FrameSource
from featurestore.errors import OfflineStoreError
from featurestore.offline.delta.push_log import DeltaPushLog

AT = datetime(2013, 7, 1, tzinfo=UTC)
PEOPLE = FrameSource("people", pl.DataFrame({"user_id": [1, 2], "at": [AT] * 2, "score": [0.5, 0.7]}), event_time="at")


class Scores(FeatureView, entity=Entity("user", user_id=int), source=PEOPLE):
    score: float


def later(user: int) -> pl.DataFrame:
    return PEOPLE.frame.filter(pl.col("user_id") == user).with_columns(at=pl.col("at").dt.offset_by("1h"))


def end_locks(url: str) -> None:
    """End every connection that holds an advisory lock."""
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("select pg_terminate_backend(pid) from pg_locks where locktype = 'advisory' and pid <> pg_backend_pid()")


def users(store: FeatureStore) -> list[int]:
    return sorted(store.sql("select user_id from scores")["user_id"])


@pytest.mark.parametrize("fails", [False, True])
def test_what_a_writer_without_the_barrier_wrote_is_erased_by_forgetting_again(
    fails: bool, postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    name = f"p{uuid4().hex}"
    with (
        FeatureStore(tmp_path, project=name, registry=postgres_url) as writer,
        FeatureStore(tmp_path, project=name, registry=postgres_url) as eraser,
    ):
        writer.apply([Scores])
        writer.materialize()
        append = DeltaPushLog.append

        def interrupted(log: DeltaPushLog, *given: Any, **options: Any) -> Any:
            monkeypatch.setattr(DeltaPushLog, "append", append)
            end_locks(postgres_url)
            eraser.admin.forget("user", {"user_id": 1})
            assert users(eraser) == [2]
            done = append(log, *given, **options)
            if fails:
                raise OfflineStoreError("the disk went away")
            return done

        monkeypatch.setattr(DeltaPushLog, "append", interrupted)
        if fails:
            with pytest.raises(OfflineStoreError, match="the disk went away"):
                writer.push(PEOPLE, later(1))
        else:
            writer.push(PEOPLE, later(1))
        assert "The lock 'writes' was lost while it was needed" in caplog.text
        assert users(eraser) == [1, 2]
        finding = next(finding for finding in eraser.admin.doctor() if finding.check == "forget: user")
        assert (finding.state, finding.message) == ("error", "forgetting 1 of them was interrupted")
        eraser.admin.forget("user", {"user_id": 1})
        assert users(eraser) == [2]
        assert not [finding for finding in eraser.admin.doctor() if finding.check == "forget: user"]
        writer.push(PEOPLE, later(1))
        assert users(eraser) == [2]


def test_a_lost_barrier_without_an_erasure_is_nothing_to_a_writer(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FeatureStore(tmp_path, project=f"p{uuid4().hex}", registry=postgres_url) as store:
        store.apply([Scores])
        store.materialize()
        append = DeltaPushLog.append

        def interrupted(log: DeltaPushLog, *given: Any, **options: Any) -> Any:
            end_locks(postgres_url)
            return append(log, *given, **options)

        monkeypatch.setattr(DeltaPushLog, "append", interrupted)
        store.push(PEOPLE, later(1))
        assert users(store) == [1, 1, 2]
        assert not [finding for finding in store.admin.doctor() if finding.check.startswith("forget")]
