"""A project for a test: a store in a temporary folder, with a clock that the test moves."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from featurestore.clock import Clock
from featurestore.store import FeatureStore
from featurestore.testing.clock import FakeClock


@contextmanager
def temporary_store(clock: Clock | None = None, *, folder: Path | None = None, **settings: Any) -> Iterator[FeatureStore]:
    """Open a store that no other test sees, and remove it afterwards.

    Args:
        clock: tells the present; a ``FakeClock`` at 2026-01-01 by default.
        folder: the project's folder, which stays; None for a temporary one.
        settings: settings by name, ``online="redis://localhost"``. By default everything is in the folder.

    Example:
        >>> from datetime import UTC, datetime
        >>> import polars as pl
        >>> from featurestore import Entity, FeatureView, FrameSource
        >>> clock = FakeClock(datetime(2026, 1, 1, 12, tzinfo=UTC))
        >>> rows = pl.DataFrame({"city": ["Oslo"], "at": [datetime(2026, 1, 1, 11, tzinfo=UTC)], "temp": [-3.5]})
        >>> class Weather(FeatureView, entity=Entity("city", city=str), source=FrameSource("s", rows, event_time="at"), ttl="6h"):
        ...     temp: float
        >>> with temporary_store(clock) as store:
        ...     _ = store.apply([Weather])
        ...     _ = store.materialize()
        ...     store.online(Weather, [{"city": "Oslo"}]).to_dicts()
        [{'city': 'Oslo', 'temp': -3.5}]
    """
    now = clock or FakeClock(1_767_225_600_000_000)
    given = {"project": "test", **settings}
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        with FeatureStore(folder, clock=now, **given) as store:
            yield store
        return
    with TemporaryDirectory(prefix="featurestore-") as temporary, FeatureStore(temporary, clock=now, **given) as store:
        yield store
