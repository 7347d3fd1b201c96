"""Every error this package raises on purpose, in one tree.

    FeatureStoreError
    ├── ConfigError                 a setting is missing, unknown or of the wrong form
    │   └── MissingExtraError       an optional dependency is not installed
    ├── DefinitionError             a definition is wrong; knows its file and line
    │   └── DefinitionErrors        several of them, reported at once
    ├── NotFoundError               a name that nothing answers to ("did you mean …?")
    ├── NameClashError              two columns of one name in a result (S13)
    ├── RequestError                the rows, spine or arguments of a call are wrong
    ├── ClosedError                 the store was closed
    ├── RegistryError               the registry cannot be reached or read
    │   ├── UnknownAggregateError   it has a feature of an aggregate that is not imported
    │   ├── UnknownSourceError      it has a source of a kind that no installed package brings
    │   ├── ConcurrentApplyError    another apply came first
    │   ├── LeaseLostError          another process has taken over what this one works on
    │   ├── LockLostError           a lock was lost while it was needed
    │   ├── BreakingChangeError     an apply would break a service or on-demand view
    │   ├── UnprotectError          an apply would give personal features to all readers of their view
    │   └── RollbackError           there is no version to return to, or its rows are gone
    ├── SourceError                 a source is missing or cannot be read
    │   ├── SourceMissingError      there is nothing yet where it is to be
    │   └── SourceShapeError        it lacks a column that its definition names, or has one of the wrong type
    ├── MaterializeError            a run could not be completed
    │   └── RejectedRowsError       rows were rejected and the view says ``on_reject="fail"``
    ├── StoreError                  a store cannot be reached or read
    │   ├── OfflineStoreError
    │   │   └── DamagedHistoryError  a history lacks what was written to it
    │   └── OnlineStoreError
    ├── EngineError                 an engine cannot run tasks, or lost one
    ├── StreamError                 a stream's broker cannot be reached, or its stream cannot be read
    │   └── StreamRefusedError      the broker answers, and says no: there is no such stream, or it admits nobody
    └── ServerError                 a server refused a request, or cannot be reached
        ├── Unauthenticated         it does not know who asks
        ├── Forbidden               the caller may not do that
        ├── LimitError              a request is larger, or takes longer, than the server allows
        └── UnavailableError        it cannot be reached, is not ready or has too much to do: try again later

A message says what failed, what was found and what to do next. Errors of the libraries underneath are translated where
they occur, in the adapter, so a caller needs to catch nothing but this tree.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, ClassVar

from featurestore.suggestion import MOST_NAMES
from featurestore.suggestion import did_you_mean as did_you_mean  # whoever raises an error of names has it from here


class FeatureStoreError(Exception):
    """The root of the tree: catch it to catch everything the feature store raises on purpose."""

    FIELDS: ClassVar[Mapping[str, Any]] = {}
    """What it carries beside its message, each with its value where that is not known."""

    def to_wire(self) -> dict[str, Any]:
        """Return what it carries, for an answer over the network."""
        return {name: getattr(self, name) for name in self.FIELDS}

    def __reduce__(self) -> tuple[Any, ...]:
        return _as_it_was, (type(self), self.args, dict(vars(self)))

    @classmethod
    def from_wire(cls, message: str, fields: Mapping[str, Any]) -> "FeatureStoreError":
        """Return an error raised elsewhere, from its message and the result of ``to_wire`` there, if that is known.

        Example:
            >>> NotFoundError.from_wire("No feature view is named 'wether'.", {"name": "wether"}).name
            'wether'
        """
        return _as_it_was(cls, (message,), {name: fields.get(name, unknown) for name, unknown in cls.FIELDS.items()})


def _as_it_was(kind: type[FeatureStoreError], args: tuple[Any, ...], fields: Mapping[str, Any]) -> FeatureStoreError:
    error = kind.__new__(kind, *args)
    vars(error).update(fields)
    return error


class ConfigError(FeatureStoreError):
    """A setting is missing, unknown or of the wrong form."""


class MissingExtraError(ConfigError, ImportError):
    """An optional dependency is not installed.

    Args:
        what: what needs the dependency, as the user knows it (``"an online store at redis://…"``).
        extra: the extra of this package that brings it.
    """

    FIELDS: ClassVar[Mapping[str, Any]] = {"extra": ""}

    def __init__(self, what: str, extra: str) -> None:
        self.extra = extra
        super().__init__(f"{what} needs an optional dependency that is not installed. Run: pip install 'featurestore[{extra}]'")


class DefinitionError(FeatureStoreError):
    """A definition is wrong.

    Args:
        problem: what is wrong, what was found, what to do.
        place: where, as ``"definitions/flights.py:12"``; empty where there is no file (a notebook).
    """

    FIELDS: ClassVar[Mapping[str, Any]] = {"problem": "", "place": ""}

    def __init__(self, problem: str, place: str = "") -> None:
        self.problem = problem
        self.place = place
        super().__init__(f"{place}: {problem}" if place else problem)


class DefinitionErrors(DefinitionError):  # noqa: N818 - the plural says that there are several
    """Several definitions are wrong; all are reported at once.

    Args:
        faults: one error a fault, in the order of the files.
    """

    def __init__(self, faults: Sequence[DefinitionError]) -> None:
        self.faults = tuple(faults)
        count = len(self.faults)
        head = "1 fault in the definitions:" if count == 1 else f"{count} faults in the definitions:"
        lines = "\n".join(f"  - {fault}" for fault in self.faults)
        super().__init__(f"{head}\n{lines}")

    def to_wire(self) -> dict[str, Any]:
        """Return the problem and place of each fault."""
        return super().to_wire() | {"faults": [fault.to_wire() for fault in self.faults]}

    @classmethod
    def from_wire(cls, message: str, fields: Mapping[str, Any]) -> "FeatureStoreError":
        """Return the error with its faults."""
        error = super().from_wire(message, fields)
        faults = fields.get("faults", ())
        error.faults = tuple(DefinitionError(fault.get("problem", ""), fault.get("place", "")) for fault in faults)  # type: ignore[attr-defined]  # of this class
        return error


def with_article(noun: str) -> str:
    """Return a noun with its indefinite article: an int, a LazyFrame."""
    return f"{'an' if noun[:1].lower() in 'aeio' else 'a'} {noun}"


class NotFoundError(FeatureStoreError, LookupError):
    """A name that nothing answers to.

    Args:
        kind: what was looked for (``"feature view"``).
        name: the name given.
        known: the names there are; the nearest are suggested.
        hint: what to do next, when it is not a misspelling.
    """

    FIELDS: ClassVar[Mapping[str, Any]] = {"kind": "", "name": "", "suggestion": ""}

    def __init__(self, kind: str, name: str, known: Iterable[str] = (), hint: str = "") -> None:
        self.kind = kind
        self.name = name
        self.known = tuple(islice(known, MOST_NAMES))
        self.hint = hint
        self.suggestion = did_you_mean(name, self.known)
        tail = f" {hint}" if hint else ""
        super().__init__(f"No {kind} is named {name!r}. {self.suggestion}{tail}")


class NameClashError(FeatureStoreError):
    """Two columns of a result would have one name (S13).

    Args:
        column: the name.
        first: what has the name already.
        second: what would have it too.
    """

    FIELDS: ClassVar[Mapping[str, Any]] = {"column": ""}

    def __init__(self, column: str, first: str, second: str) -> None:
        self.column = column
        super().__init__(
            f"Two columns would be named {column!r}: {first} and {second}. "
            f'Rename a feature with .alias("…"), or all of a view\'s with .prefix("…_").'
        )


class RequestError(FeatureStoreError, ValueError):
    """The rows, spine or arguments of a call are wrong.

    Args:
        message: what is wrong, and what to do.
        row: the number of the row that it is about, from 0.
        column: the column that it is about.
    """

    FIELDS: ClassVar[Mapping[str, Any]] = {"row": None, "column": None}

    def __init__(self, message: str = "", *, row: int | None = None, column: str | None = None) -> None:
        self.row = row
        self.column = column
        super().__init__(message)


class ClosedError(FeatureStoreError):
    """A store was used after it was closed."""

    def __init__(self) -> None:
        super().__init__("This store is closed, so it answers nothing any more. Make a new one: with FeatureStore(…) as store: …")


class RegistryError(FeatureStoreError):
    """The registry cannot be reached, or what it holds cannot be read."""


class UnknownAggregateError(RegistryError):
    """The registry holds a feature of an aggregate that this process has not imported.

    Args:
        name: the aggregate.
    """

    FIELDS: ClassVar[Mapping[str, Any]] = {"name": ""}

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(
            f"The registry holds a feature of the aggregate {name!r}, which this process does not know. Import the module that "
            "defines it before the store is used."
        )


class UnknownSourceError(RegistryError):
    """The registry holds a source of a kind that no installed package brings.

    Args:
        kind: the kind of source.
        known: the kinds that are installed.
    """

    FIELDS: ClassVar[Mapping[str, Any]] = {"kind": ""}

    def __init__(self, kind: str, known: Iterable[str] = ()) -> None:
        self.kind = kind
        super().__init__(
            f"The registry holds a source of the kind {kind!r}, which no installed package brings. {did_you_mean(kind, known)} "
            "Install the package that declares it as an entry point in the group featurestore.sources."
        )


class ConcurrentApplyError(RegistryError):
    """Another apply came first; nothing of this one was written.

    Args:
        changed: what the other one changed, a line each.
    """

    FIELDS: ClassVar[Mapping[str, Any]] = {"changed": ()}

    def __init__(self, changed: Sequence[str]) -> None:
        self.changed = tuple(changed)
        lines = "".join(f"\n  - {line}" for line in self.changed)
        super().__init__(f"Someone else applied first, so nothing was written. Look at the plan again. They changed:{lines}")


class LeaseLostError(RegistryError):
    """Another process has taken over what this one works on; nothing that this one does counts any more.

    Args:
        name: what the lease is on.
        holder: who held it.
    """

    FIELDS: ClassVar[Mapping[str, Any]] = {"name": ""}

    def __init__(self, name: str, holder: str) -> None:
        self.name = name
        super().__init__(
            f"The lease on {name!r} is not {holder}'s any more: it was not renewed in time, or was released, and its new holder "
            "completes the work. Does this machine stand still at times, or does its clock differ from the others'?"
        )


class LockLostError(RegistryError):
    """The connection that held a lock ended before the work under it did: another process may have had it meanwhile.

    Args:
        name: what was locked.
        reason: what ended the connection.
    """

    FIELDS: ClassVar[Mapping[str, Any]] = {"name": ""}

    def __init__(self, name: str, reason: str) -> None:
        self.name = name
        super().__init__(
            f"The lock {name!r} was lost while it was needed: {reason}. What was written under it may be there or not. Repeat it: "
            "what is there already is not written twice."
        )


class BreakingChangeError(RegistryError):
    """An apply would take away what a feature service or an on-demand view uses; nothing was written.

    Args:
        broken: a line for each of them: its name and what it would miss.
    """

    FIELDS: ClassVar[Mapping[str, Any]] = {"broken": ()}

    def __init__(self, broken: Sequence[str]) -> None:
        self.broken = tuple(broken)
        lines = "".join(f"\n  - {line}" for line in self.broken)
        super().__init__(
            f"This would break what is applied, so nothing was written:{lines}\n"
            "Change that too, or say allow_breaking=True (--allow-breaking)."
        )


class UnprotectError(RegistryError):
    """An apply would make personal features, of which ``features`` has a line each, ones that are not; nothing was written."""

    FIELDS: ClassVar[Mapping[str, Any]] = {"features": ()}

    def __init__(self, features: Sequence[str]) -> None:
        self.features = tuple(features)
        lines = "".join(f"\n  - {line}" for line in self.features)
        super().__init__(
            f"This would open personal information to all readers of its view, so nothing was written:{lines}\n"
            "Mark it pii=True again, or say allow_unprotect=True (--allow-unprotect), which is recorded."
        )


class RollbackError(RegistryError):
    """A view's readers cannot be given the version asked for; they go on with what they have."""


