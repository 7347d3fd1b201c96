"""Tiles: the packed online state of a windowed view for each entity, and how new events join it.

For each tile length there is a row of records, one for each tile in which something happened. A record holds the parts'
columns of all events *from its tile on*, so that a read looks at one record: that of the first tile which the window holds
(S7). Columns that are lists would grow with every tile; of them a record holds its own tile's, and a read joins them.

A value is ``header · [segments, groups]`` as in ``codec``, and after the groups the instant from which on all that is in them is
known, where that is later than the last event. The header has the entity's greatest event time, biased as there,
and eight bytes that tell this value from any other, so that writers can compare and swap. ``segments`` are the pushed
segments that are in it and not yet in the history's files. A group is ``[tiles, records, loose]``: the tiles' numbers, and
fixed-width records of eight-byte numbers, both little-endian; a record begins with masks of its columns that are not null,
62 of them a number.
``loose`` are the other columns, each as a list along the tiles. Its last ones, of what numbers are beyond
their records, are left out where they hold nothing.
"""

import sys
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import chain, pairwise
from typing import Any

import polars as pl

from featurestore.definitions.feature_view import ViewSpec
from featurestore.definitions.window_features import EVENT_ID
from featurestore.row_codec import pack_state, to_series, wire_dtype
from featurestore.rows.total_order import AVAILABLE, EVENT, same_as_before
from featurestore.windows.segment_tree import PartialStates, aggregate_ranges, build_levels

ENTITY = "_entity"
TILE = "_tile"
_FOUND = "_found"
BITS_A_MASK = 62


