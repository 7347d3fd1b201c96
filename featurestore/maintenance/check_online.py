"""Doctor checks of the online store: lost or damaged values, and keys of other projects."""

import random
from collections.abc import Iterator

import polars as pl

from featurestore.clock import Clock, to_micros
from featurestore.definitions.catalog import AppliedView
from featurestore.maintenance.doctor import Finding
from featurestore.materialization.online_trust import Trust
from featurestore.offline.base import OfflineStore, Table
from featurestore.online.base import OnlineStore
from featurestore.online.plan import entity_keys
from featurestore.row_codec import is_whole
from featurestore.rows.total_order import EVENT
from featurestore.windows.tiles import TileLayout

_LOOKED_AT = 2_000
"""Of how many entities of a view it is looked whether their values are there and whole: other ones at each look."""


class OnlineChecks:
    """Look at the values online.

    Args:
        project: whose values.
        offline: the histories.
        online: the store.
        trust: knows what its keys begin with.
        clock: tells the present.
    """

    def __init__(self, project: str, offline: OfflineStore, online: OnlineStore, trust: Trust, clock: Clock) -> None:
        self._project = project
        self._offline = offline
        self._online = online
        self._trust = trust
        self._clock = clock

    def values(self, applied: AppliedView) -> Iterator[Finding]:
        """Look whether values of a view are missing or damaged, of entities that should have one."""
        view, where = applied.spec, f"online values: {applied.spec.name}"
        entities = self._with_values(applied)
        if entities.is_empty():
            return
        keys = entity_keys(self._trust.space(), applied, entities)
        values = self._online.read(keys)
        missing = sum(1 for value in values if value is None)
        damaged = sum(1 for key, value in zip(keys, values, strict=True) if value is not None and not is_whole(key, value))
        if not (missing or damaged):
            yield Finding(where, "ok", f"{entities.height:,} of them are there and whole")
            return
        message = " and ".join(
            [f"{count:,} {what}" for count, what in ((missing, "have no value"), (damaged, "have a damaged one")) if count]
        )
        advice = f"featurestore materialize --rebuild-online {view.name} (or: featurestore doctor --repair)"
        yield Finding(where, "error", f"of {entities.height:,} entities {message}", advice)

    def strangers(self) -> Iterator[Finding]:
        """Return of keys that other registries have in the store under the project's name, and former versions of this one."""
        mine = self._trust.space().rpartition("/")[2].encode()
        counts = self._online.marks.strangers(f"{self._project}/".encode())
        for part, count in sorted(counts.items()):
            if part != mine:
                yield self._check_stranger(part.decode(errors="replace"), count)

    def _check_stranger(self, part: str, count: int) -> Finding:
        pattern = f"{self._project}/{part}/*"
        advice = (
            "If nothing uses them any more, remove them. On a server: "
            f"redis-cli --scan --pattern '{pattern}' | xargs redis-cli unlink. "
            "Of LMDB: delete its folder, then run: featurestore materialize --rebuild-online"
        )
        message = (
            f"{count:,} keys begin with {self._project}/{part}/: another registry's, perhaps one that was lost, or those of a "
            "version of featurestore in which keys had no registry's id. Nothing here reads them"
        )
        return Finding("online store", "warning", message, advice)

    def _with_values(self, applied: AppliedView) -> pl.DataFrame:
        """Return the keys of some entities whose values a store may not have forgotten yet."""
        view = applied.spec
        keys = list(view.entity.key_names)
        snapshot = self._offline.snapshot(Table.of(self._project, applied))
        if not snapshot.buckets:
            return pl.DataFrame(schema=view.entity.keys)
        history = snapshot.buckets[random.choice(list(snapshot.buckets))]
        rows = pl.concat(history.read([*keys, EVENT])).drop_nulls()
        reach = TileLayout.of(view).reach if view.windows else view.ttl
        if reach is not None:
            now = to_micros(self._clock())
            rows = rows.filter(pl.col(EVENT).to_physical() >= now - reach)
        known = rows.select(keys).unique()
        return known.sample(min(_LOOKED_AT, known.height))
