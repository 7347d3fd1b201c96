"""Forgetting: entities are taken out of everything that a project keeps, and do not come back.

1. **tombstones**: a keyed hash of each entity, which every writer looks at (``gatekeeper.py``).
2. **drain**: wait until what was being written is written; take the entities out of what waits for a commit.
3. **erase**: out of the histories of all data versions of all views on the entity, of removed views too, and their older files;
   out of the online store; out of what services answered.

Every step may be repeated, so whoever was interrupted begins anew.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass
from json import loads
from types import MappingProxyType
from typing import Any

import polars as pl

from featurestore.codec import encode_keys, key_type
from featurestore.dtypes import python_name
from featurestore.errors import NotFoundError, RequestError
from featurestore.jobs.summary import Report
from featurestore.offline.base import Eraser, FeatureLog, Gate, Table
from featurestore.online.base import OnlineStore
from featurestore.plan.forgotten import loosely_among
from featurestore.plan.online import entity_keys
from featurestore.registry.tombstones import Tombstones
from featurestore.spec.catalog import AppliedView
from featurestore.spec.entity import Entity
from featurestore.streams.base import StreamConsumer


@dataclass(frozen=True)
class Forgotten:
    """What there was of entities in one place.

    Args:
        place: what it is: ``"history"``, ``"older files"``, ``"pushed"``, ``"staged"``, ``"rejected"``, ``"online"``,
            ``"feature log"`` or ``"set aside"``.
        name: the view, with its data version where it has such, or the service or source.
        rows: how many rows or values.
    """

    place: str
    name: str
    rows: int


class ForgetReport(Report[Forgotten]):
    """What forgetting erased, a ``Forgotten`` a place in which there was something; prints as a table.

    Args:
        values: what there was, by place.
        entity: the entity's name.
        entities: how many were forgotten.
        dry_run: whether it was only counted.
        lifted: whether tombstones were taken away instead.
    """

    def __init__(
        self, values: Sequence[Forgotten], entity: str, entities: int, *, dry_run: bool = False, lifted: bool = False
    ) -> None:
        super().__init__(values)
        self.entity = entity
        self.entities = entities
        self.dry_run = dry_run
        self.lifted = lifted

    def to_dict(self) -> dict[str, Any]:
        """Returns it all in plain JSON values."""
        counts = [asdict(value) for value in self._values]
        return {"entity": self.entity, "entities": self.entities, "dry_run": self.dry_run, "lifted": self.lifted, "erased": counts}

    @property
    def summary(self) -> str:
        """What was done, in a sentence."""
        rows = sum(value.rows for value in self._values)
        what = f"{self.entities:,} {self.entity}" + ("" if self.entities == 1 else " entities")
        if self.lifted:
            return f"{what} may come back."
        if self.dry_run:
            return f"To forget {what}, {rows:,} rows and values would be erased."
        return f"Forgot {what}: {rows:,} rows and values are erased, and a tombstone keeps them from coming back."

    def _lines(self) -> Iterator[str]:
        if self._values:
            yield f"{'found in' if self.dry_run else 'erased from':<14} {'of':<32} {'rows':>10}"
        for each in self._values:
            yield f"{each.place:<14} {each.name:<32} {each.rows:>10,}"
        yield self.summary


OpenStream = Callable[[], StreamConsumer]
"""Opens a stream, for what was set aside of it."""


class Forgetter:
    """Forgets entities.

    Args:
        project: whose.
        tombstones: the project's tombstones.
        gate: what all writes pass.
        eraser: erases from the offline store.
        online: the online store.
        feature_log: what services answered.
        streams: opens the stream of each source that is one.
    """

    def __init__(
        self,
        project: str,
        tombstones: Tombstones,
        gate: Gate,
        eraser: Eraser,
        online: OnlineStore,
        feature_log: FeatureLog,
        streams: Mapping[str, OpenStream] = MappingProxyType({}),
    ) -> None:
        self._project = project
        self._tombstones = tombstones
        self._gate = gate
        self._eraser = eraser
        self._online = online
        self._feature_log = feature_log
        self._streams = streams

    def forget(self, name: str, given: Any, *, dry_run: bool) -> ForgetReport:
        """Erases entities wherever they are.

        Args:
            name: the entity's name.
            given: the join keys of one, as a mapping, or of several, as a list of mappings.
            dry_run: count only, and lay no tombstones.

        Raises:
            NotFoundError: no view, present or past, has such an entity.
            RequestError: a key is missing, unknown, null or of the wrong type.
            StoreError: a store cannot be reached, or something would not be erased; repeating it completes it.
        """
        views = self._tombstones.tables()
        entity = _entity(name, views)
        entities = entities_of(entity, given)
        if entities.is_empty():
            return ForgetReport((), name, 0, dry_run=dry_run)
        encoded = encode_keys(entities)
        if not dry_run:
            self._tombstones.lay(name, encoded)
        found = list(self._erase(entity, entities, [each for each in views if each.spec.entity.name == name], dry_run=dry_run))
        if not dry_run:
            self._tombstones.erased(name, encoded)
        return ForgetReport([each for each in found if each.rows], name, entities.height, dry_run=dry_run)

    def entity(self, name: str) -> Entity:
        """Returns an entity as the latest view on it has it. Raises ``NotFoundError`` where no view is or was on it."""
        return _entity(name, self._tombstones.tables())

    def lift(self, name: str, given: Any) -> ForgetReport:
        """Takes tombstones away, so that the entities may come back; reports how many there were. Raises as ``forget``."""
        entity = _entity(name, self._tombstones.tables())
        lifted = self._tombstones.lift(name, encode_keys(entities_of(entity, given)))
        return ForgetReport((), name, lifted, lifted=True)

    def _erase(self, entity: Entity, entities: pl.DataFrame, views: Sequence[AppliedView], *, dry_run: bool) -> Iterator[Forgotten]:
        tables = [(Table.of(self._project, view), _as_keyed(entities, view)) for view in views]
        kept = [(table, keys) for table, keys in tables if keys is not None]
        waiting = []
        with nullcontext(0.0) if dry_run else self._gate.drained() as since:
            for table, keys in kept:
                waiting.append(self._eraser.erase_waiting(table, keys, dry_run=dry_run))
        for (table, keys), before in zip(kept, waiting, strict=True):
            after = self._eraser.erase(table, keys, since, dry_run=dry_run)
            where = f"{table.view} v{table.data_version}"
            yield Forgotten("history", where, after.history)
            yield Forgotten("older files", where, after.older)
            yield Forgotten("pushed", where, before.pushed)
            yield Forgotten("staged", where, before.staged)
            yield Forgotten("rejected", where, before.rejected)
        yield from self._erase_online(views, entities, dry_run=dry_run)
        yield from self._erase_beside(entity, entities, dry_run=dry_run)

    def _erase_online(self, views: Sequence[AppliedView], entities: pl.DataFrame, *, dry_run: bool) -> Iterator[Forgotten]:
        names: dict[str, list[bytes]] = {}
        for view in views:
            keyed = _as_keyed(entities, view)
            if keyed is not None:
                names[f"{view.spec.name} v{view.data_version}"] = entity_keys(self._project, view, keyed)
        wanted = [key for keys in names.values() for key in keys]
        there = dict(zip(wanted, self._online.read(wanted), strict=True))
        if not dry_run:
            # All at once: what a store does for its disk it does once.
            self._online.delete(f"{self._project}/".encode(), keys=wanted)
        for name, keys in names.items():
            yield Forgotten("online", name, sum(1 for key in keys if there[key] is not None))

    def _erase_beside(self, entity: Entity, entities: pl.DataFrame, *, dry_run: bool) -> Iterator[Forgotten]:
        for service in self._feature_log.services(self._project):
            names = [
                columns for joined, columns in self._tombstones.joins()[entity.name] if set(joined.keys) == set(entities.columns)
            ]
            keys = [entities.rename(dict(zip(entities.columns, columns, strict=True))) for columns in names]
            if dry_run:
                rows = self._count_log(service, keys)
            else:
                rows = sum(self._feature_log.delete(self._project, service, each) for each in keys)
            yield Forgotten("feature log", service, rows)
        for source, open_stream in self._streams.items():
            with closing(open_stream()) as stream:
                held = [each.entry for each in stream.shelf.read() if _is_of(each.entry.fields, entity, entities)]
                yield Forgotten("set aside", source, len(held) if dry_run else stream.shelf.remove([each.id for each in held]))

    def _count_log(self, service: str, keys: Sequence[pl.DataFrame]) -> int:
        answers = self._feature_log.read(self._project, service)
        schema = answers.collect_schema()
        found = pl.lit(value=False)
        for each in keys:
            if set(each.columns) <= set(schema):
                same = each.select(pl.struct(pl.col(name).cast(schema[name]) for name in each.columns).alias("same"))["same"]
                found = found | pl.struct(each.columns).is_in(same.implode())
        return int(answers.select(found.sum()).collect().item()) if schema else 0


def entities_of(entity: Entity, given: Any) -> pl.DataFrame:
    """Returns the join keys of entities, each once, in the entity's order and types.

    Raises:
        RequestError: a key is missing, unknown, null or of the wrong type.
    """
    rows: list[Any] = [given] if isinstance(given, Mapping) else list(given) if isinstance(given, Iterable) else [given]
    told = ", ".join(f"{key}: {python_name(dtype, nullable=False)}" for key, dtype in entity.keys.items())
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping) or set(row) != set(entity.keys):
            raise RequestError(f"Row {number} is {row!r}. Name each {entity.name} by exactly its join keys ({told}).")
        for key, dtype in entity.keys.items():
            value, wanted = row[key], key_type(dtype)
            if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
                raise RequestError(
                    f"Row {number}: the key {key!r} of {entity.name} is {value!r}, of type {type(value).__name__}; "
                    f"it must be {wanted.__name__}."
                )
    try:
        frame = pl.DataFrame({key: pl.Series(key, [row[key] for row in rows], dtype=dtype) for key, dtype in entity.keys.items()})
    except (pl.exceptions.PolarsError, OverflowError, TypeError, ValueError) as error:
        raise RequestError(f"These are no keys of {entity.name} ({told}): {error}") from error
    return frame.unique(maintain_order=True)


def _is_of(fields: Mapping[bytes, bytes], entity: Entity, entities: pl.DataFrame) -> bool:
    """Tells whether an entry that was set aside may be of some entities.

    Its fields, or the object in one of them, are looked at as rejected rows are. What is no row at all counts where the texts of
    all keys of an entity stand somewhere in it.
    """
    row: dict[str, Any] = {}
    whole = True
    for name, value in fields.items():
        text = value.decode("utf-8", "replace")
        row[name.decode("utf-8", "replace")] = text
        if text.lstrip().startswith("{"):
            try:
                row |= {key: str(each) for key, each in loads(text).items()}
            except ValueError:
                whole = False
    if row and loosely_among(pl.DataFrame({name: [value] for name, value in row.items()}), entity.keys, entities).any():
        return True
    texts = "\n".join(row.values())
    return not whole and any(all(str(value) in texts for value in keys) for keys in entities.iter_rows())


def _entity(name: str, views: Sequence[AppliedView]) -> Entity:
    """Returns an entity as the latest view on it has it."""
    known = {view.spec.entity.name: view.spec.entity for view in views}
    if name not in known:
        raise NotFoundError("entity with views", name, known, "Only what a view is or was on is kept.")
    return known[name]


def _as_keyed(entities: pl.DataFrame, view: AppliedView) -> pl.DataFrame | None:
    """Returns the keys in the types that a version of a view has; None where it was by other keys."""
    keys = view.spec.entity.keys
    if set(keys) != set(entities.columns):
        return None
    cast = entities.select(pl.col(key).cast(dtype, strict=False) for key, dtype in keys.items()).drop_nulls()
    return cast if cast.height else None
