"""What readers are given: switches, rollbacks, what is retired; on every database."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from featurestore.definitions.catalog import AppliedView, Catalog
from featurestore.definitions.feature import Feature
from featurestore.definitions.feature_view import ViewSpec
from featurestore.errors import ConcurrentApplyError, NotFoundError, RollbackError
from featurestore.registry.serving import Retired, Serving
from featurestore.registry.specs import Put, SpecRegistry
from tests.registry.conftest import BEGIN
from tests.registry.samples import AIRPORT, OBSERVATIONS
from tests.registry.test_diff import weather

ALL = range(100)
LATER = BEGIN + timedelta(days=1)


def spec(type_: Any = float, **options: Any) -> ViewSpec:
    made: ViewSpec = weather({"temp": type_}, **options)().__view__
    return made


def put(registry: SpecRegistry, view: ViewSpec, version: int, data_version: int, *, lingers: bool = False) -> Catalog:
    base = registry.load().revision
    return registry.commit(
        base, [Put(AIRPORT, base + 1), Put(OBSERVATIONS, base + 1), Put(view, version, data_version, lingers)], []
    )


def served(catalog: Catalog) -> tuple[int, int]:
    view = catalog.served["weather"]
    return view.version, view.data_version


@pytest.fixture
def serving(registry: SpecRegistry) -> Serving:
    return Serving(registry)


@pytest.fixture
def three(registry: SpecRegistry, serving: Serving) -> AppliedView:
    """A view at its third version, which is served, as those before were."""
    put(registry, spec(), 1, 1)
    for number, type_ in ((2, int), (3, str)):
        catalog = put(registry, spec(type_), number, number, lingers=True)
        assert serving.switch(catalog.views["weather"], LATER)
    return registry.load().views["weather"]


def test_a_new_view_is_served_at_once(registry: SpecRegistry, serving: Serving) -> None:
    catalog = put(registry, spec(), 1, 1)
    assert served(catalog) == (1, 1)
    assert not catalog.previous_versions
    assert serving.switch(catalog.views["weather"], LATER) is None
    assert registry.load().revision == catalog.revision


def test_a_changed_view_goes_on_being_served_as_it_was_until_the_switch(registry: SpecRegistry, serving: Serving) -> None:
    put(registry, spec(), 1, 1)
    catalog = put(registry, spec(int), 2, 2, lingers=True)
    assert served(catalog) == (1, 1)
    assert served(registry.load()) == (1, 1)
    assert registry.load().readable["weather"] == spec()
    assert registry.load().referable["weather"] == spec(int)
    switched = serving.switch(catalog.views["weather"], LATER)
    assert switched is not None
    assert served(switched) == (2, 2) == served(registry.load())
    assert switched.revision == catalog.revision + 1 == registry.revision()


def test_rows_that_do_not_reach_as_far_as_those_served_are_not_given(registry: SpecRegistry, serving: Serving) -> None:
    put(registry, spec(), 1, 1)
    applied = put(registry, spec(int), 2, 2, lingers=True).views["weather"]
    assert serving.switch(applied, BEGIN - timedelta(days=1)) is None
    assert served(registry.load()) == (1, 1)


def test_a_switch_to_what_is_applied_no_more_is_none(registry: SpecRegistry, serving: Serving) -> None:
    put(registry, spec(), 1, 1)
    second = put(registry, spec(int), 2, 2, lingers=True).views["weather"]
    put(registry, spec(str), 3, 3, lingers=True)
    assert serving.switch(second, LATER) is None
    assert served(registry.load()) == (1, 1)


def test_a_view_whose_old_version_has_nothing_to_serve_is_given_at_once(registry: SpecRegistry) -> None:
    put(registry, spec(), 1, 1)
    assert served(put(registry, spec(int), 2, 2)) == (2, 2)


def test_words_change_nothing_of_what_is_served(registry: SpecRegistry, serving: Serving) -> None:
    put(registry, spec(), 1, 1)
    put(registry, spec(int), 2, 2, lingers=True)
    catalog = put(registry, spec(int, doc="Of the airport."), 3, 2, lingers=True)
    assert served(catalog) == (1, 1)
    assert serving.switch(catalog.views["weather"], LATER) is not None
    assert served(registry.load()) == (3, 2)


def test_back_to_what_is_still_served(registry: SpecRegistry) -> None:
    put(registry, spec(), 1, 1)
    put(registry, spec(int), 2, 2, lingers=True)
    catalog = put(registry, spec(), 3, 1)
    assert served(catalog) == (3, 1)
    assert not catalog.previous_versions


def test_what_is_personal_by_now_is_so_in_the_version_that_is_still_served(registry: SpecRegistry) -> None:
    put(registry, spec(), 1, 1)
    marked = weather({"temp": int}, temp=Feature(pii=True))().__view__
    catalog = put(registry, marked, 2, 2, lingers=True)
    assert served(catalog) == (1, 1)
    assert catalog.served["weather"].spec.features[0].pii


def test_a_rollback_gives_the_version_before_and_keeps_it(registry: SpecRegistry, serving: Serving, three: AppliedView) -> None:
    catalog = serving.roll_back("weather", None, ALL)
    assert served(catalog) == (2, 2) == served(registry.load())
    assert catalog.pinned == {"weather"}
    assert catalog.views["weather"] == three
    assert serving.switch(three, LATER) is None
    assert served(serving.roll_back("weather", None, ALL)) == (1, 1)
    with pytest.raises(RollbackError, match="no version that was served before version 1"):
        serving.roll_back("weather", None, ALL)


def test_a_rollback_to_a_named_version_and_back(registry: SpecRegistry, serving: Serving, three: AppliedView) -> None:
    assert served(serving.roll_back("weather", 1, ALL)) == (1, 1)
    catalog = serving.undo("weather")
    assert served(catalog) == (3, 3)
    assert not catalog.pinned
    with pytest.raises(RollbackError, match="was not rolled back"):
        serving.undo("weather")


def test_undone_before_the_new_version_was_ever_served_it_is_waited_for(
    registry: SpecRegistry, serving: Serving, three: AppliedView
) -> None:
    new = put(registry, spec(bool), 4, 4, lingers=True).views["weather"]
    serving.roll_back("weather", 1, ALL)
    assert served(serving.undo("weather")) == (1, 1)
    assert serving.switch(new, LATER) is not None
    assert served(registry.load()) == (4, 4)


@pytest.mark.parametrize(
    ("to", "written", "said"),
    [
        (3, ALL, "are given the rows of version 3 already"),
        (1, (2, 3), "no rows: it was never materialized"),
        (None, (3,), "no version that was served before version 3"),
    ],
)
def test_a_rollback_that_cannot_be(serving: Serving, three: AppliedView, to: int | None, written: Any, said: str) -> None:
    with pytest.raises(RollbackError, match=said):
        serving.roll_back("weather", to, written)


def test_a_rollback_to_what_is_applied_is_undone_instead(serving: Serving, three: AppliedView) -> None:
    serving.roll_back("weather", None, ALL)
    with pytest.raises(RollbackError, match="--undo"):
        serving.roll_back("weather", 3, ALL)


def test_a_rollback_of_what_is_not_there(serving: Serving, three: AppliedView) -> None:
    with pytest.raises(NotFoundError, match=r"version.*weather 7"):
        serving.roll_back("weather", 7, ALL)
    with pytest.raises(NotFoundError, match="applied feature view"):
        serving.roll_back("wether", None, ALL)


def test_an_apply_ends_a_rollback(registry: SpecRegistry, serving: Serving, three: AppliedView) -> None:
    serving.roll_back("weather", 1, ALL)
    catalog = put(registry, spec(bool), 4, 4, lingers=True)
    assert served(catalog) == (1, 1)
    assert not catalog.pinned
    assert serving.switch(catalog.views["weather"], LATER) is not None
    assert served(registry.load()) == (4, 4)


def test_an_apply_planned_before_a_rollback_is_told_of_it(
    registry: SpecRegistry, open_registry: Callable[[], SpecRegistry], serving: Serving, three: AppliedView
) -> None:
    base = registry.load().revision
    Serving(open_registry()).roll_back("weather", 1, ALL)
    with pytest.raises(ConcurrentApplyError, match="view 'weather' is served at version 1"):
        registry.commit(base, [Put(spec(bool), 4, 4)], [])


def test_of_two_rollbacks_at_once_one_wins(
    open_registry: Callable[[], SpecRegistry], three: AppliedView, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = open_registry(), open_registry()
    load = first.load

    def overtaken() -> Catalog:
        catalog = load()
        Serving(second).roll_back("weather", 2, ALL)
        return catalog

    monkeypatch.setattr(first, "load", overtaken)
    with pytest.raises(ConcurrentApplyError, match="served at version 2"):
        Serving(first).roll_back("weather", 1, ALL)
    assert served(load()) == (2, 2)


def test_a_view_that_returns_is_served_anew(registry: SpecRegistry, serving: Serving, three: AppliedView) -> None:
    serving.roll_back("weather", 1, ALL)
    registry.commit(registry.load().revision, [], [("view", "weather")])
    assert not registry.load().served
    catalog = put(registry, spec(), 5, 5)
    assert served(catalog) == (5, 5)
    assert not catalog.pinned
    with pytest.raises(RollbackError, match="no version that was served before"):
        serving.roll_back("weather", None, ALL)


def told(serving: Serving, before: datetime = LATER) -> list[tuple[str, int]]:
    return [(each.view, each.data_version) for each in serving.retired(before)]


def test_what_is_neither_applied_nor_served_is_retired(registry: SpecRegistry, serving: Serving, three: AppliedView) -> None:
    assert told(serving) == [("weather", 1), ("weather", 2)]
    assert told(serving, BEGIN) == []
    first, second = serving.retired(LATER)
    assert first.since < second.since
    assert told(serving, second.since) == [("weather", 1)]
    serving.roll_back("weather", 1, ALL)
    assert told(serving) == [("weather", 2)]
    serving.undo("weather")
    assert serving.retired(LATER)[0].since > second.since
    registry.commit(registry.load().revision, [], [("view", "weather")])
    assert told(serving) == [("weather", 1), ("weather", 2), ("weather", 3)]


def test_what_was_cleaned_up_is_told_no_more_and_nobody_returns(
    registry: SpecRegistry, serving: Serving, three: AppliedView
) -> None:
    for each in serving.retired(LATER):
        assert serving.clean(each)
        assert serving.clean(each)
    assert told(serving) == []
    assert serving.retained("weather") == []
    assert [each.cleaned for each in serving.versions("weather")] == [True, True, False]
    with pytest.raises(RollbackError, match="cleaned up"):
        serving.roll_back("weather", 1, ALL)
    with pytest.raises(RollbackError, match="no version that was served before"):
        serving.roll_back("weather", None, ALL)
    with pytest.raises(ConcurrentApplyError, match="cleaned up"):
        put(registry, spec(), 4, 1)
    assert registry.load().views["weather"] == three


def test_what_somebody_returned_to_is_not_cleaned_up(serving: Serving, three: AppliedView) -> None:
    retired = serving.retired(LATER)
    serving.roll_back("weather", 1, ALL)
    assert [serving.clean(each) for each in retired] == [False, True]
    assert not serving.clean(Retired("weather", 3, BEGIN))


def test_versions_tell_what_is_served(registry: SpecRegistry, serving: Serving, three: AppliedView) -> None:
    put(registry, spec(str, doc="Words."), 4, 3)
    serving.roll_back("weather", 2, ALL)
    versions = serving.versions("weather")
    assert [(each.version, each.data_version, each.applied, each.pinned) for each in versions] == [
        (1, 1, False, False), (2, 2, False, True), (3, 3, False, False), (4, 3, True, False),
    ]  # fmt: skip
    assert [each.served_since is not None for each in versions] == [False, True, False, False]
    assert [each.version for each in serving.retained("weather")] == [2, 1]
    with pytest.raises(NotFoundError):
        serving.versions("other")


def test_instants_are_utc(serving: Serving, three: AppliedView) -> None:
    assert all(each.since.tzinfo is UTC for each in serving.retired(LATER))
