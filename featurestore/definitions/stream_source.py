"""Stream sources: events that arrive one by one from a broker."""

import re
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import polars as pl

from featurestore import plugins
from featurestore.definitions.definition_errors import report
from featurestore.definitions.source import Source
from featurestore.dtypes import as_dtype
from featurestore.errors import DefinitionError, did_you_mean
from featurestore.instants import INSTANT

ENTRY_ID = "entry_id"
"""The column with an entry's own id in its stream, as text."""
ENTRY_TIME = "entry_time"
"""The column that tells when an entry came into its stream."""

_VARIABLE = re.compile(r"\$\{\w+\}")


@dataclass(frozen=True)
class StreamSource(Source):
    """Events of a stream, which ``featurestore stream`` pushes into the views on it as they arrive.

    A row is what an entry of the stream says, and two columns more where there is no ``batch``: ``entry_id``, the entry's own id
    in the stream, and ``entry_time``, when it came into the stream. The id is the event id unless another column is named, so an
    entry that is delivered twice counts once (S9); the time makes a good ``available_time``.

    Args:
        url: where the broker is: ``redis://``, ``rediss://`` or ``unix://`` for Redis Streams, ``nats://`` or ``tls://`` for NATS
            JetStream. A password or a token stands in a variable: ``redis://:${REDIS_PASSWORD}@host:6379/0``.
        topic: the stream's key in Redis; the subject in NATS, which a JetStream stream must have.
        columns: the type of each column, by its name in the stream. Others that an entry has are passed over.
        payload: the field of an entry that holds the row as a JSON object; None where each field is a column, as text. The
            body of a NATS message is its field ``payload``.
        group: what shares the entries among its workers, and remembers how far they are; empty for ``project.name``.
        batch: the source that history is read from: ``materialize`` reads it, and backfills do. It has the same columns and
            times, and its rows the same event ids, so that an event that comes by both ways counts once. Without it,
            ``materialize`` finds nothing to read.

    Example:
        >>> from datetime import datetime
        >>> orders = StreamSource(
        ...     "orders",
        ...     "redis://localhost:6379/0",
        ...     topic="orders",
        ...     event_time="ordered_at",
        ...     columns={"user": str, "amount": float, "ordered_at": datetime},
        ...     available_time="entry_time",
        ... )
        >>> orders.event_id
        'entry_id'
    """

    url: str
    _: KW_ONLY
    topic: str
    columns: Mapping[str, Any]
    payload: str | None = "payload"
    group: str = ""
    batch: Source | None = None

    __hash__ = Source.__hash__

    def __post_init__(self) -> None:
        if self.event_id is None and self.batch is None:
            object.__setattr__(self, "event_id", ENTRY_ID)
        super().__post_init__()
        types: dict[str, pl.DataType] = {}
        problems = [] if self.topic else ["topic is empty; name the stream's key or subject."]
        for column, given in self.columns.items():
            try:
                types[column] = as_dtype(given)
            except DefinitionError as error:
                problems.append(f"column {column!r}: {error.problem}")
        object.__setattr__(self, "columns", types)
        problems += [*self._of_url(), *self._of_columns(), *self._of_batch()]
        report([DefinitionError(f"stream source {self.name!r}: {problem}", self.place) for problem in problems])

    @property
    def row_schema(self) -> dict[str, pl.DataType]:
        """The columns of a row as the stream has them, before ``rename=``: those declared, and the entry's own."""
        own: dict[str, pl.DataType] = {} if self.batch is not None else {ENTRY_ID: pl.String(), ENTRY_TIME: INSTANT}
        return {**self.columns, **own}

    def without_words(self) -> Source:
        """See ``Source.without_words``.

        Where the broker is says nothing of the rows either, nor who shares them, nor which other columns there are.
        """
        named = {*self.time_columns, self.event_id, *self.rename.values()}
        columns = {name: dtype for name, dtype in self.columns.items() if self.rename.get(name, name) in named}
        batch = None if self.batch is None else self.batch.without_words()
        return replace(self, description="", owner="", url="redis://", group="", columns=columns, batch=batch)

    def _of_url(self) -> list[str]:
        scheme, sign, rest = self.url.partition("://")
        if not sign or plugins.find(plugins.STREAMS, scheme) is None:
            return [f"its url names no broker, {scheme}{sign}…: {plugins.unknown(plugins.STREAMS, scheme)}"]
        user, at, _ = re.split(r"[/?]", rest, maxsplit=1)[0].rpartition("@")
        name, colon, secret = user.partition(":")
        if at and not colon and scheme in ("nats", "tls"):
            secret = name  # a token
        secrets = [secret, *(value for key, value in parse_qsl(urlsplit(self.url).query) if "password" in key)]
        if any(_VARIABLE.sub("", part) for part in secrets):
            # NOTE: the definition is kept in the registry and shown in plans; a secret must not get there.
            return ["its url holds a password. Put that into a variable, and write ${NAME} in its place."]
        return []

    def _of_columns(self) -> list[str]:
        problems = [
            f"column {name!r} is the entry's own; leave it out of columns=, or give it another name."
            for name in (ENTRY_ID, ENTRY_TIME)
            if name in self.columns and self.batch is None
        ]
        problems += [
            f"rename= has no column {old!r} to rename. {did_you_mean(old, self.columns)}"
            for old in self.rename
            if old not in self.columns
        ]
        schema = {self.rename.get(name, name): dtype for name, dtype in self.row_schema.items()}
        for argument, name in (
            ("event_time", self.event_time),
            ("available_time", self.available_time),
            ("event_id", self.event_id),
        ):
            if name is not None and name not in schema:
                problems.append(f"{argument}={name!r} is none of its columns. {did_you_mean(name, schema)}")
            elif name is not None and argument != "event_id" and not isinstance(schema[name], (pl.Datetime, pl.Date)):
                problems.append(f"{argument}={name!r} is {schema[name]}, not a time; declare it as datetime.")
        return problems

    def _of_batch(self) -> list[str]:
        if self.batch is None:
            return []
        if isinstance(self.batch, StreamSource):
            return ["batch= is a stream as well; name the source that has the history."]
        if self.event_id is None:
            return [
                "name its event_id, the column that tells events apart: one that comes from the stream and from batch= counts once."
            ]
        ours = (self.event_time, self.available_time, self.event_id)
        theirs = (self.batch.event_time, self.batch.available_time, self.batch.event_id)
        if ours != theirs:
            return [f"batch= has the event_time, available_time and event_id {theirs}, the stream {ours}; they must be the same."]
        return []
