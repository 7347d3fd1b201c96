"""When schedules fire, against every minute looked at one by one."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.clock import check_schedule, format_duration, from_micros, parse_cron, to_micros
from featurestore.errors import DefinitionError
from featurestore.jobs.triggers import Fires

MINUTE = 60_000_000
ANY_TIME = st.datetimes(datetime(1990, 1, 1), datetime(2050, 1, 1), timezones=st.just(UTC)).map(to_micros)  # noqa: DTZ001 - bounds


def fires_at(line: str, zone: str, minute: int) -> bool:
    """Cron's rule, for one minute."""
    (minutes, hours, days, months, weekdays), own = parse_cron(line)
    local = from_micros(minute).astimezone(ZoneInfo(own or zone))
    day, weekday = local.day in days, (local.weekday() + 1) % 7 in weekdays
    fields = line.split()
    right = (day and weekday) if "*" in (fields[2][0], fields[4][0]) else (day or weekday)
    return local.minute in minutes and local.hour in hours and local.month in months and right


def field(lowest: int, highest: int) -> st.SearchStrategy[str]:
    number = st.integers(lowest, highest)
    spread = st.tuples(number, number).map(lambda ends: f"{min(ends)}-{max(ends)}")
    return st.one_of(st.just("*"), st.just("*"), st.integers(1, 20).map("*/{}".format), number.map(str), spread)


LINES = st.tuples(field(0, 59), field(0, 23), field(1, 28), st.just("*"), field(0, 7)).map(" ".join)


@given(LINES, ANY_TIME)
def test_between_two_fire_times_a_line_does_not_fire(line: str, now: int) -> None:
    fires = Fires()
    latest, following = fires.latest(line, now), fires.next(line, now)
    assert latest <= now < following
    assert latest % MINUTE == following % MINUTE == 0
    assert fires_at(line, "UTC", latest)
    assert fires_at(line, "UTC", following)
    first = latest + MINUTE
    looked_at = [
        *range(first, min(following, first + 500 * MINUTE), MINUTE),
        *range(max(first, following - 500 * MINUTE), following, MINUTE),
    ]
    assert not [minute for minute in looked_at if fires_at(line, "UTC", minute)]


@given(LINES, ANY_TIME, st.lists(st.integers(0, 3 * 24 * 60 * MINUTE), max_size=5))
def test_what_is_kept_is_what_is_found_anew(line: str, now: int, steps: list[int]) -> None:
    kept = Fires("Europe/Berlin")
    for step in [0, *steps]:
        now += step
        fresh = Fires("Europe/Berlin")
        assert (kept.latest(line, now), kept.next(line, now)) == (fresh.latest(line, now), fresh.next(line, now))


@given(st.integers(1, 10**13), ANY_TIME)
def test_intervals_begin_with_the_epoch(length: int, now: int) -> None:
    fires, schedule = Fires(), format_duration(length)
    assert fires.latest(schedule, now) == now // length * length
    assert fires.next(schedule, now) == now // length * length + length


@pytest.mark.parametrize("line", ["30 2 * * *", "*/30 * * * *", "0 0-4 * * *", "15 2 * * sun"])
@pytest.mark.parametrize("day", [datetime(2013, 3, 31, tzinfo=UTC), datetime(2013, 10, 27, tzinfo=UTC)])
def test_where_the_clock_is_put_forward_or_back(line: str, day: datetime) -> None:
    """What falls into the hour that is left out comes after it, once; what falls into the one that comes twice fires twice."""
    begin, end = to_micros(day), to_micros(day + timedelta(hours=8))
    expected = [minute for minute in range(begin, end, MINUTE) if fires_at(line, "Europe/Berlin", minute)]
    if day.month == 3 and line.split()[1] == "2":
        expected = [to_micros(day + timedelta(hours=1, minutes=int(line.split()[0])))]
    fires = Fires("Europe/Berlin")
    assert sorted({found for now in range(begin, end, MINUTE) if (found := fires.latest(line, now)) >= begin}) == expected


@pytest.mark.parametrize(
    ("line", "latest"),
    [
        ("0 0 29 2 *", "2012-02-29T00:00"),
        ("0 6 * * 0", "2013-06-30T06:00"),
        ("0 6 * * 7", "2013-06-30T06:00"),
        ("0 6 * * mon", "2013-07-01T06:00"),
        ("0 6 * * sat-sun", "2013-06-30T06:00"),
        ("0 6 13 * fri", "2013-06-28T06:00"),
        ("0 6 * * * America/New_York", "2013-07-01T10:00"),
        ("* * 1 1 *", "2013-01-01T23:59"),
    ],
)
def test_lines_mean_what_cron_means(line: str, latest: str) -> None:
    now = to_micros(datetime(2013, 7, 1, 12, tzinfo=UTC))
    assert from_micros(Fires().latest(check_schedule(line), now)).isoformat() == f"{latest}:00+00:00"


@pytest.mark.parametrize(
    "wrong", ["60 * * * *", "0 6 * * * Mars/Crater", "0 6 30 2 *", "*/0 * * * *", "a * * * *", "0 5-2 * * *", "* * 0 * *"]
)
def test_a_line_that_never_fires_is_refused_when_it_is_defined(wrong: str) -> None:
    with pytest.raises(DefinitionError, match="is not a schedule"):
        check_schedule(wrong)
