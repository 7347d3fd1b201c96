"""Small projects for tests of windowed features: what is asked of each aggregate, generated rows, and a store over them."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import uuid4

import polars as pl
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

import featurestore
from featurestore import Entity, FeatureStore, FeatureView, FrameSource
from featurestore.clock import parse_duration
from featurestore.definitions.source import Source
from featurestore.testing import FakeClock
from tests.effort import examples
from tests.projects import INSTANT, store_at
from tests.window_oracle import RULES, Event, Window, agrees, held, inputs

FEW = settings(
    max_examples=examples(5), deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip
"""A handful of examples; what fails is made smaller, but not explained, which takes minutes."""
KEYS = {"k": str, "n": int}
COLUMNS = {"x": pl.Float64, "i": pl.Int64, "s": pl.String, "b": pl.Boolean}
SCHEMA = {"k": pl.String, "n": pl.Int64, "event": INSTANT, "available": INSTANT, "id": pl.Int64, **COLUMNS}


@dataclass(frozen=True)
class Given:
    """Something computed of a row: as Polars does it for the store, and as Python does it for the oracle."""

    polars: Any
    python: Callable[[Event], Any]

    def _repr_pretty_(self, printer: Any, _: bool) -> None:
        printer.text(str(self.polars))


def column(name: str) -> Given:
    place = list(COLUMNS).index(name)
    return Given(name, lambda row: row.values[place])


def _product(row: Event) -> Any:
    x, i, *_ = row.values
    return None if x is None or i is None else x * i


def _large(row: Event) -> Any:
    x, *_ = row.values
    return None if x is None else x != x or x > 1.0


ROWS = Given(None, lambda row: True)
X, I, S, B = map(column, COLUMNS)  # noqa: E741 - they are the columns x, i, s, b
PRODUCT = Given(pl.col("x") * pl.col("i"), _product)
MAYBE = Given(pl.col("b"), B.python)
LARGE = Given(pl.col("x") > 1.0, _large)
UNKNOWN = Given(pl.col("i").is_null(), lambda row: row.values[1] is None)


@dataclass(frozen=True)
class Case:
    """One windowed feature: what is declared, and how the oracle sees it.

    Args:
        name: the attribute's name.
        rule: the aggregate's name.
        given: its input.
        annotation: the feature's type.
        arguments: the aggregate's own arguments.
        where: which rows count.
    """

    name: str
    rule: str
    given: Given
    annotation: Any
    arguments: tuple[Any, ...] = ()
    where: Given | None = None

    def _repr_pretty_(self, printer: Any, _: bool) -> None:
        printer.text(self.name)

    def declare(self, windows: Sequence[str], tile: str | None) -> Any:
        """What stands behind the ``=`` in a view's class."""
        make = getattr(featurestore, self.rule if hasattr(featurestore, self.rule) else f"{self.rule}_")
        first = () if self.given.polars is None else (self.given.polars,)
        options = {} if self.where is None else {"where": self.where.polars}
        return make(*first, *self.arguments, **options).over(*windows, **({} if tile is None else {"tile": tile}))

    def columns(self, windows: Sequence[str]) -> list[str]:
        return [self.name] if len(windows) == 1 else [f"{self.name}_{window}" for window in windows]


_F, _I, _S, _N = float | None, int | None, str | None, int
ANSWERS: dict[str, list[tuple[Given, Any, tuple[Any, ...]]]] = {
    "count": [(ROWS, _N, ()), (X, _N, ()), (S, _N, ())],
    "count_distinct": [(X, _N, ()), (I, _N, ()), (S, _N, ())],
    "first": [(X, _F, ()), (I, _I, ()), (S, _S, ())],
    "last": [(X, _F, ()), (I, _I, ()), (S, _S, ())],
    "last_n": [(X, list[float], (2,)), (I, list[int], (1,)), (S, list[str], (3,))],
    "max": [(X, _F, ()), (I, _I, ())],
    "mean": [(X, _F, ()), (I, _F, ())],
    "min": [(X, _F, ()), (I, _I, ())],
    "quantile": [(X, _F, (0.5,)), (X, _F, (0.0,)), (I, _F, (0.9,)), (X, _F, (1.0,))],
    "std": [(X, _F, ()), (I, _F, ())],
    "sum": [(X, float, ()), (I, int, ())],
    "var": [(X, _F, ()), (I, _F, ())],
}
"""What is asked of each aggregate: the input, the type declared, its own arguments. The first of them with every filter too."""


def cases_of(rule: str) -> list[Case]:
    """The features that exercise an aggregate."""
    cases = [Case(f"{rule}{place}", rule, *given) for place, given in enumerate(ANSWERS[rule])]
    first, annotation, arguments = ANSWERS[rule][0]
    filters = {"maybe": MAYBE, "large": LARGE, "unknown": UNKNOWN}
    cases += [Case(f"{rule}_{name}", rule, first, annotation, arguments, where) for name, where in filters.items()]
    if annotation in (_F, float, list[float]):
        cases.append(Case(f"{rule}_product", rule, PRODUCT, annotation, arguments, UNKNOWN if rule == "last" else None))
    return cases


