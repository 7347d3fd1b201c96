"""Failed attempts as runs: an attempt that fails before its run begins is recorded like any failed run."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any

from featurestore.clock import Clock
from featurestore.definitions.catalog import AppliedView
from featurestore.errors import DefinitionError, RegistryError, SourceError, SourceMissingError
from featurestore.offline.base import OfflineStore, Table
from featurestore.registry.ledger import Ledger, Run
from featurestore.sources.base import Span


@contextmanager
def noting_failures(ledger: Ledger, offline: OfflineStore, table: Table, clock: Clock | None) -> Iterator[None]:
    """Make a failed run of an attempt that ends with an error of the source or the definition, unless a run has failed for it.

    A source that is not there yet is waited for; that does not count as a failed attempt.

    Args:
        ledger: the ledger.
        offline: the history.
        table: the view's.
        clock: tells the present; None for a dry run, which leaves nothing behind.
    """
    began = None if clock is None else clock()
    try:
        yield
    except (SourceError, DefinitionError) as error:
        if clock is not None and began is not None and not isinstance(error, SourceMissingError):
            _note(ledger, offline, table, str(error), began, clock())
        raise


def _note(ledger: Ledger, offline: OfflineStore, table: Table, error: str, began: datetime, now: datetime) -> None:
    with suppress(RegistryError):  # the error of the attempt says more
        latest = ledger.latest(table.view, table.data_version)
        if latest is not None:
            is_noted = latest.error == error and latest.finished_at is not None and latest.finished_at >= began
            if latest.state in ("running", "committed") or is_noted:
                return
        body = reads_nothing(ledger, table.view, table.data_version)
        number = max(offline.snapshot(table).last_run, latest.seq if latest else 0) + 1
        run = ledger.begin(table.view, table.data_version, number, body)
        if run.state == "running" and run.span == body:  # and not another process's
            ledger.update(run, state="failed", error=error, finished_at=now)


def pinned(span: Span, note: Mapping[str, Any]) -> dict[str, Any]:
    """Return the span of a run in plain JSON values, with what it shall have besides, and what is not as usual."""
    notices = {"notices": list(span.notices)} if span.notices else {}
    unfinished = {} if span.whole else {"whole": False}
    still = {} if span.moves else {"still": True}
    return {"chunks": [dict(chunk) for chunk in span.chunks], "cursor": dict(span.cursor), **still, **notices, **unfinished, **note}


def reads_nothing(ledger: Ledger, view: str, data_version: int) -> dict[str, Any]:
    """Return the span of a run that reads nothing, and leave the cursor where it is."""
    done = ledger.last_done(view, data_version)
    return {"chunks": [], "cursor": done.span["cursor"] if done else None}


def is_to_clear(ledger: Ledger, applied: AppliedView) -> bool:
    """Return whether the last run is an attempt that failed: a run that is done is to say so if there is nothing to read now."""
    latest: Run | None = ledger.latest(applied.spec.name, applied.data_version)
    return latest is not None and latest.state == "failed" and not latest.span["chunks"]
