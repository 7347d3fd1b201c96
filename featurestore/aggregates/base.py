"""The base of aggregates: the partial state kept of events, how two states merge, and the final value.

An aggregate keeps one or more *parts* of the events' inputs. A part is a few columns for one event (``lift``), and a way of
merging those of two neighbouring stretches of events into those of both (``merge``): an associative one, so any stretch
can be put together from any pieces. Training frames, online tiles and pushed rows all use these two and nothing else (S16).
A part's first column is null where there were no inputs, so null is its neutral element.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import polars as pl

from featurestore import plugins
from featurestore.dtypes import python_name
from featurestore.errors import DefinitionError

Columns = tuple[pl.Expr, ...]
"""The columns of a part, in the order of its fields."""

EVENT = "event_time"
AVAILABLE = "available_time"


@dataclass(frozen=True)
class PartialAggregate:
    """Something kept of a stretch of events.

    Args:
        name: what it is called where it is stored; parts of one name are one.
        lift: returns its columns for each event, from the input's column and its dtype; the event's own times are in
            ``EVENT`` and ``AVAILABLE``, in microseconds. The first is null where the input is.
        merge: returns the columns of two stretches together. It is not asked where one is null.
        fields: how many columns it has.
        spare: how many of them, the last ones, are null unless numbers are beyond what the ones before them can hold. They are
            not written online where they are null.
        plain: the part without the spare columns, for inputs of which no stretch needs them.
        is_plain: tells whether inputs are such: of the input's column and dtype, and of how many there are.
        of: returns the part for inputs of a dtype; None where it is the same for all.
        listed: whether its columns are lists, of which the online store keeps one a tile and a read joins them. Other
            parts are kept merged from each tile on, so that a read looks at one.
        in_order: whether ``merge`` must be given the earlier stretch first.
        compact: makes lists that have grown shorter, given the part's columns as a frame; None for never.
    """

    name: str
    lift: Callable[[pl.Expr, pl.DataType], Columns]
    merge: Callable[[Columns, Columns], Columns]
    fields: int = 1
    listed: bool = False
    in_order: bool = False
    compact: Callable[[pl.DataFrame], pl.DataFrame] | None = None
    spare: int = 0
    plain: "PartialAggregate | None" = None
    is_plain: Callable[[pl.Expr, pl.DataType, int], pl.Expr] | None = None
    of: "Callable[[pl.DataType], PartialAggregate] | None" = None

    def merged(self, first: Columns, second: Columns) -> Columns:
        """Return the columns of two stretches together, whichever of them have inputs."""
        if self.fields == 1:
            return (pl.coalesce(self.merge(first, second)[0], first[0], second[0]),)
        lacks_first, lacks_second = first[0].is_null(), second[0].is_null()
        return tuple(
            pl.when(lacks_first).then(b).when(lacks_second).then(a).otherwise(both)
            for a, b, both in zip(first, second, self.merge(first, second), strict=True)
        )


def _differ(taken: type, other: type) -> bool:
    """Return whether two classes are two aggregates, and not one that was made again: in a cell that was run twice, for one."""
    if (taken.__module__, taken.__qualname__) == (other.__module__, other.__qualname__):
        return False
    if taken.__qualname__ != other.__qualname__ or _is_ours(taken):
        return True
    # The project's own code may be imported under several names; two packages of others are two aggregates.
    packages = {_package(taken.__module__), _package(other.__module__)}
    return len(packages) == 2 and not any(package == "__main__" or package.startswith("definitions") for package in packages)


def _is_ours(cls: type) -> bool:
    return cls.__module__.startswith(__name__.rpartition(".")[0])


def _package(module: str) -> str:
    return module.partition(".")[0]


def _refuse_declared(cls: type, name: str) -> None:
    """Refuse a name that an installed package declares for another class; that need not be imported yet."""
    declared = plugins.find(plugins.AGGREGATES, name)
    if declared is not None:
        module, _, qualname = declared.value.partition(":")
        # The package may name the class where it is imported from, so the module itself need not be the one that defines it.
        if _package(module) != _package(cls.__module__) or qualname.split(" ")[0] != cls.__qualname__:
            raise DefinitionError(_clash(cls, name, str(declared)))


def _clash(cls: type, name: str, by: str) -> str:
    return (
        f"aggregate {cls.__name__}: the name {name!r} is taken by {by}. What is applied may be computed by that one: name it "
        "otherwise."
    )


class Aggregate(ABC):
    """One way of making a value out of the inputs in a window. A subclass is a frozen dataclass; its fields are its options.

    Naming one, ``class Product(Aggregate, name="product")``, puts it into the table of all aggregates; with ``name=None`` it is
    what several of them share.

    Attributes:
        name: the name under which the registry knows it.
        empty: its value over no inputs (S8).
        rounds: whether it computes with its inputs as floats (S10). Others show one of them, which stays what it is (S22).
    """

    name: ClassVar[str]
    empty: ClassVar[Any] = None
    rounds: ClassVar[bool] = False

    def __init_subclass__(cls, name: str | None, **options: Any) -> None:
        super().__init_subclass__(**options)
        if name is not None:
            taken = AGGREGATES.get(name)
            if taken is not None and _differ(taken, cls):
                raise DefinitionError(_clash(cls, name, f"{taken.__module__}.{taken.__qualname__}"))
            if not _is_ours(cls):
                _refuse_declared(cls, name)
            cls.name = name
            AGGREGATES[name] = cls

    @property
    @abstractmethod
    def parts(self) -> tuple[PartialAggregate, ...]:
        """What it keeps."""

    @abstractmethod
    def input_dtype(self, result: pl.DataType) -> pl.DataType:
        """Return the dtype its inputs are stored in, for a feature declared as ``result``.

        Raises:
            DefinitionError: it gives no such values.
        """

    @abstractmethod
    def finish(self, *columns: Any) -> Any:
        """Return the value in plain Python, of all its parts' columns; not asked where there are no inputs.

        A listed column is the tiles' lists joined. Dates and times are the integers they are stored as.
        """

    @abstractmethod
    def finished(self, *columns: pl.Expr) -> pl.Expr:
        """Return the same as an expression; it may be anything where there are no inputs."""

    def finished_frame(self, frame: pl.DataFrame) -> pl.Series:
        """Return the value of each row of a frame of its parts' columns."""
        return frame.select(self.finished(*map(pl.col, frame.columns))).to_series()

    @property
    def options(self) -> dict[str, Any]:
        """Its options by name: the fields of the dataclass."""
        return {option.name: getattr(self, option.name) for option in fields(self)}  # type: ignore[arg-type]  # each is a dataclass

    def refuse(self, result: pl.DataType, what: str) -> DefinitionError:
        """Return the error of a feature declared as a type that the aggregate does not give."""
        return DefinitionError(f"{self.name} gives {what}; it cannot be declared as {python_name(result, nullable=False)}.")

    def __str__(self) -> str:
        return self.name


AGGREGATES: dict[str, type[Aggregate]] = {}
"""Every aggregate by its name. Tests run over this table."""


def only(value: pl.Expr) -> Columns:
    """Return a part's single column."""
    return (value,)
