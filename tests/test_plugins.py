"""Plug-ins: what installed packages declare is found, nothing is imported before it is asked for, and what is wrong is told."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from textwrap import dedent
from typing import Any
from unittest.mock import patch

import polars as pl
import pytest

from featurestore import Entity, FeatureView, FrameSource, ParquetSource, StreamSource, count, plugins
from featurestore.adapters import (
    history_folder,
    open_engine,
    open_offline,
    open_online,
    open_source,
    store_folders,
)
from featurestore.aggregates import AGGREGATES, Aggregate, Count
from featurestore.clock import utc_now
from featurestore.definitions.feature_view import ViewSpec
from featurestore.definitions.serialization import from_json, to_json
from featurestore.definitions.source import Source
from featurestore.errors import ConfigError, DefinitionError, MissingExtraError, OfflineStoreError, UnknownSourceError
from featurestore.locks import FileLocks
from featurestore.online.base import OnlineAdapter
from featurestore.settings_loader import load_settings

Install = Callable[..., None]

LINES = """
    from dataclasses import dataclass
    from featurestore.definitions.source import Source
    from featurestore.sources.base import ReaderAdapter

    @dataclass(frozen=True)
    class LinesSource(Source):
        path: str
        tags: tuple[str, ...] = ()
        __hash__ = Source.__hash__

        @classmethod
        def decode(cls, plain):
            values = super().decode(plain)
            return values | {"tags": tuple(values.get("tags", ()))}

    class LinesReader(ReaderAdapter):
        def __init__(self, spec, root):
            self.spec, self.root = spec, root

        @classmethod
        def open(cls, source, context):
            return cls(source, context.root)
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Installs a package: its module, and its entry points by group."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(site)
    modules = set(sys.modules)

    def install(package: str, code: str, version: str = "1.0", **groups: dict[str, str]) -> None:
        (site / f"{package}.py").write_text(dedent(code), encoding="utf-8")
        info = site / f"{package}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n", encoding="utf-8")
        lines = [f"[featurestore.{group}]\n" + "".join(f"{name} = {value}\n" for name, value in entries.items())
                 for group, entries in groups.items()]  # fmt: skip
        (info / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")
        plugins.forget()

    yield install
    for name in set(sys.modules) - modules:
        del sys.modules[name]
    plugins.forget()


def settings(folder: Path, **given: Any) -> Any:
    return load_settings(folder, **given)


@pytest.mark.parametrize("group", plugins.GROUPS, ids=lambda group: group.name)
def test_every_plug_in_of_ours_can_be_loaded(group: plugins.Group) -> None:
    ours = [plugin for plugin in plugins.installed(group) if plugin.package.startswith("featurestore ")]
    assert ours
    for plugin in ours:
        if plugin.name == "ray" and find_spec("ray") is None:  # a large wheel, which has an environment of its own in CI
            continue
        loaded = plugins.load(group, plugin.name, object)
        assert f"{loaded.__module__}:{loaded.__qualname__}" == plugin.value
        if group is plugins.SOURCES:
            assert loaded.kind == plugin.name
        if group is plugins.AGGREGATES:
            assert AGGREGATES[plugin.name] is loaded


def test_every_kind_of_source_has_a_reader_and_every_aggregate_an_entry_point() -> None:
    assert plugins.names(plugins.SOURCES) == plugins.names(plugins.SOURCE_READERS)
    built_in = {name for name, kind in AGGREGATES.items() if kind.__module__.startswith("featurestore.")}
    assert built_in == set(plugins.names(plugins.AGGREGATES))


def test_listing_imports_neither_polars_nor_an_adapter() -> None:
    code = (
        "import sys; from featurestore import plugins; [plugins.names(group) for group in plugins.GROUPS]; "
        "print(*sorted(name for name in sys.modules if name in ('polars', 'lmdb', 'redis', 'deltalake', 'pydantic') "
        "or name.startswith('featurestore.') and name.count('.') > 1))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split() == []


def test_help_asks_for_no_plug_in() -> None:
    code = (
        "import sys; sys.argv = ['featurestore', '--help']; from featurestore.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print('plugins' if 'featurestore.plugins' in sys.modules else 'none', file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.split() == ["none"]


@pytest.mark.parametrize(
    ("open_it", "given", "told"),
    [
        (
            open_online,
            {"online": "redsi://:secret@h"},
            r"No online store is named 'redsi'\. Did you mean 'redis'.*Installed: lmdb",
        ),
        (open_online, {"online": "nowhere"}, r"No online store is named 'nowhere'\. Installed: lmdb"),
        (
            lambda given, clock: open_offline(given, clock, FileLocks(given.root)),
            {"offline": "hdfs://bucket/x"},
            r"No offline store is named 'hdfs'\. Installed: az, file",
        ),
        (
            lambda given, clock: open_engine(given),
            {"engine": "locl"},
            r"No engine is named 'locl'\. Did you mean 'local'\? Installed: local",
        ),
    ],
)
def test_a_name_that_nobody_has_is_told_with_those_there_are(
    open_it: Callable[..., Any], given: dict[str, Any], told: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        open_it(settings(tmp_path, **given), utc_now)
    assert "secret" not in str(caught.value)


def test_a_stream_of_an_unknown_broker_is_told_where_it_is_defined() -> None:
    with pytest.raises(DefinitionError, match=r"names no broker, natss://…: No .*'natss'\. Did you mean 'nats'"):
        StreamSource("s", "natss://h", topic="t", columns={"at": pl.Datetime("us")}, event_time="at")


def test_a_store_of_another_package_is_opened_with_its_context(install: Install, tmp_path: Path) -> None:
    code = """
        from featurestore.online.base import OnlineAdapter

        class Store(OnlineAdapter):
            @classmethod
            def open(cls, url, context):
                return (url, context.project, context.root, context.clock)
    """
    install("other", code, online_stores={"memo": "other:Store"})
    given = settings(tmp_path, project="p", online="memo:x")
    assert open_online(given, utc_now) == ("memo:x", "p", tmp_path, utc_now)
    assert store_folders(given) == {"history": tmp_path / ".featurestore/offline"}


def test_what_cannot_be_imported_is_told_with_its_entry_point_and_package(install: Install) -> None:
    install("broken", "import nothing_of_the_kind", online_stores={"broken": "broken:Store"})
    install("faulty", "raise ValueError('no good')", version="2.1", online_stores={"faulty": "faulty:Store"})
    install("empty", "", online_stores={"empty": "empty:Store"})
    install("wrong", "class Store: pass", online_stores={"wrong": "wrong:Store"})
    for name, told in {
        "broken": r"broken = broken:Store of the package broken 1\.0 cannot be imported: ModuleNotFoundError: .*nothing_of",
        "faulty": r"of the package faulty 2\.1 cannot be imported: ValueError: no good",
        "empty": r"empty = empty:Store of the package empty 1\.0 cannot be imported: AttributeError",
        "wrong": r"package wrong 1\.0 must be a subclass of featurestore.online.base.OnlineAdapter",
    }.items():
        with pytest.raises(ConfigError, match=told):
            plugins.load(plugins.ONLINE_STORES, name, OnlineAdapter)


def test_an_extra_that_is_missing_is_told_as_it_is(install: Install) -> None:
    code = "from featurestore.errors import MissingExtraError; raise MissingExtraError('a store', 'memo')"
    install("lacking", code, online_stores={"memo": "lacking:Store"})
    with pytest.raises(MissingExtraError, match=r"a store needs"):
        plugins.load(plugins.ONLINE_STORES, "memo", OnlineAdapter)


def test_two_packages_that_claim_one_name_are_told(install: Install, tmp_path: Path) -> None:
    install("one", "", online_stores={"memo": "one:Store", "lmdb": "one:LMDB"})
    install("two", "", online_stores={"memo": "two:Store"})
    with pytest.raises(ConfigError, match=r"2 entry points claim .*'memo': memo = one:Store of the package one 1.0; memo = two"):
        open_online(settings(tmp_path, online="memo:x"), utc_now)
    with pytest.raises(ConfigError, match=r"claim the online store 'lmdb': lmdb = featurestore.*; lmdb = one:LMDB"):
        open_online(settings(tmp_path), utc_now)
    assert plugins.names(plugins.ONLINE_STORES).count("memo") == 1


def test_metadata_older_than_the_code_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.distributions", lambda **_: iter(()))
    monkeypatch.setattr("importlib.metadata.Distribution.discover", lambda **_: iter(()))
    plugins.forget()
    with pytest.raises(ConfigError, match=r"not installed: the installed metadata is older than the code.*pip install -e \."):
        plugins.names(plugins.ENGINES)
    monkeypatch.undo()
    plugins.forget()


def test_a_source_of_another_package_is_read_from_the_registry(install: Install, tmp_path: Path) -> None:
    install("lines", LINES, sources={"lines": "lines:LinesSource"}, source_readers={"lines": "lines:LinesReader"})
    cls = plugins.load(plugins.SOURCES, "lines", Source)
    source = cls("rows", "a.txt", event_time="at", tags=("x", "y"), rename={"t": "at"})
    text = to_json(source)
    assert '"kind":"lines"' in text
    again = from_json("source", text)
    assert (again, type(again)) == (source, cls)
    reader: Any = open_source(again, tmp_path)
    assert (type(reader).__name__, reader.spec, reader.root) == ("LinesReader", source, tmp_path)


def test_a_stream_may_have_the_source_of_another_package_as_its_batch(install: Install, tmp_path: Path) -> None:
    install("lines", LINES, sources={"lines": "lines:LinesSource"}, source_readers={"lines": "lines:LinesReader"})
    lines = plugins.load(plugins.SOURCES, "lines", Source)("rows", "a.txt", event_time="at", event_id="id")
    columns = {"at": pl.Datetime("us", "UTC"), "id": str}
    stream = StreamSource("s", "redis://h", topic="t", columns=columns, event_time="at", event_id="id", batch=lines)
    assert from_json("source", to_json(stream)) == stream
    assert type(open_source(stream, tmp_path)).__name__ == "StreamReader"


def test_a_source_whose_package_is_gone_is_told(install: Install) -> None:
    with pytest.raises(UnknownSourceError, match=r"kind 'lines', which no installed package brings.*featurestore\.sources"):
        from_json("source", '{"kind":"lines","name":"rows","event_time":"at","path":"a.txt"}')


def test_a_source_that_nobody_else_could_read_is_not_written() -> None:
    @dataclass(frozen=True)
    class Local(Source, kind="csv"):
        path: str

    @dataclass(frozen=True)
    class NowhereSource(Source):
        path: str

    with pytest.raises(DefinitionError, match=r"of the kind 'nowhere', but no installed package declares that kind"):
        to_json(NowhereSource("rows", "x", event_time="at"))
    with pytest.raises(DefinitionError, match=r"of the kind 'csv', but that kind is csv = .*source:CSVSource"):
        to_json(Local("rows", "x", event_time="at"))


def test_a_kind_is_the_name_of_its_class_or_what_the_class_says() -> None:
    assert (ParquetSource.kind, FrameSource.kind, Source.kind) == ("parquet", "frame", "source")
    assert type("AnySource", (Source,), {}, kind="what").kind == "what"


AGGREGATE = """
    from featurestore.aggregates import Count

    class Product(Count, name="product"):
        pass
"""


def test_an_aggregate_of_another_package_is_found_by_its_name(install: Install) -> None:
    install("maths", AGGREGATE, aggregates={"product": "maths:Product"})

    class V(FeatureView, entity=Entity("e", k=str), source=ParquetSource("s", "x", event_time="t")):
        n: int = count().over("1h")

    with patch.dict(AGGREGATES):
        written = to_json(V.__view__).replace('"name":"count"', '"name":"product"')
        spec = from_json("view", written)
        assert isinstance(spec, ViewSpec)
        assert type(spec.features[0].window.aggregate).__module__ == "maths"  # type: ignore[union-attr]  # it has one
        assert to_json(spec) == written


def test_an_aggregate_of_another_package_refuses_a_name_that_is_taken(install: Install) -> None:
    """One of the table, one that a package declares that nobody has imported, and one of the same class name elsewhere."""
    install("maths", AGGREGATE, aggregates={"product": "maths:Product"})
    install("sums", AGGREGATE.replace("product", "sum").replace("Product", "Sum"), aggregates={"total": "sums:Sum"})
    with pytest.raises(ConfigError, match=r"sums 1\.0 cannot be imported: .*'sum' is taken by featurestore\.aggregates\.sums\.Sum"):
        plugins.load(plugins.AGGREGATES, "total", Aggregate)
    with pytest.raises(DefinitionError, match=r"'product' is taken by product = maths:Product of the package maths 1\.0"):
        type("Product", (Count,), {"__module__": "elsewhere"}, name="product")
    assert "product" not in AGGREGATES


def test_an_entity_needs_no_plug_in() -> None:
    """So that a project of definitions alone can be looked at where nothing is installed."""
    assert from_json("entity", to_json(Entity("e", k=str))) == Entity("e", k=str)


def test_the_folders_of_a_store_that_nobody_brings_are_those_of_the_others(tmp_path: Path) -> None:
    """So that the doctor, which opening it tells what is wrong, tells of all else too."""
    assert store_folders(settings(tmp_path, online="memo:x")) == {"history": tmp_path / ".featurestore/offline"}


OFFLINE = """
    from featurestore.offline.backend import OfflineBackend

    class Memory(OfflineBackend):
        history = feature_log = maintenance = repair = None

        def __init__(self, *opened):
            self.opened = opened

        @classmethod
        def open(cls, url, context, locks):
            return cls(url, context.project, context.threads, locks)
"""


def test_an_offline_store_of_another_package_does_what_it_can_and_says_what_it_cannot(install: Install, tmp_path: Path) -> None:
    install("memory", OFFLINE, offline_stores={"mem": "memory:Memory"})
    given, locks = settings(tmp_path, project="p", offline="mem://bucket", threads=3), FileLocks(tmp_path)
    backend = open_offline(given, utc_now, locks)
    assert backend.opened == ("mem://bucket", "p", 3, locks)  # type: ignore[attr-defined]  # the plug-in's own
    assert history_folder(given) is None
    assert list(store_folders(given)) == ["online"]
    for lacking, call in {
        "a way to erase entities. Erase them there": lambda: backend.eraser,
        "a way to run SQL": lambda: backend.query("select 1", {}),
        "a way to back up a project": lambda: backend.copy_project("p", str(tmp_path / "copy")),
        "a way to delete a project": lambda: backend.delete_project("p", dry_run=True),
        "a place for the secret of tombstones. Give the setting 'tombstone_secret'": lambda: backend.secret("p"),
    }.items():
        with pytest.raises(OfflineStoreError, match=f"The offline store Memory does not have {lacking}"):
            call()


def test_a_folder_may_be_told_as_an_address(tmp_path: Path) -> None:
    given = settings(tmp_path, offline=f"file://{tmp_path}/lake")
    assert history_folder(given) == tmp_path / "lake"
    open_offline(given, utc_now, FileLocks(tmp_path))
