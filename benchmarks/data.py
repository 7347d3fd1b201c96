"""Inputs: rows and spines of any size, the same for every run, made once and kept."""

from pathlib import Path

import polars as pl

from benchmarks.measure import DATA

INSTANT = pl.Datetime("us", "UTC")
DAY = 86_400_000_000
YEAR = 365 * DAY
FEATURES = 10
_FILE_ROWS = 5_000_000


def feature_names(prefix: str) -> list[str]:
    """Returns the names of a view's features."""
    return [f"{prefix}{number}" for number in range(FEATURES)]


def _mixed(seed: int) -> pl.Expr:
    """Returns a number in [0, 2**31) that looks random for each row number: a step of a linear congruence, then its high bits."""
    return ((pl.col("n") + seed * 7_919) * 6_364_136_223_846_793_005 // (1 << 20)) % (1 << 31)


def source(name: str, rows: int, entities: int, prefix: str, *, features: int = FEATURES, span: int = YEAR) -> Path:
    """Returns a folder of Parquet files with so many rows in no order of entity; event times spread over a span, a year."""
    folder = DATA / f"source-{name}-{rows}-{entities}"
    if (folder / "done").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    each = min(rows, _FILE_ROWS)
    for number, start in enumerate(range(0, rows, each)):
        base = pl.select(n=pl.int_range(start, min(start + each, rows), dtype=pl.UInt64))
        frame = base.select(
            entity="user_" + (_mixed(1) % entities).cast(pl.String),
            event_time=(pl.col("n") * (span // rows) + _mixed(2) % 1_000).cast(pl.Int64).cast(INSTANT),
            **{
                feature: _mixed(3 + place).cast(pl.Float64) / 1_000
                for place, feature in enumerate(feature_names(prefix)[:features])
            },
        )
        frame.write_parquet(folder / f"part-{number:03}.parquet")
    (folder / "done").touch()
    return folder


def spine(rows: int, entities: int, *, span: int = YEAR) -> Path:
    """Returns a Parquet file of entities and instants in no order, in the last nine tenths of a span, a year."""
    path = DATA / f"spine-{rows}-{entities}-{span // DAY}.parquet"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        base = pl.select(n=pl.int_range(rows, dtype=pl.UInt64))
        base.select(
            entity="user_" + (_mixed(101) % entities).cast(pl.String),
            event_time=(span // 10 + (_mixed(102).cast(pl.Int64) * 13_221) % (span - span // 10)).cast(INSTANT),
        ).write_parquet(path)
    return path


def sorted_file(folder: Path, by: str) -> Path:
    """Returns the rows of a source in one Parquet file, sorted by time, or by entity and time: what a bare join reads."""
    path = folder.with_name(f"{folder.name}-by-{by}.parquet")
    if not path.exists():
        order = ["event_time"] if by == "time" else ["entity", "event_time"]
        pl.read_parquet(folder / "*.parquet").sort(order).write_parquet(path)
    return path