CASES = [case for rule in RULES for case in cases_of(rule)]
FEW_CASES = [case for rule in RULES for case in cases_of(rule)[:2]]
FEW_CASES += [next(case for case in CASES if case.name == name) for name in ("last2", "last_n2", "count_maybe", "sum_product")]
ANY_ORDER = [case for case in FEW_CASES if case.rule != "last_n"]
"""Those whose values do not depend on the order in which events come: a push that is late joins them by another way."""


@dataclass(frozen=True)
class Layout:
    """A view of windowed features: which, and over what windows."""

    cases: Sequence[Case]
    windows: tuple[str, ...]
    tile: str | None = None

    @cached_property
    def spans(self) -> list[Window]:
        tile = None if self.tile is None else parse_duration(self.tile)
        return [Window.of(parse_duration(window), tile) for window in self.windows]

    @cached_property
    def columns(self) -> list[tuple[str, Case, Window]]:
        return [
            (name, case, window) for case in self.cases for name, window in zip(case.columns(self.windows), self.spans, strict=True)
        ]

    def view(self, source: Source, *, name: str = "v", transform: Any = None, **options: Any) -> type[FeatureView]:
        body: dict[str, Any] = {
            "__annotations__": {case.name: case.annotation for case in self.cases},
            "__module__": __name__,
            **{case.name: case.declare(self.windows, self.tile) for case in self.cases},
        }
        if transform is not None:
            body["transform"] = staticmethod(transform)
        return type(name.title(), (FeatureView,), body, entity=Entity("entity", **KEYS), source=source, name=name, **options)

    def differences(
        self, events: Sequence[Event], key: tuple[Any, ...], t: int, found: dict[str, Any], *, as_known: bool = True
    ) -> list[str]:
        """What a row of features has that the oracle does not; nothing is what is wanted."""
        wrong = []
        rows = {window: held(events, key, t, window, as_known=as_known) for window in self.spans}
        for name, case, window in self.columns:
            values = inputs(rows[window], case.given.python, None if case.where is None else case.where.python)
            kind = type(found[name])
            if (case.annotation in (int, float) and kind is not case.annotation) or not agrees(
                case.rule, values, found[name], *case.arguments
            ):
                expected = RULES[case.rule].of([value for together in values for value in together], *case.arguments)
                wrong.append(f"{name} of {key} at {t} is {found[name]!r}, not {expected!r}, of {values}")
        return wrong


SMALL: list[tuple[tuple[str, ...], str | None]] = [
    (("6us", "9us"), "3us"), (("4us",), "1us"), (("5us", "10us"), "5us"), (("7us", "1001us"), "7us"), (("9us",), "9us"),
]  # fmt: skip
"""Windows of some microseconds, so that a few small numbers meet all edges."""
USUAL: list[tuple[tuple[str, ...], str | None]] = [
    (("1h", "12h"), None), (("1d", "12d"), None), (("13d",), None), (("2h",), "20m"), (("7m", "90s"), None),
]  # fmt: skip
"""Windows as people write them, with the default tiles."""

entities = st.sampled_from([("a", 0), ("a", 0), ("a", 0), ("a", 0), ("b", 0), ("a", -1), ("", 0)])
strangers = st.sampled_from([("never", 0), (None, 0), ("a", None), (None, None)])


@st.composite
def usual_moments(draw: st.DrawFn, layout: Layout) -> int:
    """Around a day before 1970 and one after: edges of tiles and of windows, and one microsecond on either side."""
    span = draw(st.sampled_from(layout.spans))
    return (
        draw(st.sampled_from([-1, 1])) * 86_400_000_000
        + draw(st.sampled_from([0, 0, span.length, -span.length]))
        + draw(st.integers(-2, 2)) * span.tile
        + draw(st.sampled_from([-1, 0, 0, 1, 60_000_000]))
    )


def moments_of(layout: Layout) -> st.SearchStrategy[int]:
    """Instants at which something may happen to a layout's windows."""
    return st.integers(-9, 12) if (layout.windows, layout.tile) in SMALL else usual_moments(layout)


TAME = [0.0, 1.5, -2.0, 3.25, 1e-3, 2e-3, 1e15, -1e15]
WILD = [*TAME, -0.0, float("nan"), float("inf"), float("-inf")]
WHOLE = [0, 1, -1, 7, 2**53, 2**53 + 1, -(2**53) - 1]