class SourceError(FeatureStoreError):
    """A source is not there, lacks a column, changed a type, or cannot be read."""


class SourceMissingError(SourceError):
    """There is no file and no table where a source is to be; it may come to be there."""


class SourceShapeError(SourceError):
    """A source lacks a column that its definition names, or has one of the wrong type: one of the two is to be mended."""


class MaterializeError(FeatureStoreError):
    """A run could not be completed. What it had staged is kept, and the next run resumes there."""


class RejectedRowsError(MaterializeError):
    """Rows were rejected, and their view says ``on_reject="fail"``; nothing of the run was written.

    Args:
        view: the view.
        reasons: how many rows were rejected, by reason.
        kept: where the rejected rows can be looked at.
    """

    FIELDS: ClassVar[Mapping[str, Any]] = {"reasons": {}}

    def __init__(self, view: str, reasons: dict[str, int], kept: str) -> None:
        self.reasons = reasons
        shown_reasons = "; ".join(f"{count} × {reason}" for reason, count in reasons.items())
        super().__init__(
            f'{sum(reasons.values())} rows of {view!r} were rejected ({shown_reasons}) and the view says on_reject="fail", so '
            f'nothing was written. The rows are kept in {kept}: mend the source, or drop on_reject="fail" to go on without them.'
        )


