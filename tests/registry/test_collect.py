"""Loading definitions: from folders and from lists; every fault at once, each at its line."""

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from textwrap import dedent

import polars as pl
import pytest

from featurestore.definitions.catalog import AppliedView, Catalog
from featurestore.definitions.entity import Entity
from featurestore.definitions.feature_view import FeatureView
from featurestore.definitions.service import FeatureService
from featurestore.definitions.source import FrameSource, ParquetSource
from featurestore.errors import DefinitionError, DefinitionErrors
from featurestore.project.collect import Definitions, check, collect_definitions, load_definitions
from tests.registry.samples import AIRPORT, MODEL, OBSERVATIONS, WEATHER, Weather

FLIGHTS = """
    from featurestore import Entity, FeatureView, ParquetSource

    airport = Entity("airport", origin=str)
    observations = ParquetSource("observations", "data/*.parquet", event_time="observed_at")

    class Weather(FeatureView, entity=airport, source=observations, ttl="6h"):
        temp: float | None
        wind: float | None
"""

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Iterator[Write]:
    """Writes modules into a definitions folder, by name or path: ``write({"pkg/more": "…"}, flights="…")``; returns the folder."""
    folder = tmp_path / "definitions"
    names, path, finders = set(sys.modules), list(sys.path), list(sys.meta_path)

    def write_modules(by_path: Mapping[str, str] | None = None, /, **by_name: str) -> Path:
        for name, text in {**(by_path or {}), **by_name}.items():
            file = folder / f"{name}.py"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(dedent(text).lstrip("\n"))
        return folder

    yield write_modules
    assert sys.path == path
    assert sys.meta_path == finders
    new = {name: getattr(sys.modules[name], "__file__", None) or "" for name in set(sys.modules) - names}
    left = {name for name, file in new.items() if Path(file).is_relative_to(tmp_path)}
    assert {name.partition("_")[0] for name in left} <= {"definitions"}
    for name in left:
        del sys.modules[name]


def faults(folder: Path, root: Path | None = None) -> list[str]:
    with pytest.raises(DefinitionErrors) as caught:
        load_definitions(folder, root)
    return [str(fault) for fault in caught.value.faults]


