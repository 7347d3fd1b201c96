"""Forgetting: erases entities from everything that a project keeps, and keeps them out.

1. **tombstones**: a keyed hash of each entity, which every writer looks at (``guarded_stores.py``).
2. **drain**: wait until what was being written is written; take the entities out of what waits for a commit.
3. **erase**: out of the histories of all data versions of all views on the entity, of removed views too, and their older files;
   out of the online store; out of what services answered.

Every step may be repeated, so an interrupted caller starts over.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import polars as pl

from featurestore.definitions.catalog import AppliedView
from featurestore.definitions.entity import Entity
from featurestore.dtypes import python_name
from featurestore.errors import NotFoundError, RequestError
from featurestore.offline.base import Eraser, FeatureLog, Table
from featurestore.online.base import OnlineStore
from featurestore.online.plan import entity_keys
from featurestore.privacy.mentions import is_of
from featurestore.privacy.tombstone_set import keys_as
from featurestore.registry.error_scrub import Remains
from featurestore.registry.tombstones import Forms, Tombstones
from featurestore.registry.write_barrier import WriteBarrier
from featurestore.reports import Column, Report
from featurestore.row_codec import key_type
from featurestore.streams.base import StreamConsumer


@dataclass(frozen=True)
class ErasedEntry:
    """What there was of entities in one place.

    Args:
        place: what it is: ``"history"``, ``"older files"``, ``"pushed"``, ``"staged"``, ``"rejected"``, ``"online"``,
            ``"feature log"``, ``"set aside"`` or ``"errors"``, texts of runs that failed.
        name: the view, with its data version where it has such, or the service or source.
        rows: how many rows or values.
    """

    place: str
    name: str
    rows: int


class ForgetReport(Report[ErasedEntry]):
    """What forgetting erased, a ``ErasedEntry`` a place in which there was something; prints as a table.

    Args:
        values: what there was, by place.
        entity: the entity's name.
        entities: how many were forgotten.
        dry_run: whether it was only counted.
        lifted: whether tombstones were taken away instead.
        notes: what these keys do not reach, and what to do about it.
    """

    def __init__(
        self,
        values: Sequence[ErasedEntry],
        entity: str,
        entities: int,
        *,
        dry_run: bool = False,
        lifted: bool = False,
        notes: Sequence[str] = (),
    ) -> None:
        super().__init__(values)
        self.entity = entity
        self.entities = entities
        self.dry_run = dry_run
        self.lifted = lifted
        self.notes = tuple(notes)

    def to_dict(self) -> dict[str, Any]:
        """Return it all in plain JSON values."""
        counts = [asdict(value) for value in self._values]
        return {"entity": self.entity, "entities": self.entities, "dry_run": self.dry_run, "lifted": self.lifted, "erased": counts,
                "notes": list(self.notes)}  # fmt: skip

    @property
    def summary(self) -> str:
        """What was done, in a sentence, and what is left to do."""
        return "\n".join([self._done(), *self.notes])

    def _done(self) -> str:
        rows = sum(value.rows for value in self._values)
        what = f"{self.entities:,} {self.entity}" + ("" if self.entities == 1 else " entities")
        if self.lifted:
            return f"{what} could come back." if self.dry_run else f"{what} may come back."
        if self.dry_run:
            return f"To forget {what}, {rows:,} rows and values would be erased."
        return f"Forgot {what}: {rows:,} rows and values are erased, and a tombstone keeps them from coming back."

    def columns(self) -> Sequence[Column[ErasedEntry]]:
        """See ``Report.columns``."""
        return [
            Column("found in" if self.dry_run else "erased from", lambda entry: entry.place, 14, style=lambda entry: "cyan"),
            Column("of", lambda entry: entry.name, 32),
            Column("rows", lambda entry: f"{entry.rows:,}", 10, is_number=True),
        ]


OpenStream = Callable[[], StreamConsumer]
"""Opens a stream, for what was set aside of it."""


@dataclass(frozen=True)
class ErasablePlaces:
    """Where entities are erased, beside the registry.

    Args:
        eraser: erases from the offline store.
        online: the online store.
        space: returns what the keys online begin with.
        feature_log: what services answered.
        streams: opens the stream of each source that is one, for its dead letters.
        remains: what errors of runs may say of entities.
    """

    eraser: Eraser
    online: OnlineStore
    space: Callable[[], str]
    feature_log: FeatureLog
    streams: Mapping[str, OpenStream]
    remains: Remains


class Forgetter:
    """Forget entities.

    Args:
        project: the project.
        tombstones: the project's tombstones.
        barrier: what all writes share.
        places: where entities are erased.
    """

    def __init__(self, project: str, tombstones: Tombstones, barrier: WriteBarrier, places: ErasablePlaces) -> None:
        self._project = project
        self._tombstones = tombstones
        self._barrier = barrier
        self._places = places

    def forget(self, name: str, given: Any, *, dry_run: bool, new_secret: bool = False) -> ForgetReport:
        """Erase entities wherever they are.

        Args:
            name: the entity's name, or one that it had.
            given: the join keys of one, as a mapping, or of several, as a list of mappings; or keys that it had.
            dry_run: count only, and lay no tombstones.
            new_secret: give up the tombstones whose secret is lost.

        Raises:
            NotFoundError: no view, present or past, has such an entity.
            RequestError: a key is missing, unknown, null or of the wrong type.
            StoreError: a store cannot be reached, or something would not be erased; repeating it completes it.
        """
        known = Forms(self._tombstones)
        forms = _forms(name, known)
        entities = entities_of(name, forms, given)
        if entities.is_empty():
            return ForgetReport((), name, 0, dry_run=dry_run)
        change = 0 if dry_run else self._tombstones.lay(name, entities, new_secret=new_secret)
        views = [entry for entry in known.views if entry.spec.entity.name in {form.name for form in forms}]
        entries = list(self._erase(known, forms, entities, views, dry_run=dry_run))
        notes = []
        if not dry_run and not self._tombstones.erased(forms, entities, change):
            notes.append(
                "A process that was writing lost the registry meanwhile, and may have written rows of them: forget them again."
            )
        erased = [entry for entry in entries if entry.rows]
        cleaned = self._tombstones.cleaned()
        left = [entry for entry in views if (entry.spec.name, entry.data_version) not in cleaned]
        return ForgetReport(erased, name, entities.height, dry_run=dry_run, notes=[*notes, *_not_reached(entities, left)])

    def forms(self, name: str) -> list[Entity]:
        """Return the forms that an entity has and had, the latest first. Raises ``NotFoundError`` where there is none."""
        return _forms(name, Forms(self._tombstones))

    def lift(self, name: str, given: Any, *, dry_run: bool = False) -> ForgetReport:
        """Take tombstones away, so that the entities may come back; report how many there were. Raises as ``forget``."""
        forms = self.forms(name)
        lifted = self._tombstones.lift(forms, entities_of(name, forms, given), dry_run=dry_run)
        return ForgetReport((), name, lifted, dry_run=dry_run, lifted=True)

    def _erase(
        self, known: Forms, forms: Sequence[Entity], entities: pl.DataFrame, views: Sequence[AppliedView], *, dry_run: bool
    ) -> Iterator[ErasedEntry]:
        tables = [(Table.of(self._project, view), _as_keyed(entities, view)) for view in views]
        kept = [(table, keys) for table, keys in tables if keys is not None]
        waiting = []
        since = 0.0
        with nullcontext() if dry_run else self._barrier.exclusive():
            if not dry_run:
                since = self._places.eraser.moment(self._project)
            for table, keys in kept:
                waiting.append(self._places.eraser.erase_waiting(table, keys, dry_run=dry_run))
        for (table, keys), before in zip(kept, waiting, strict=True):
            after = self._places.eraser.erase(table, keys, since, dry_run=dry_run)
            where = f"{table.view} v{table.data_version}"
            yield ErasedEntry("history", where, after.history)
            yield ErasedEntry("older files", where, after.older)
            yield ErasedEntry("pushed", where, before.pushed)
            yield ErasedEntry("staged", where, before.staged)
            yield ErasedEntry("rejected", where, before.rejected)
        yield from self._erase_online(views, entities, dry_run=dry_run)
        yield from self._erase_beside(known, forms, entities, dry_run=dry_run)
        for name, rows in self._places.remains.clear([view.spec.name for view in views], dry_run=dry_run).items():
            yield ErasedEntry("errors", name, rows)

    def _erase_online(self, views: Sequence[AppliedView], entities: pl.DataFrame, *, dry_run: bool) -> Iterator[ErasedEntry]:
        names: dict[str, list[bytes]] = {}
        for view in views:
            keyed = _as_keyed(entities, view)
            if keyed is not None:
                # A version of before registries had ids wrote them without: values that nobody reads, but that are there.
                spaces = dict.fromkeys([self._places.space(), self._project])
                keys = [key for space in spaces for key in entity_keys(space, view, keyed)]
                names[f"{view.spec.name} v{view.data_version}"] = keys
        wanted = [key for keys in names.values() for key in keys]
        there = dict(zip(wanted, self._places.online.read(wanted), strict=True))
        if not dry_run:
            # All at once: what a store does for its disk it does once.
            self._places.online.delete(f"{self._project}/".encode(), keys=wanted)
        for name, keys in names.items():
            yield ErasedEntry("online", name, sum(1 for key in keys if there[key] is not None))

    def _erase_beside(
        self, known: Forms, forms: Sequence[Entity], entities: pl.DataFrame, *, dry_run: bool
    ) -> Iterator[ErasedEntry]:
        named = [item for item in known.columns(forms) if set(item[0]) == set(entities.columns)]
        asked = [entities.rename(dict(zip(keys, columns, strict=True))) for keys, columns in named]
        for service in self._places.feature_log.services(self._project):
            if dry_run:
                rows = self._count_log(service, asked)
            else:
                rows = sum(self._places.feature_log.delete(self._project, service, item) for item in asked)
            yield ErasedEntry("feature log", service, rows)
        for source, open_stream in self._places.streams.items():
            with closing(open_stream()) as stream:
                concerned = [item.entry for item in stream.shelf.read() if is_of(item.entry.fields, entities)]
                yield ErasedEntry(
                    "set aside", source, len(concerned) if dry_run else stream.shelf.remove([item.id for item in concerned])
                )

    def _count_log(self, service: str, keys: Sequence[pl.DataFrame]) -> int:
        answers = self._places.feature_log.read(self._project, service)
        schema = answers.collect_schema()
        concerned = pl.lit(value=False)
        for frame in keys:
            if set(frame.columns) <= set(schema):
                same = keys_as(frame, {name: schema[name] for name in frame.columns}).to_struct("same")
                concerned = concerned | pl.struct(frame.columns).is_in(same.implode())
        return int(answers.select(concerned.sum()).collect().item()) if schema else 0


def entities_of(name: str, forms: Sequence[Entity], given: Any) -> pl.DataFrame:
    """Return the join keys of entities, each once, in the order and types of the form that they are named in.

    Errors do not contain the keys' values.

    Args:
        name: the entity's name.
        forms: the forms that it has and had, the latest first.
        given: the join keys of one, as a mapping, or of several, as a list of mappings.

    Raises:
        RequestError: a key is missing, unknown, null or of the wrong type.
    """
    rows: list[Any] = [given] if isinstance(given, Mapping) else list(given) if isinstance(given, Iterable) else [given]
    shown_keys = " or ".join(dict.fromkeys(_shown_keys(form) for form in forms))
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping) or set(row) != set(rows[0]) or not any(form.keys.keys() == set(row) for form in forms):
            finding = (
                f"has {', '.join(map(str, row)) or 'no keys'}" if isinstance(row, Mapping) else f"is of type {type(row).__name__}"
            )
            raise RequestError(
                f"Row {number} {finding}. Name each {name} by exactly its join keys ({shown_keys}), all in the same ones."
            )
    fault = f"There are no keys of {name} ({shown_keys})."
    for form in forms if rows else ():
        if form.keys.keys() == set(rows[0]):
            try:
                return _typed(form, rows)
            except RequestError as error:
                fault = fault if fault.startswith("Row") else str(error)
    if rows:
        raise RequestError(fault)
    return pl.DataFrame(schema=forms[0].keys)


def _typed(form: Entity, rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    for number, row in enumerate(rows):
        for key, dtype in form.keys.items():
            value, wanted = row[key], key_type(dtype)
            if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
                raise RequestError(
                    f"Row {number}: the key {key!r} of {form.name} is of type {type(value).__name__}; it must be {wanted.__name__}."
                )
    try:
        frame = pl.DataFrame({key: pl.Series(key, [row[key] for row in rows], dtype=dtype) for key, dtype in form.keys.items()})
    except (pl.exceptions.PolarsError, OverflowError, TypeError, ValueError):
        fault = f"A key does not fit its type: {form.name} has {_shown_keys(form)}."
    else:
        return frame.unique(maintain_order=True)
    raise RequestError(fault)  # without the library's error, which would tell the key


def _shown_keys(form: Entity) -> str:
    return ", ".join(f"{key}: {python_name(dtype, nullable=False)}" for key, dtype in form.keys.items())


def _forms(name: str, known: Forms) -> list[Entity]:
    forms = known.of_entity(name)
    if not forms:
        raise NotFoundError("entity with views", name, known.names, "Only what a view is or was on is kept.")
    return forms


def _as_keyed(entities: pl.DataFrame, view: AppliedView) -> pl.DataFrame | None:
    """Return the keys in the types that a version of a view has; None where it was by other keys, or has no such values."""
    keys = view.spec.entity.keys
    if set(keys) != set(entities.columns):
        return None
    cast = keys_as(entities, keys)
    return cast if cast.height else None


def _not_reached(entities: pl.DataFrame, views: Sequence[AppliedView]) -> Iterator[str]:
    """Yield which views are by other keys than the entities were named by: what they hold of them nobody can know."""
    others: dict[tuple[str, ...], list[str]] = {}
    for view in views:
        keys = view.spec.entity.key_names
        if set(keys) != set(entities.columns):
            others.setdefault(keys, []).append(f"{view.spec.name} v{view.data_version}")
    for keys, names in others.items():
        reason = f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} by {', '.join(keys)}"
        yield f"{reason}: forget them by {'it' if len(keys) == 1 else 'these'} too."
