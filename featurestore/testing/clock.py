"""The clock of tests: it stands still until the test moves it."""

from datetime import datetime, timedelta

from featurestore.clock import from_micros, parse_duration, to_micros


class FakeClock:
    """A ``Clock`` that a test sets.

    Args:
        start: the present at first: an instant, or microseconds since the epoch.

    Attributes:
        micros: the present, in microseconds since the epoch; it may be set.

    Example:
        >>> from datetime import UTC
        >>> clock = FakeClock(datetime(2026, 1, 1, tzinfo=UTC))
        >>> clock.advance("90m")
        >>> str(clock())
        '2026-01-01 01:30:00+00:00'
    """

    def __init__(self, start: datetime | int = 0) -> None:
        self.micros = to_micros(start) if isinstance(start, datetime) else start

    def __call__(self) -> datetime:
        """Return the present."""
        return from_micros(self.micros)

    def advance(self, by: str | timedelta) -> None:
        """Move the clock, by a duration as definitions have them (``"1h"``) or a ``timedelta``; it may go back."""
        self.micros += by // timedelta(microseconds=1) if isinstance(by, timedelta) else parse_duration(by)
