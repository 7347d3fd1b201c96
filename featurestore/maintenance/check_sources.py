"""Doctor checks of sources against their histories: notices of runs, and rows left behind by a correction."""

from collections.abc import Iterator
from functools import partial

import polars as pl

from featurestore.definitions.catalog import AppliedView, Catalog
from featurestore.definitions.stream_source import StreamSource
from featurestore.maintenance.doctor import Check, Finding
from featurestore.offline.base import OfflineStore, Table
from featurestore.registry.ledger import Ledger
from featurestore.rows.total_order import AVAILABLE, EVENT


class SourceChecks:
    """What is looked at of a view and its source.

    Args:
        project: whose views.
        offline: the histories.
        ledger: the runs.
    """

    def __init__(self, project: str, offline: OfflineStore, ledger: Ledger) -> None:
        self._project = project
        self._offline = offline
        self._ledger = ledger

    def of(self, catalog: Catalog) -> Iterator[tuple[str, Check]]:
        """Yield what is looked at, each with what it is called where it cannot be looked at."""
        for name, applied in sorted(catalog.views.items()):
            yield f"source of {name}", partial(self.noticed, applied)
            yield f"corrections: {name}", partial(self.several_at_one_instant, applied)

    def noticed(self, applied: AppliedView) -> Iterator[Finding]:
        """Return what the last runs noticed of a view's source: rows taken away, files set aside, a clock that was wrong."""
        name = applied.spec.name
        notices = self._ledger.noticed(name, applied.data_version)
        if not notices:
            yield Finding(f"source of {name}", "ok", "its last runs noticed nothing unusual")
        advice = f"Read the changed source again as a new data version, or compare: featurestore rejected {name}"
        for notice, seq in notices.items():
            yield Finding(f"source of {name}", "warning", f"run {seq}: {notice}", advice)

    def several_at_one_instant(self, applied: AppliedView) -> Iterator[Finding]:
        """Look in a part of a history for keys with several rows of one instant: a row corrected in place leaves the former.

        It looks at another part each time that the history has changed.
        """
        view = applied.spec
        where = f"corrections: {view.name}"
        if view.source.event_id is not None or isinstance(view.source, StreamSource):
            yield Finding(where, "ok", "its source names an event id, by which corrections are known")
            return
        snapshot = self._offline.snapshot(Table.of(self._project, applied))
        if not snapshot.buckets:
            yield Finding(where, "ok", "the history is empty")
            return
        nodes = list(snapshot.buckets)
        keys = list(view.entity.key_names)
        history = snapshot.buckets[nodes[snapshot.version % len(nodes)]]
        rows = pl.concat(history.read([*keys, EVENT, AVAILABLE]))
        several = rows.group_by([*keys, EVENT, AVAILABLE]).len().filter(pl.col("len") > 1)
        if several.is_empty():
            yield Finding(where, "ok", f"no key has several rows of one instant, among {rows.height:,} rows looked at")
            return
        count = several.select(keys).n_unique()
        what = "all of them count" if view.windows else "the greatest is served, whichever came last"
        message = f"{count:,} keys have several rows of one instant, among {rows.height:,} rows looked at: {what}"
        advice = "Were rows corrected in place? Name an event_id= and an available_time= in the source, or order_by=."
        yield Finding(where, "warning", message, advice)
