"""When schedules fire, against every minute looked at one by one."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from featurestore.clock import check_schedule, format_duration, from_micros, parse_cron, to_micros
from featurestore.errors import DefinitionError
from featurestore.scheduling.schedules import ScheduleTimes
from tests.effort import examples

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
    fires = ScheduleTimes()
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
    kept = ScheduleTimes("Europe/Berlin")
    for step in [0, *steps]:
        now += step
        fresh = ScheduleTimes("Europe/Berlin")
        assert (kept.latest(line, now), kept.next(line, now)) == (fresh.latest(line, now), fresh.next(line, now))


@given(st.integers(1, 10**13), ANY_TIME)
def test_intervals_begin_with_the_epoch(length: int, now: int) -> None:
    fires, schedule = ScheduleTimes(), format_duration(length)
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
    fires = ScheduleTimes("Europe/Berlin")
    assert sorted({found for now in range(begin, end, MINUTE) if (found := fires.latest(line, now)) >= begin}) == expected


MIDNIGHTS = [
    ("Africa/Cairo", "2024-04-26T00:00", "2024-04-25T22:00"),
    ("Africa/Cairo", "2025-04-25T00:00", "2025-04-24T22:00"),
    ("Asia/Beirut", "2024-03-31T00:00", "2024-03-30T22:00"),
    ("America/Santiago", "2024-09-08T00:00", "2024-09-08T04:00"),
    ("America/Havana", "2024-03-10T00:00", "2024-03-10T05:00"),
    ("America/Asuncion", "2023-10-01T00:00", "2023-10-01T04:00"),
    ("America/Sao_Paulo", "2017-10-15T00:00", "2017-10-15T03:00"),
    ("Asia/Tehran", "2021-03-22T00:00", "2021-03-21T20:30"),
    ("Asia/Amman", "2021-03-26T00:00", "2021-03-25T22:00"),
    ("Pacific/Apia", "2011-12-30T00:00", "2011-12-30T10:00"),
]


@pytest.mark.parametrize("line", ["0 0 * * *", "0 0 * * {weekday}", "0 0 {day} {month} *", "@"])
@pytest.mark.parametrize(("zone", "local", "expected"), MIDNIGHTS)
def test_f14_a_midnight_that_a_zone_skips_fires_at_the_end_of_the_gap(zone: str, local: str, expected: str, line: str) -> None:
    day = datetime.fromisoformat(local)
    said = f"0 0 * * * {zone}" if line == "@" else line.format(weekday=(day.weekday() + 1) % 7, day=day.day, month=day.month)
    fires, instant = ScheduleTimes("UTC" if line == "@" else zone), to_micros(datetime.fromisoformat(expected))
    assert from_micros(fires.next(said, instant - 60 * MINUTE)) == from_micros(instant)
    assert from_micros(fires.latest(said, instant + 59 * MINUTE)) == from_micros(instant)


def gaps(zone: ZoneInfo, year: int) -> list[tuple[int, int, int]]:
    """When a zone's clock is put forward in a year, in micros, and the offsets before and after."""

    def offset(micros: int) -> int:
        return to_micros(from_micros(micros).astimezone(zone).replace(tzinfo=UTC)) - micros

    found = []
    step = 24 * 60 * MINUTE
    first = to_micros(datetime(year, 1, 1, tzinfo=UTC))
    for low in range(first, first + 366 * step, step):
        before, after = offset(low), offset(low + step)
        if before < after:
            late, early = low + step, low
            while late - early > MINUTE:
                middle = (late + early) // 2 // MINUTE * MINUTE
                early, late = (middle, late) if offset(middle) == before else (early, middle)
            found.append((late, before, after))
    return found


def shown(line: str, wall: int) -> bool:
    return fires_at(line, "UTC", wall)


@settings(max_examples=examples(40), deadline=None)
@given(st.sampled_from(sorted(available_timezones())), st.integers(1985, 2037), st.data())
def test_f14_what_a_zone_skips_fires_once_and_what_it_repeats_twice_in_every_zone(
    zone: str, year: int, data: st.DataObject
) -> None:
    """Against each minute looked at: a time that is skipped fires as much later as the gap is long."""
    known = ZoneInfo(zone)
    found = gaps(known, year)
    assume(found)
    put_forward, before, after = data.draw(st.sampled_from(found))
    wall = (put_forward + before + data.draw(st.integers(-90, 90)) * MINUTE) // MINUTE % (24 * 60)
    hours, weekdays = data.draw(st.sampled_from(["*", str(wall // 60), "0", "*/2"])), data.draw(st.sampled_from(["*", "0-3"]))
    line = f"{wall % 60} {hours} * * {weekdays}"
    begin, end = put_forward - 1_500 * MINUTE, put_forward + 1_500 * MINUTE
    expected = {minute for minute in range(begin, end, MINUTE) if fires_at(line, zone, minute)}
    skipped = range(put_forward + before, put_forward + after, MINUTE)
    expected |= {wall - before for wall in skipped if shown(line, wall) and begin <= wall - before < end}
    fires, at, told = ScheduleTimes(zone), begin - 1, set()
    while (at := fires.next(line, at)) < end:
        told.add(at)
        assert fires.latest(line, at) == at
    assert told == expected


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
    assert from_micros(ScheduleTimes().latest(check_schedule(line), now)).isoformat() == f"{latest}:00+00:00"


@pytest.mark.parametrize(
    "wrong", ["60 * * * *", "0 6 * * * Mars/Crater", "0 6 30 2 *", "*/0 * * * *", "a * * * *", "0 5-2 * * *", "* * 0 * *"]
)
def test_a_line_that_never_fires_is_refused_when_it_is_defined(wrong: str) -> None:
    with pytest.raises(DefinitionError, match="is not a schedule"):
        check_schedule(wrong)