class StoreError(FeatureStoreError):
    """A store cannot be reached, or what it holds cannot be read."""


class OfflineStoreError(StoreError):
    """The offline store cannot be reached, or a table in it cannot be read."""


class DamagedHistoryError(OfflineStoreError):
    """A view's history lacks what its runs or pushes have written; nothing is written over it."""


class OnlineStoreError(StoreError):
    """The online store cannot be reached, or a value in it cannot be read."""


class EngineError(FeatureStoreError):
    """An engine cannot run tasks: its cluster or the files of the work in hand cannot be reached, or a task fits nowhere."""


class StreamError(FeatureStoreError):
    """A stream's broker cannot be reached, or its stream cannot be read; trying again may do."""


class StreamRefusedError(StreamError):
    """A broker answers, and what it says stays until somebody changes something: no such stream, no such user, no such right."""


class ServerError(FeatureStoreError):
    """A feature server refused a request, cannot be reached, or sent an invalid answer."""


class Unauthenticated(ServerError):  # noqa: N818 - named as HTTP names it
    """The server does not know who asks: no token was given, or one that does not hold."""


class Forbidden(ServerError):  # noqa: N818 - named as HTTP names it
    """The caller may not do what they asked for."""


class LimitError(ServerError):
    """A request is larger, or takes longer, than the server allows.

    Args:
        message: what was found, and the limit.
        limit: which of the server's limits: ``"body"``, ``"rows"``, ``"time"`` or ``"decoder"``.
    """

    FIELDS: ClassVar[Mapping[str, Any]] = {"limit": ""}

    def __init__(self, message: str, limit: str = "") -> None:
        self.limit = limit
        super().__init__(message)


class UnavailableError(ServerError):
    """A server cannot be reached, is not ready, or has too much to do; later it may answer.

    Args:
        message: what is the matter.
        retry_after: the seconds after which to try again, where the server said so.
    """

    FIELDS: ClassVar[Mapping[str, Any]] = {"retry_after": None}

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        self.retry_after = retry_after
        super().__init__(message)