@st.composite
def event_lists(
    draw: st.DrawFn, moments: st.SearchStrategy[int], *, ids: bool, largest: int = 24, floats: Sequence[float] = WILD
) -> list[Event]:
    """Rows of a few entities: late ones, repeated ones, null ones, and with ``ids`` corrections of one another."""
    pool = draw(st.sampled_from([floats, [each for each in floats if each in TAME], [1e15, 1e-3], [None]]))
    delays = draw(st.sampled_from([[0], [0, 1, 5], [-3, 0, 1, 3, 20, 700]]))
    values = st.tuples(
        st.one_of(st.sampled_from(pool), st.sampled_from(pool), st.none()),
        st.sampled_from([*WHOLE, None]),
        st.sampled_from(["", "a", "é", None]),
        st.sampled_from([True, False, None]),
    )
    row = st.builds(
        lambda key, event, delay, given, number: Event(key, event, event + delay, given, number),
        entities, moments, st.sampled_from(delays), values, st.integers(0, 9) if ids else st.none(),
    )  # fmt: skip
    # NOTE: which of two versions of an event counts is not said where both became known at once, so there are none.
    unique = (lambda each: (each.key, each.id, each.known)) if ids else None
    rows = draw(st.lists(row, min_size=draw(st.sampled_from([0, 1, 6, largest // 2])), max_size=largest, unique_by=unique))
    return rows + (draw(st.lists(st.sampled_from(rows), max_size=4)) if rows else [])


def identity(row: Event) -> tuple[Any, ...]:
    """What two rows agree in that are one and the same to a view of ``FEW_CASES``: it sees of ``b`` only whether it is true."""
    return (row.key, row.event, row.known, row.id, *row.values[:3], row.values[3] is True)


@dataclass(frozen=True)
class Scene:
    """A view, the rows of its source, and a spine."""

    layout: Layout
    ids: bool
    events: list[Event]
    spine: list[tuple[tuple[Any, ...], int]]

    def source(self, name: str = "rows") -> FrameSource:
        return source_of(self.events, ids=self.ids, name=name)


@st.composite
def scenes(draw: st.DrawFn, cases: Sequence[Case], *, floats: Sequence[float] = WILD) -> Scene:
    """Scenes of a view of these features. Two windows in three are of microseconds, which meet each other's edges most."""
    windows, tile = draw(st.sampled_from([*SMALL, *SMALL, *USUAL]))
    layout = Layout(cases, windows, tile)
    ids = draw(st.booleans())
    moments = moments_of(layout)
    events = draw(event_lists(moments, ids=ids, floats=floats))
    askers = st.tuples(st.one_of(entities, strangers), moments)
    if events:
        near = st.builds(
            lambda row, at, span, times, step: (row.key, at(row) + times * span.length + step),
            st.sampled_from(events), st.sampled_from([_event, _known, _edge(layout)]), st.sampled_from(layout.spans),
            st.sampled_from([0, 0, 1]), st.sampled_from([-1, 0, 0, 1]),
        )  # fmt: skip
        askers = st.one_of(near, near, near, askers)
    return Scene(layout, ids, events, draw(st.lists(askers, min_size=draw(st.sampled_from([1, 8])), max_size=16)))


def _event(row: Event) -> int:
    return row.event


def _known(row: Event) -> int:
    return row.known


def _edge(layout: Layout) -> Callable[[Event], int]:
    """Where the tile of an event ends."""
    tile = layout.spans[0].tile
    return lambda row: (row.event // tile + 1) * tile


def frame_of_events(events: Sequence[Event]) -> pl.DataFrame:
    """The rows as a source has them."""
    data = [(*row.key, row.event, row.available, row.id, *row.values) for row in events]
    numbers = {**SCHEMA, "event": pl.Int64, "available": pl.Int64}
    return pl.DataFrame(data, schema=numbers, orient="row").with_columns(pl.col("event", "available").cast(INSTANT))


def source_of(events: Sequence[Event], *, ids: bool, name: str = "rows") -> FrameSource:
    return FrameSource(
        name, frame_of_events(events), event_time="event", available_time="available", event_id="id" if ids else None
    )


@contextmanager
def project(views: Sequence[type[FeatureView]], now: int, *, online: str | None = None) -> Iterator[tuple[FeatureStore, FakeClock]]:
    """A store of these views, its clock at ``now``."""
    with tempfile.TemporaryDirectory() as folder:
        clock = FakeClock(now)
        with store_at(Path(folder), clock, online=online, project=f"p{uuid4().hex}") as store:
            store.apply(views)
            yield store, clock


def spine_of(spine: Sequence[tuple[Any, int]]) -> pl.DataFrame:
    data = [(*key, t, number) for number, (key, t) in enumerate(spine)]
    schema = {"k": pl.String, "n": pl.Int64, "t": pl.Int64, "label": pl.Int64}
    return pl.DataFrame(data, schema=schema, orient="row").with_columns(pl.col("t").cast(INSTANT))