@dataclass(frozen=True)
class TileGroup:
    """The windows of a view that have one tile length, and what is kept for them.

    Args:
        tile: the tile's length in microseconds.
        reach: the longest window's length in microseconds.
        states: the parts that their aggregates need.
        dtypes: the dtype of each of the parts' columns.
    """

    tile: int
    reach: int
    states: PartialStates
    dtypes: Mapping[str, pl.DataType]

    @cached_property
    def listed(self) -> tuple[str, ...]:
        """The columns that hold their own tile's lists."""
        return tuple(name for state in self.states.kept if state.part.listed for name in state.columns)

    @cached_property
    def packed(self) -> tuple[str, ...]:
        """The columns that are eight-byte numbers in the records."""
        return tuple(name for name in self.states.columns if is_packed(self.dtypes[name]) and name not in self.spare)

    @cached_property
    def spare(self) -> tuple[str, ...]:
        """The columns that are hardly ever there."""
        return tuple(name for state in self.states.kept for name in state.spare)

    @property
    def masks(self) -> int:
        """How many numbers of a record tell which of its columns are not null."""
        return -(-len(self.packed) // BITS_A_MASK)

    @cached_property
    def loose(self) -> tuple[str, ...]:
        """The columns that are not, lists among them; the spare ones come last."""
        others = tuple(name for name in self.states.columns if name not in self.packed and name not in self.spare)
        return (*others, *self.spare)

    def first_tile(self, event: pl.Expr) -> pl.Expr:
        """Return the first tile that the longest window holds which ends at an event (S7)."""
        return (event - self.reach) // self.tile


@dataclass(frozen=True)
class Tiles:
    """The tiles of some entities, numbered from 0.

    Args:
        latest: the greatest event time of each entity, in microseconds; null for one without events.
        groups: for each group the columns ``_entity``, ``_tile`` and those of the parts, sorted by the first two.
        known: since when all that is in them is known, in microseconds: at an instant before it they say more than that (S7).
    """

    latest: pl.Series
    groups: tuple[pl.DataFrame, ...]
    known: pl.Series


@dataclass(frozen=True)
class TileLayout:
    """What the online store keeps for a windowed view.

    Args:
        keys: the join keys.
        groups: what is kept for each tile length, the shortest first.
        all: the parts of all groups.
    """

    keys: tuple[str, ...]
    groups: tuple[TileGroup, ...]
    all: PartialStates

    @classmethod
    @lru_cache(maxsize=256)
    def of(cls, view: ViewSpec) -> "TileLayout":
        """Return the layout of a view."""
        blank = pl.DataFrame(schema={EVENT: pl.Int64(), "available_time": pl.Int64(), **view.stored_schema})
        lengths = sorted({window.tile for window in view.windows})
        groups = []
        for length in lengths:
            windows = [window for window in view.windows if window.tile == length]
            states = PartialStates.of(windows, view.stored_schema)
            dtypes = states.lift(blank).schema
            groups.append(TileGroup(length, max(window.size for window in windows), states, dict(dtypes)))
        return cls(view.entity.key_names, tuple(groups), PartialStates.of(view.windows, view.stored_schema))

    @property
    def reach(self) -> int:
        """How far before an entity's last event another may lie that counts, in microseconds."""
        return max(group.reach + group.tile for group in self.groups)

    @property
    def in_order(self) -> bool:
        """Whether new events can join only where they are later than all that are there."""
        return any(state.part.in_order for state in self.all.kept)

    def build(self, events: pl.DataFrame, entities: pl.DataFrame) -> Tiles:
        """Return the tiles of entities from their events.

        Args:
            events: the view's stored columns and the keys, times in microseconds, sorted by keys and event time.
            entities: the join keys of each entity, each once.
        """
        numbered = entities.with_columns(pl.int_range(pl.len(), dtype=pl.UInt32).alias(ENTITY))
        events = events.join(numbered, on=self.keys, how="inner", maintain_order="left")
        ends = events.group_by(ENTITY).agg(pl.col(EVENT).max().alias("latest"), pl.col(AVAILABLE).max().alias("known"))
        ends = numbered.join(ends, on=ENTITY, how="left", maintain_order="left")
        latest, known = ends["latest"], ends["known"]
        if events.is_empty():
            return Tiles(latest, tuple(_no_tiles(group) for group in self.groups), known)
        events = events.with_columns(latest.gather(events[ENTITY]).alias("latest"))
        if not (recent := events.select((pl.col(EVENT) >= pl.col("latest") - self.reach).alias("recent")).to_series()).all():
            events = events.filter(recent)
            if EVENT_ID not in events.columns:
                # An event that no window holds any more matters to none; a correction may have taken one out of them.
                ends = events.group_by(ENTITY).agg(pl.col(AVAILABLE).max().alias("known"))
                known = numbered.join(ends, on=ENTITY, how="left", maintain_order="left")["known"]
        # The events of an entity stand together: in this order each run of them is one entity's.
        runs = events[ENTITY].rle().struct.unnest()
        end = runs.select(pl.col("len").cast(pl.Int64).cum_sum().repeat_by("len").explode()).to_series()
        place = events.select(ENTITY, EVENT, "latest", pl.int_range(pl.len(), dtype=pl.Int64).alias("low"), end.alias("end"))
        plain = self.all.plain(events)
        levels = build_levels(plain, events, int(runs["len"].max()))  # type: ignore[arg-type]  # there are some
        groups = tuple(_tiles(group, plain.of_same(group.states), place, levels) for group in self.groups)
        return Tiles(latest, groups, known)

    def join(self, old: Tiles, new: Tiles) -> Tiles:
        """Return the tiles of the same entities with new events; those too old for any window go."""
        latest = pl.select(pl.max_horizontal(old.latest, new.latest).alias("latest")).to_series()
        known = pl.select(pl.max_horizontal(old.known, new.known).alias("known")).to_series()
        groups = []
        for group, before, after in zip(self.groups, old.groups, new.groups, strict=True):
            places = pl.concat([before.select(ENTITY, TILE), after.select(ENTITY, TILE)]).unique().sort(ENTITY, TILE)
            last = pl.lit(latest.gather(places[ENTITY]))
            places = places.filter(pl.col(TILE) >= group.first_tile(last))
            first, second = _from_on(group, before, places), _from_on(group, after, places)
            plain = group.states.plain_merge(first, second)
            groups.append(places.hstack(group.states.widened(plain.merge(first, second), group.dtypes)))
        return Tiles(latest, tuple(groups), known)

    def encode(self, tiles: Tiles, segments: Sequence[Sequence[int]]) -> list[bytes | None]:
        """Return the value of each entity; None of one without events.

        Args:
            tiles: the tiles.
            segments: for each entity, the pushed segments that are in it.
        """
        packed = [_pack(group, frame, len(segments)) for group, frame in zip(self.groups, tiles.groups, strict=True)]
        values: list[bytes | None] = []
        times = zip(tiles.latest.to_list(), tiles.known.to_list(), strict=True)
        for (latest, known), numbers, *groups in zip(times, segments, *packed, strict=True):
            body = [list(numbers), groups]
            if latest is not None and known is not None and known > latest:
                body.append(known)
            values.append(None if latest is None else pack_state(latest, body))
        return values

    def decode(self, decoded: Sequence[tuple[int | None, Sequence[Sequence[Any]] | None, int | None]]) -> Tiles:
        """Return the tiles that were packed, of each entity's greatest event time, groups and the instant after them.

        None where there is none.
        """
        latest = pl.Series("latest", [latest_event for latest_event, _, _ in decoded], dtype=pl.Int64)
        known = pl.Series("known", [event if after is None else after for event, _, after in decoded], dtype=pl.Int64)
        groups = []
        for number, group in enumerate(self.groups):
            packed_tiles = [(entity, packed[number]) for entity, (_, packed, _) in enumerate(decoded) if packed is not None]
            groups.append(_unpack(group, packed_tiles))
        return Tiles(latest, tuple(groups), known)


def is_packed(dtype: pl.DataType) -> bool:
    """Return whether a column's values are eight-byte numbers in a record."""
    return (dtype.is_numeric() or dtype.is_temporal() or isinstance(dtype, pl.Boolean)) and not isinstance(
        dtype, (pl.UInt64, pl.Decimal, pl.Int128, pl.UInt128)
    )


def _no_tiles(group: TileGroup) -> pl.DataFrame:
    return pl.DataFrame(schema={ENTITY: pl.UInt32(), TILE: pl.Int64(), **group.dtypes})


def _tiles(group: TileGroup, states: PartialStates, events: pl.DataFrame, levels: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Return the tiles of a group, of events' places: from each tile's first event to the entity's end, or the tile's."""
    places = events.with_columns((pl.col(EVENT) // group.tile).alias(TILE)).filter(
        pl.col(TILE) >= group.first_tile(pl.col("latest"))
    )
    places = places.filter(~places.select(same_as_before([ENTITY, TILE])).to_series())
    following = pl.when(same_as_before([ENTITY]).shift(-1, fill_value=False)).then(pl.col("low").shift(-1)).otherwise("end")
    places = places.with_columns(following.alias("next"))
    frame = places.select(ENTITY, TILE)
    for listed, high in ((False, places["end"]), (True, places["next"])):
        some = PartialStates(tuple(state for state in states.kept if state.part.listed is listed))
        if some.kept:
            own = [level.select(some.columns) for level in levels]
            frame = frame.hstack(aggregate_ranges(some, own, places["low"], high))
    return frame.select(ENTITY, TILE).hstack(group.states.widened(frame, group.dtypes)).sort(ENTITY, TILE)


def _from_on(group: TileGroup, tiles: pl.DataFrame, places: pl.DataFrame) -> pl.DataFrame:
    """Return what some tiles hold at some places: from a place on, or of lists at the place itself."""
    rows = (
        places.select(ENTITY, TILE)
        .join_asof(
            tiles.select(ENTITY, TILE, pl.col(TILE).alias(_FOUND), *group.states.columns),
            on=TILE, by=ENTITY, strategy="forward", check_sortedness=False,
        )
    )  # fmt: skip
    own = pl.col(_FOUND) == pl.col(TILE)
    return rows.select(
        pl.when(own).then(name).alias(name) if name in group.listed else pl.col(name) for name in group.states.columns
    )


def _to_bits(name: str, dtype: pl.DataType) -> pl.Expr:
    if dtype.is_float():
        return pl.col(name).cast(pl.Float64).reinterpret(dtype=pl.Int64)
    return pl.col(name).to_physical().cast(pl.Int64)


def _from_bits(column: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    if dtype.is_float():
        return column.reinterpret(dtype=pl.Float64).cast(dtype)
    return column.cast(pl.Int32).cast(dtype) if isinstance(dtype, pl.Date) else column.cast(dtype)


def _pack(group: TileGroup, frame: pl.DataFrame, entities: int) -> list[list[Any]]:
    """Return each entity's group as it is written."""
    starts = frame[ENTITY].search_sorted(pl.int_range(entities + 1, dtype=pl.UInt32, eager=True), side="left").to_list()
    numbers = frame.select(*_masks(group), *(_to_bits(name, group.dtypes[name]).fill_null(0) for name in group.packed))
    tiles, records = _to_bytes(frame[TILE]), _to_bytes(_interleaved(numbers))
    width = 8 * numbers.width
    used = list(group.loose)
    while used and used[-1] in group.spare and frame[used[-1]].null_count() == frame.height:
        used.pop()
    loose = [frame[name].cast(wire_dtype(group.dtypes[name])).to_list() for name in used]
    always = len(group.loose) - len(group.spare)
    return [
        [
            tiles[8 * first : 8 * last],
            records[width * first : width * last],
            _without_spare([column[first:last] for column in loose], always),
        ]
        for first, last in pairwise(starts)
    ]


def _without_spare(columns: list[list[Any]], always: int) -> list[list[Any]]:
    """Return an entity's loose columns less the last ones that hold nothing, of those that need not be there."""
    while len(columns) > always and not any(value is not None for value in columns[-1]):
        columns.pop()
    return columns


def _masks(group: TileGroup) -> list[pl.Expr]:
    masks = []
    for first in range(0, group.masks * BITS_A_MASK, BITS_A_MASK):
        names = group.packed[first : first + BITS_A_MASK]
        present = (pl.col(name).is_not_null().cast(pl.Int64) * (1 << bit) for bit, name in enumerate(names))
        masks.append(pl.sum_horizontal(pl.lit(0, pl.Int64), *present).alias(f"_mask{first}"))
    return masks


def _unpack(group: TileGroup, packed_tiles: Sequence[tuple[int, Sequence[Any]]]) -> pl.DataFrame:
    """Return the tiles of a group, as they were written of some entities."""
    counts = [len(packed[0]) // 8 for _, packed in packed_tiles]
    width = len(group.packed) + group.masks
    owner = pl.Series(ENTITY, [entity for entity, _ in packed_tiles], dtype=pl.UInt32)
    entity = pl.DataFrame({ENTITY: owner, "_count": pl.Series(counts, dtype=pl.UInt32)}).select(
        pl.col(ENTITY).repeat_by("_count").explode(empty_as_null=False)
    )
    tiles = _from_bytes(b"".join([packed[0] for _, packed in packed_tiles])).alias(TILE)
    bits = _from_bytes(b"".join([packed[1] for _, packed in packed_tiles]))
    numbers = pl.DataFrame({"bits": bits}).select(
        *(pl.col("bits").gather_every(width, at).alias(f"_mask{at}") for at in range(group.masks)),
        *(pl.col("bits").gather_every(width, group.masks + at).alias(name) for at, name in enumerate(group.packed)),
    )
    packed = []
    for at, name in enumerate(group.packed):
        there = (pl.col(f"_mask{at // BITS_A_MASK}") // (1 << at % BITS_A_MASK)) % 2 == 1
        packed.append(pl.when(there).then(_from_bits(pl.col(name), group.dtypes[name])).alias(name))
    loose = {}
    for number, name in enumerate(group.loose):
        parts = [
            packed_columns[2][number] if number < len(packed_columns[2]) else [None] * count
            for (_, packed_columns), count in zip(packed_tiles, counts, strict=True)
        ]
        values = list(chain.from_iterable(parts))
        loose[name] = to_series(name, values, group.dtypes[name])
    columns = [entity.to_series(), tiles, *numbers.select(packed).get_columns(), *loose.values()]
    return pl.DataFrame(columns).select(ENTITY, TILE, *group.states.columns)


def _interleaved(frame: pl.DataFrame) -> pl.Series:
    """Return the numbers of a frame of one dtype, row by row."""
    return frame.select(pl.concat_arr(pl.all())).to_series().reshape((-1,)) if frame.height else pl.Series(dtype=pl.Int64)


def _to_bytes(numbers: pl.Series) -> bytes:
    array = numbers.rechunk().to_arrow()
    data = memoryview(array.buffers()[1]) if len(array) else memoryview(b"")
    return little_endian(bytes(data[8 * array.offset : 8 * (array.offset + len(array))]))


def little_endian(data: bytes) -> bytes:
    """Return eight-byte numbers of this machine's byte order as little-endian ones, or the other way round."""
    if sys.byteorder == "little":
        return data
    numbers = array("q", data)
    numbers.byteswap()
    return numbers.tobytes()


def _from_bytes(data: bytes) -> pl.Series:
    if not data:
        return pl.Series(dtype=pl.Int64)
    return pl.Series([data]).bin.reinterpret(dtype=pl.Array(pl.Int64, len(data) // 8), endianness="little").explode()
