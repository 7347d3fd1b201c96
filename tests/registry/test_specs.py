"""The registry of definitions, on every database."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from featurestore.definitions.catalog import AppliedView, Catalog
from featurestore.definitions.entity import Entity
from featurestore.definitions.serialization import Spec
from featurestore.errors import ConcurrentApplyError, NotFoundError, RegistryError
from featurestore.registry.specs import Put, SpecRegistry, Version
from tests.registry.conftest import BEGIN
from tests.registry.processes import at_once
from tests.registry.samples import AIRPORT, ALL, MODEL, OBSERVATIONS, WEATHER, apply_at_once, open_at_once

Open = Callable[[], SpecRegistry]


def test_an_empty_registry_is_revision_0(registry: SpecRegistry) -> None:
    assert registry.revision() == 0
    assert registry.load() == Catalog()
    assert registry.history("view", "weather") == []


def test_what_is_committed_is_loaded_by_others(open_registry: Open) -> None:
    committed = open_registry().commit(0, ALL, [])
    loaded = open_registry().load()
    assert committed == loaded
    assert loaded.revision == open_registry().revision() == 1
    assert loaded.entities == {"airport": AIRPORT}
    assert loaded.sources == {"observations": OBSERVATIONS}
    assert loaded.views == {"weather": AppliedView(WEATHER, 1, 1)}
    assert loaded.services == {"delay_model": MODEL}
    assert loaded.versions == {
        ("entity", "airport"): 1, ("source", "observations"): 1, ("view", "weather"): 1, ("service", "delay_model"): 1,
    }  # fmt: skip


def test_a_commit_of_nothing_writes_nothing(registry: SpecRegistry) -> None:
    registry.commit(0, ALL, [])
    assert registry.commit(1, [], []).revision == 1


def test_only_the_newest_version_counts(registry: SpecRegistry) -> None:
    registry.commit(0, ALL, [])
    changed = replace(WEATHER, ttl=None)
    catalog = registry.commit(1, [Put(changed, 2, 1)], [])
    assert catalog.views == {"weather": AppliedView(changed, 2, 1)}
    assert catalog.entities == {"airport": AIRPORT}
    assert catalog.revision == 2


def test_versions_go_on_after_a_removal(registry: SpecRegistry) -> None:
    registry.commit(0, ALL, [])
    removed = registry.commit(1, [], [("view", "weather"), ("service", "delay_model")])
    assert removed.views == {}
    assert removed.services == {}
    assert removed.versions["view", "weather"] == 2
    returned = registry.commit(2, [Put(WEATHER, 3, 3)], [])
    assert returned.views == {"weather": AppliedView(WEATHER, 3, 3)}
    assert registry.history("view", "weather") == [
        Version(1, 1, BEGIN, deleted=False),
        Version(2, None, BEGIN.replace(second=1), deleted=True),
        Version(3, 3, BEGIN.replace(second=2), deleted=False),
    ]


@pytest.mark.parametrize(("kind", "name"), [("view", "wether"), ("service", "weather"), ("vew", "weather")])
def test_what_is_not_applied_cannot_be_removed(registry: SpecRegistry, kind: str, name: str) -> None:
    registry.commit(0, ALL, [])
    with pytest.raises(NotFoundError, match=f"No {kind} is named '{name}'"):
        registry.commit(1, [Put(Entity("other", key=str), 1)], [(kind, name)])
    assert registry.load().revision == 1
    assert "other" not in registry.load().entities


def test_who_comes_second_is_told_what_changed(open_registry: Open) -> None:
    first, second = open_registry(), open_registry()
    first.commit(0, ALL, [])
    base = second.load().revision
    first.commit(1, [Put(replace(WEATHER, ttl=None), 2, 1)], [])
    first.commit(2, [Put(replace(WEATHER, ttl=1), 3, 1), Put(Entity("carrier", carrier=str), 1)], [("service", "delay_model")])
    with pytest.raises(ConcurrentApplyError) as caught:
        second.commit(base, [Put(Entity("airport", origin=str, owner="me"), 2)], [])
    assert caught.value.changed == (
        "view 'weather' changed (version 3)", "entity 'carrier' was added", "service 'delay_model' was removed",
    )  # fmt: skip
    assert second.load().entities["airport"] == AIRPORT
    assert second.revision() == 3


def test_a_registry_that_was_made_anew_is_told(registry: SpecRegistry) -> None:
    with pytest.raises(ConcurrentApplyError, match="not at revision 7"):
        registry.commit(7, ALL, [])


def test_a_version_cannot_be_written_twice(registry: SpecRegistry) -> None:
    registry.commit(0, ALL, [])
    with pytest.raises(RegistryError, match="cannot be used"):
        registry.commit(1, [Put(AIRPORT, 1)], [])
    assert registry.revision() == 1


def test_of_processes_that_apply_at_once_one_wins(url: str, project: str, tmp_path: Path, registry: SpecRegistry) -> None:
    registry.commit(0, [Put(AIRPORT, 1)], [])
    told = at_once(apply_at_once, ["one", "two", "three"], url, project, tmp_path)
    winners = [name for name, said in zip(["one", "two", "three"], told, strict=True) if said == "revision 2"]
    assert len(winners) == 1
    assert sorted(told) == [f"entity '{winners[0]}' was added", f"entity '{winners[0]}' was added", "revision 2"]
    assert set(registry.load().entities) == {"airport", winners[0]}


def test_processes_may_open_a_new_registry_at_once(fresh_url: str, project: str, tmp_path: Path) -> None:
    assert at_once(open_at_once, ["one", "two", "three", "four"], fresh_url, project, tmp_path) == [0, 0, 0, 0]


def test_projects_do_not_meet(url: str, registry: SpecRegistry, tmp_path: Path) -> None:
    registry.commit(0, ALL, [])
    other = SpecRegistry(url, registry.project + "b", tmp_path, registry.clock)
    assert other.load() == Catalog()
    other.close()


@pytest.mark.parametrize(
    ("spec", "body"),
    [
        (AIRPORT, "{"),
        (AIRPORT, "[1]"),
        (AIRPORT, "5"),
        (AIRPORT, '{"name": "airport", "keys": [["origin", "Int7"]]}'),
        (AIRPORT, '{"name": "airport", "keys": {"origin": "String"}}'),
        (OBSERVATIONS, '{"kind": "kafka", "name": "observations"}'),
        (WEATHER, '{"name": "weather", "what": 1}'),
        (MODEL, '{"name": "delay_model", "references": [{"window": "1h"}]}'),
    ],
)
def test_what_cannot_be_read_is_told(registry: SpecRegistry, spec: Spec, body: str) -> None:
    registry.commit(0, ALL, [])
    table = registry.database.tables.spec
    with registry.database.writing() as connection:
        mine = (table.c.project == registry.project) & (table.c.name == spec.name)
        connection.execute(table.update().where(mine).values(body=body))
    with pytest.raises(RegistryError, match=rf"'{spec.name}' \(version 1\) cannot be read"):
        registry.load()


def test_a_kind_that_this_version_does_not_know_is_told(registry: SpecRegistry) -> None:
    registry.commit(0, ALL, [])
    table = registry.database.tables.spec
    with registry.database.writing() as connection:
        mine = (table.c.project == registry.project) & (table.c.kind == "entity")
        connection.execute(table.update().where(mine).values(kind="dream"))
    with pytest.raises(RegistryError, match="newer version"):
        registry.load()


def test_a_view_without_a_data_version_is_told(registry: SpecRegistry) -> None:
    registry.commit(0, ALL, [])
    table = registry.database.tables.spec
    with registry.database.writing() as connection:
        mine = (table.c.project == registry.project) & (table.c.kind == "view")
        connection.execute(table.update().where(mine).values(data_version=None))
    with pytest.raises(RegistryError, match=r"view 'weather' \(version 1\) has no data version.*Restore") as caught:
        registry.load()
    assert "newer" not in str(caught.value)


def test_closing_twice_is_no_error(registry: SpecRegistry) -> None:
    registry.commit(0, ALL, [])
    registry.close()
    registry.close()
    assert registry.revision() == 1