class TestFolders:
    def test_modules_are_imported_and_their_definitions_gathered(self, write: Write) -> None:
        more = """
            from featurestore import FeatureService
            from definitions.flights import Weather

            model = FeatureService("model", [Weather.temp])
        """
        found = load_definitions(write({"services/more": more}, flights=FLIGHTS))
        assert list(found.entities) == ["airport"]
        assert list(found.sources) == ["observations"]
        assert list(found.views) == ["weather"]
        assert list(found.services) == ["model"]
        assert found.views["weather"].__view__.feature_names == ("temp", "wind")

    @pytest.mark.parametrize(
        "line", ["from definitions.flights import Weather", "from flights import Weather", "from .flights import Weather"]
    )
    @pytest.mark.parametrize("name", ["a_services", "z_services"])
    def test_a_module_is_one_under_all_its_names(self, write: Write, line: str, name: str) -> None:
        folder = write(
            flights=FLIGHTS, **{name: f"from featurestore import FeatureService\n{line}\nmodel = FeatureService('m', [Weather])"}
        )
        assert list(load_definitions(folder).services) == ["m"]

    def test_the_names_of_a_module_are_the_same_object(self, write: Write) -> None:
        inner = "from ..flights import airport\nfrom flights import airport as other\nassert airport is other"
        outer = "import definitions.pkg.inner, pkg.inner\nassert definitions.pkg.inner is pkg.inner"
        load_definitions(write({"pkg/inner": inner, "pkg/outer": outer}, flights=FLIGHTS))

    def test_packages_may_have_an_init_module(self, write: Write) -> None:
        packages = {"__init__": "from definitions.pkg import Weather", "pkg/__init__": "from .flights import Weather"}
        folder = write({**packages, "pkg/flights": FLIGHTS})
        assert list(load_definitions(folder).views) == ["weather"]

    def test_names_with_an_underscore_are_imported_only_by_others(self, write: Write) -> None:
        broken = "raise RuntimeError"
        folder = write(
            {"_drafts/broken": broken}, flights="from definitions._shared import airport", _shared=FLIGHTS, _broken=broken
        )
        found = load_definitions(folder)
        assert list(found.entities) == ["airport"]
        assert list(found.views) == []

    def test_the_folder_beside_can_be_imported_from(self, write: Write, tmp_path: Path) -> None:
        (tmp_path / "definitions_beside.py").write_text("WHERE = 'data'")
        load_definitions(write(flights="from definitions_beside import WHERE"))

    def test_edited_modules_are_loaded_anew(self, write: Write) -> None:
        folder = write(flights=FLIGHTS)
        before = load_definitions(folder).views["weather"]
        write(flights=FLIGHTS.replace("6h", "9h"))
        after = load_definitions(folder).views["weather"]
        assert (before.__view__.ttl, after.__view__.ttl) == (6 * 3_600_000_000, 9 * 3_600_000_000)
        assert not list(folder.rglob("*.pyc"))

    def test_two_projects_do_not_meet(self, write: Write, tmp_path: Path) -> None:
        one = write(flights=FLIGHTS)
        other = tmp_path / "other" / "definitions"
        other.mkdir(parents=True)
        (other / "flights.py").write_text(dedent(FLIGHTS).replace("6h", "9h"))
        (other / "more.py").write_text("from flights import Weather\nfrom definitions.flights import Weather")
        ttls = [load_definitions(folder).views["weather"].__view__.ttl for folder in (one, other, one)]
        assert ttls == [6 * 3_600_000_000, 9 * 3_600_000_000, 6 * 3_600_000_000]

    def test_what_the_user_imported_stays_and_is_not_mixed_in(self, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
        folder = write(flights=FLIGHTS, services="from flights import Weather\nfrom definitions.flights import Weather")
        monkeypatch.syspath_prepend(folder)
        monkeypatch.syspath_prepend(folder.parent)
        __import__("flights")
        __import__("definitions.flights")
        mine = sys.modules["flights"], sys.modules["definitions"], sys.modules["definitions.flights"]
        try:
            assert list(load_definitions(folder).views) == ["weather"]
            assert (sys.modules["flights"], sys.modules["definitions"], sys.modules["definitions.flights"]) == mine
        finally:
            for name in ("flights", "definitions", "definitions.flights"):
                del sys.modules[name]

    def test_a_neighbour_does_not_stand_for_a_library_of_its_name(self, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
        # Another thread may import it for the first time while the folder is imported.
        folder = write(drawer=FLIGHTS, other="import drawer\nassert drawer.LIBRARY\nfrom .drawer import Weather")
        library = folder.parent / "installed"
        library.mkdir()
        (library / "drawer.py").write_text("LIBRARY = True")
        monkeypatch.syspath_prepend(str(library))
        assert set(load_definitions(folder).views) == {"weather"}
        assert sys.modules.pop("drawer").LIBRARY

    def test_a_transform_knows_its_source_text(self, write: Write) -> None:
        transform = "\n    @staticmethod\n    def transform(rows):\n        return rows  # as they are\n"
        view = load_definitions(write(flights=dedent(FLIGHTS) + transform)).views["weather"]
        assert "as they are" in view.__view__.transform

    def test_an_empty_folder_defines_nothing(self, tmp_path: Path) -> None:
        assert load_definitions(tmp_path) == Definitions()

    def test_a_missing_folder_says_what_to_do(self, tmp_path: Path) -> None:
        with pytest.raises(DefinitionError, match="featurestore init"):
            load_definitions(tmp_path / "nowhere")


class TestFaults:
    def test_all_are_told_at_once_in_order(self, write: Write) -> None:
        folder = write(
            a_syntax="x = 1\ndef f(:\n",
            b_import="import featurestore\nimport nowhere_to_be_found\n",
            c_name="def f():\n    return nothing\n\nf()\n",
            d_view="""
                from featurestore import Entity, Feature, FeatureService, FeatureView, ParquetSource

                airport = Entity("airport", origin=float)

                class Weather(
                    FeatureView,
                    entity=Entity("place", origin=str), source=ParquetSource("rows", "data", event_time="at"), ttl="6 hours",
                ):
                    temp: float | None
                    where: object = Feature(description="x")

                model = FeatureService("model", [Weather, Weather.where.prefix("w_"), "weather.anything"])
            """,
            e_exit="raise SystemExit(3)\n",
            f_raise="from featurestore.clock import parse_duration\n\nx = parse_duration('soon')\n",
        )
        assert faults(folder) == [
            "definitions/a_syntax.py:2: SyntaxError: invalid syntax",
            "definitions/b_import.py:2: the module cannot be imported: ModuleNotFoundError: No module named 'nowhere_to_be_found'",
            "definitions/c_name.py:2: the module cannot be imported: NameError: name 'nothing' is not defined",
            "definitions/d_view.py:3: join key 'origin' of entity 'airport' is Float64, whose values cannot be compared "
            "reliably. Use text, an integer, bool, bytes or a date.",
            "definitions/d_view.py:5: view Weather: ttl: '6 hours' is not a duration. Write it as '6h', '15m' or '1d12h' "
            "(units: us ms s m h d w), or as a timedelta.",
            "definitions/d_view.py:10: feature Weather.where: <class 'object'> is not a type a column can have. Use bool, int, "
            "float, str, bytes, datetime, date, time, timedelta, Decimal, list[…], or a Polars dtype as in "
            "Annotated[int, pl.Int32].",
            "definitions/e_exit.py:1: the module cannot be imported: SystemExit: 3",
            "definitions/f_raise.py:3: 'soon' is not a duration. Write it as '6h', '15m' or '1d12h' (units: us ms s m h d w), or "
            "as a timedelta.",
        ]

    def test_a_module_that_fails_is_told_once_however_many_import_it(self, write: Write) -> None:
        folder = write(
            a="from definitions.flights import Weather",
            b="from flights import Weather",
            flights="import featurestore\nboom()\n",
            services="from featurestore import FeatureService\nmodel = FeatureService('m', ['weather.temp'])",
        )
        assert faults(folder) == ["definitions/flights.py:2: the module cannot be imported: NameError: name 'boom' is not defined"]

    def test_a_name_that_a_neighbour_lacks_is_told_where_it_is_imported(self, write: Write) -> None:
        [fault] = faults(write(flights=FLIGHTS, services="\nfrom definitions.flights import Wether"))
        assert fault.startswith(
            "definitions/services.py:1: the module cannot be imported: ImportError: cannot import name 'Wether' from "
            "'definitions.flights'"
        )

    def test_places_start_at_the_projects_folder(self, write: Write, tmp_path: Path) -> None:
        [fault] = faults(write(flights="\n\nboom"), tmp_path.parent)
        assert fault.startswith(f"{tmp_path.name}/definitions/flights.py:1: ")

    def test_a_module_that_loads_the_definitions_is_told(self, write: Write) -> None:
        text = """
            from pathlib import Path
            from featurestore.project.collect import load_definitions

            load_definitions(Path(__file__).parent)
        """
        [fault] = faults(write(flights=text))
        assert fault.startswith("definitions/flights.py:4: ")
        assert 'if __name__ == "__main__"' in fault

    def test_two_definitions_of_one_name_are_told_with_both_places(self, write: Write) -> None:
        other = """
            from featurestore import *

            class Weather(
                FeatureView,
                entity=Entity("airport", dest=str),
                source=ParquetSource("observations", "other/*.parquet", event_time="observed_at"),
            ):
                temp: float | None

            model = FeatureService("model", [Weather])
        """
        third = "from featurestore import FeatureService\nmodel = FeatureService('model', ['weather.temp'])"
        said = faults(write(flights=FLIGHTS, other=other, third=third))
        assert said == [
            f"definitions/{place}: two different {kinds} are named {name!r}. The other is at definitions/{first}. "
            "Rename one of them, or import the one where the other is."
            for place, kinds, name, first in [
                ("other.py:3", "feature views", "weather", "flights.py:6"),
                ("other.py:5", "entities", "airport", "flights.py:3"),
                ("other.py:6", "sources", "observations", "flights.py:4"),
                ("third.py:2", "feature services", "model", "other.py:10"),
            ]
        ]

    def test_equal_entities_and_sources_are_one(self, write: Write) -> None:
        assert list(load_definitions(write(flights=FLIGHTS, more=FLIGHTS.split("class")[0])).entities) == ["airport"]

    @pytest.mark.parametrize(
        ("features", "said"),
        [
            ("['wether']", "service 'm' uses wether, but there is no view 'wether'. Did you mean 'weather'?"),
            ("['weather.tmp']", "service 'm' uses weather.tmp, but view 'weather' has no feature 'tmp'. Did you mean 'temp'?"),
            (
                "[Weather.on(orign='dest')]",
                "service 'm' uses weather.on(orign='dest'), but its entity 'airport' has no join key 'orign'. "
                "Did you mean 'origin'?",
            ),
            (
                "[Weather, Weather.temp.on(origin='dest')]",
                "service 'm': Two columns would be named 'temp': feature 'temp' of weather and feature "
                'weather.temp.on(origin=\'dest\'). Rename a feature with .alias("…"), or all of a view\'s with .prefix("…_").',
            ),
            (
                "[Weather, Weather.temp.alias('origin')]",
                "service 'm': Two columns would be named 'origin': the spine's column 'origin' and feature "
                'weather.temp.alias(\'origin\'). Rename a feature with .alias("…"), or all of a view\'s with .prefix("…_").',
            ),
        ],
    )
    def test_a_service_that_does_not_find_what_it_uses(self, write: Write, features: str, said: str) -> None:
        text = f"from featurestore import FeatureService\nfrom flights import Weather\n\nm = FeatureService('m', {features})"
        assert faults(write(flights=FLIGHTS, services=text)) == [f"definitions/services.py:4: {said}"]

    def test_a_service_and_a_view_of_one_name(self, write: Write) -> None:
        text = "from featurestore import FeatureService\nm = FeatureService('weather', ['weather'])"
        assert faults(write(flights=FLIGHTS, services=text)) == [
            "definitions/services.py:2: service 'weather' has the name of a feature view (definitions/flights.py:6). "
            "Rename one of them."
        ]


class TestLists:
    def test_views_bring_their_entity_and_source(self) -> None:
        found = collect_definitions([Weather, MODEL])
        assert found == Definitions(
            {"airport": AIRPORT}, {"observations": OBSERVATIONS}, {"weather": Weather}, {"delay_model": MODEL}
        )

    @pytest.mark.parametrize("thing", ["weather", FeatureView, Weather.temp, None, WEATHER, int])
    def test_something_else_is_refused(self, thing: object) -> None:
        with pytest.raises(DefinitionErrors, match=r"is not a definition\. Give entities"):
            collect_definitions([AIRPORT, thing])

    def test_all_faults_are_told(self) -> None:
        clash = Entity("airport", dest=str)
        service = FeatureService("m", ["weather.tmp", "planes"])
        with pytest.raises(DefinitionErrors) as caught:
            collect_definitions([Weather, 3, clash, service])
        told = [fault.problem for fault in caught.value.faults]
        assert len(told) == 3
        assert told[0].startswith("3 is not a definition")
        assert told[1].startswith("two different entities are named 'airport'. The other is at ")
        assert told[2].startswith("service 'm' uses weather.tmp, but view 'weather' has no feature 'tmp'.")
        assert caught.value.faults[2].place == service.place

    def test_frames_are_told_apart(self) -> None:
        frames = [FrameSource("rows", pl.DataFrame({"at": [day]}), event_time="at") for day in (1, 1)]
        assert collect_definitions([frames[0], frames[0]]).sources["rows"] is frames[0]
        with pytest.raises(DefinitionErrors, match="two different sources are named 'rows'"):
            collect_definitions(frames)

    def test_keys_in_another_order_make_another_entity(self) -> None:
        with pytest.raises(DefinitionErrors, match="two different entities are named 'seat'"):
            collect_definitions([Entity("seat", flight=str, row=int), Entity("seat", row=int, flight=str)])

    def test_what_services_use_is_looked_up_in_the_catalog(self) -> None:
        definitions = collect_definitions([MODEL])
        check(definitions, Catalog(views={"weather": AppliedView(WEATHER, 1, 1)}))
        with pytest.raises(DefinitionErrors, match=r"there is no view 'weather'\. There are none yet\."):
            check(definitions, Catalog())

    def test_names_of_services_and_views_are_looked_up_in_the_catalog(self) -> None:
        applied = Catalog(views={"weather": AppliedView(WEATHER, 1, 1)}, services={"delay_model": MODEL})
        with pytest.raises(DefinitionErrors, match="service 'weather' has the name of a feature view"):
            check(collect_definitions([FeatureService("weather", ["weather.temp"])]), applied)
        named = ParquetSource("rows", "data", event_time="at")

        class Planes(FeatureView, entity=AIRPORT, source=named, name="delay_model"):
            seats: int

        with pytest.raises(DefinitionErrors, match="view 'delay_model' has the name of a feature service that is applied"):
            check(collect_definitions([Planes]), applied)
