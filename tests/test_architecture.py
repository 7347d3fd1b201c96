"""The house holds: what may import what, who may use which library, where the time is read, how large things may grow.

The modules stand in rows, and a module imports only from its own row and from the rows above it. Imports inside functions
and for annotations count as well. Where a row is narrower than that, the test that says so is below.
"""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "featurestore"

_PORTS = (
    "offline.backend",
    "offline.condition",
    "offline.history_size",
    "offline.ledger_record",
)
"""Modules beside ``base.py`` that have a port."""

_FOLDERS = (
    "object_listing",
    "object_storage",
    "shown_errors",
    "offline.folder",
    "offline.folder_probe",
    "offline.local_folder",
    "offline.object_errors",
    "offline.object_files",
    "offline.object_folder",
    "offline.open_folder",
    "offline.scan",
)
"""What histories, sources and training files stand on: they lie in folders, of this machine or in object storage."""

ROWS: dict[str, tuple[str, ...]] = {
    "ground": (
        "suggestion",
        "given_paths",
        "arrow_zones",
        "errors",
        "plugins",
        "shortage",
        "type_names",
        "dtypes",
        "durable",
        "clock",
        "collector",
        "config",
        "row_codec",
        "forking",
        "hints",
        "identity",
        "instants",
        "locks",
        "object_storage",
        "once",
        "reports",
        "setting_errors",
        "settings_loader",
        "version",
        "zones",
        *_FOLDERS,
    ),
    "aggregates": ("aggregates", "aggregates.*"),
    "definitions": ("definitions", "definitions.*", "access", "access.grants"),
    "pure": (
        "access.*",
        "selection",
        "selection.*",
        "rows",
        "rows.*",
        "on_demand",
        "on_demand.evaluate",
        "online.plan",
        "privacy",
        "privacy.mentions",
        "privacy.tombstone_set",
        "project",
        "project.expression_check",
        "project.row_locality",
        "project.source_notices",
        "retrieval",
        "retrieval.assembly",
        "retrieval.join_plan",
        "streams.decoder",
        "windows",
        "windows.lookup",
        "windows.segment_tree",
        "windows.tile_reader",
        "windows.tiles",
    ),
    "ports and registry": (
        "engines",
        "offline",
        "online",
        "sources",
        "streams",
        "*.base",
        *_PORTS,
        "registry",
        "registry.*",
        "project.collect",
        "project.definition_loader",
        "project.importer",
        "project.pii_changes",
        "project.validate",
    ),
    "adapters": ("engines.*", "offline.*", "online.*", "sources.*", "streams.dead_letters", "streams.nats", "streams.redis"),
    "operations": (
        "materialization",
        "materialization.*",
        "maintenance",
        "maintenance.*",
        "on_demand.values",
        "privacy.*",
        "project.apply",
        "retrieval.*",
        "scheduling",
        "scheduling.*",
        "streams.*",
        "windows.writer",
    ),
    "components": ("adapters", "components", "history_sizes"),
    "store": (
        "maintenance.admin",
        "maintenance.project_checks",
        "maintenance.project_status",
        "maintenance.registry_status",
        "materialization.registry_versions",
        "materialization.runs",
        "materialization.versions",
        "materialization.writes",
        "namespaces",
        "project_registry",
        "retrieval.reads",
        "scheduling.api",
        "store",
        "worker_project",
        "",
    ),
    "client": ("client", "client.*"),
    "server and cli": ("server", "server.*", "cli", "cli.*", "demo", "demo.*"),
    "testing": ("testing", "testing.*"),
}
"""The rows from top to bottom, each with its modules' names inside the package; a whole name counts before a pattern."""

LIBRARIES: dict[str, tuple[str, ...]] = {
    "apscheduler": ("scheduling.*",),
    "sqlalchemy": ("registry.*",),
    "psycopg": ("registry.timeouts",),
    "crc32c": ("row_codec",),
    "duckdb": ("offline.delta.sql", "sources.sql_backends"),
    "filelock": ("locks",),
    "deltalake": ("offline.delta.*", "sources.delta*"),
    "redis": ("online.redis.*", "streams.redis"),
    "hiredis": ("online.redis.*",),
    "nats": ("streams.nats",),
    "lmdb": ("online.lmdb.*",),
    "ray": ("engines.ray",),
    "obstore": ("offline.object_files", "offline.object_folder"),
    "adbc_driver_manager": ("sources.sql_backends",),
    "adbc_driver_postgresql": ("sources.sql_backends",),
    "polars_hash": ("identity", "rows.buckets"),
    "pydantic": ("config", "setting_errors", "settings_loader", "definitions.request"),
    "pydantic_settings": ("settings_loader",),
    "typer": ("cli.*",),
    "rich": ("cli.*", "demo.*"),
    "msgspec": (
        "row_codec",
        "definitions.serialization",
        "streams.decoder",
        "streams.dead_letters",
        "registry.*",
        "cli.*",
        "server.*",
        "client.*",
    ),
    "pyarrow": (
        "arrow_zones",
        "offline.delta.log_entries",
        "retrieval.sink",
        "sources.delta_commits",
        "sources.parquet",
        "sources.sql_backends",
        "zones",
        "server.*",
        "client.*",
    ),
    "starlette": ("server.*",),
    "uvicorn": ("server.run", "server.workers", "server.http.connection"),
    "swagger_ui_bundle": ("server.endpoints.docs_ui",),
    "prometheus_client": ("server.*",),
    "jwt": ("server.security.oidc",),
    "opentelemetry": ("server.telemetry.tracing",),
    "httpx": ("client.*",),
    "pytest": ("testing", "testing.*"),
    "hypothesis": ("testing.*",),
    "polars": ("*",),
}
"""Which modules may import which library; a library that is not here may be imported by none."""

TIME_READERS = {"now", "utcnow", "today"}
TIME_FUNCTIONS = {"perf_counter", "sleep"}
"""What may be taken from the module ``time``: a stopwatch, and waiting."""

WRITES = {"write_parquet", "sink_parquet", "write_text", "write_bytes", "rename", "unlink", "rmdir", "rmtree", "mkdir", "makedirs",
          "touch", "hardlink_to", "symlink_to", "copy", "copy2", "copyfile", "copytree", "remove", "fsync"}  # fmt: skip
"""What changes files, whoever's method or function it is; besides ``replace`` of one path and ``open`` for writing."""

WRITERS = {
    "durable": "the module for it",
    "client.frames": "a training frame, which its asker may read as umask says; the client knows nothing of stores",
    "retrieval.sink": "as client.frames",
    "retrieval.parts": "Parquet that is made in memory",
    "retrieval.pieces": "files of the work in hand, in a temporary folder",
    "retrieval.training": "the folder of a sink",
    "server.endpoints.training": "as retrieval.pieces",
    "server.decoding.pool": "as retrieval.pieces",
    "server.telemetry.metrics": "counters of the processes that run now",
    "server.run": "sockets",
    "server.telemetry.audit": "appends for as long as it runs",
    "demo.*": "data of the demo",
    "testing.*": "folders of tests",
}
"""Who writes files by itself, and why that need not outlast a power cut."""

NO_FILES = {("online.redis.store", "link"), ("streams.redis", "link")}
"""Whose methods have such names and are about keys."""

LONGEST = 600
LOCAL_IMPORTS = 13
"""How many functions outside of the server may import."""
PUBLIC_METHODS = 7
MOST_ARGUMENTS = 6
MANY_ARGUMENTS = {"store.FeatureStore": "the settings that nearly every call gives, each with its name"}
"""The constructors that take more, and why; the fields of a frozen value are its own."""
VAGUE = {"utils", "util", "common", "core", "helpers", "helper", "manager", "managers", "misc"}


@dataclass(frozen=True)
class Import:
    """One imported name: the module it is in (for one of ours without the package), and where."""

    module: str
    name: str
    line: int
    for_types: bool


@cache
def modules() -> dict[str, Path]:
    """Every module of the package by its name inside it; the package itself is the empty name."""
    found = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        parts = file.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


@cache
def tree_of(module: str) -> ast.Module:
    return ast.parse(modules()[module].read_text(encoding="utf-8"))


def row_of(module: str) -> int:
    for number, patterns in enumerate(ROWS.values()):
        if module in patterns:
            return number
    for number, patterns in enumerate(ROWS.values()):
        if any(fnmatchcase(module, pattern) for pattern in patterns):
            return number
    raise AssertionError(f"featurestore.{module} stands in no row: put it into one of tests/test_architecture.py's ROWS")


def row_name(module: str) -> str:
    return list(ROWS)[row_of(module)]


@cache
def imports_of(module: str) -> tuple[Import, ...]:
    tree = tree_of(module)
    typing_only = {
        id(each)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for statement in node.body
        for each in ast.walk(statement)
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [Import(each.name, "", node.lineno, id(node) in typing_only) for each in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}:{node.lineno}: a relative import"
            found += [Import(node.module or "", each.name, node.lineno, id(node) in typing_only) for each in node.names]
    return tuple(found)


def ours(module: str) -> Iterator[Import]:
    """The imports of our own modules."""
    for each in imports_of(module):
        if each.module.split(".")[0] == "featurestore":
            inner = each.module.removeprefix("featurestore").removeprefix(".")
            below = f"{inner}.{each.name}".strip(".")
            target, name = (below, "") if each.name and below in modules() else (inner, each.name)
            yield Import(target, name, each.line, each.for_types)


def in_row(name: str) -> list[str]:
    return [module for module in modules() if row_name(module) == name]


def family(module: str) -> str:
    """The folder that a module is in."""
    return module.split(".")[0]


def is_port(module: str) -> bool:
    return module.endswith(".base") and row_name(module) == "ports and registry"


def class_of(module: str, name: str) -> ast.ClassDef:
    return next(node for node in tree_of(module).body if isinstance(node, ast.ClassDef) and node.name == name)


def test_a_module_imports_only_from_its_row_and_those_above() -> None:
    wrong = [
        f"{module} ({row_name(module)}), line {each.line}: {each.module} ({row_name(each.module)})"
        for module in modules()
        for each in ours(module)
        if row_of(each.module) > row_of(module) and not (row_name(module) == "pure" and is_port(each.module))
    ]
    assert not wrong


def test_pure_modules_take_only_values_from_a_port() -> None:
    """What a pure module makes for a port it makes in the port's own words: a frozen value, never a protocol to call."""
    wrong = []
    for module in in_row("pure"):
        for each in ours(module):
            if is_port(each.module):
                made = class_of(each.module, each.name)
                frozen = any("dataclass(frozen=True" in ast.unparse(decorator) for decorator in made.decorator_list)
                if made.bases or not frozen:
                    wrong.append(f"{module}, line {each.line}: {each.name} of {each.module} is no frozen value")
    assert not wrong


def test_an_adapter_knows_no_other_family_and_no_registry() -> None:
    """But for the port of engines: one that has much to do is given what may do it on other machines."""
    wrong = [
        f"{module}, line {each.line}: {each.module}"
        for module in in_row("adapters")
        for each in ours(module)
        if row_of(each.module) >= row_of("registry") and family(each.module) != family(module) and each.module != "engines.base"
    ]
    assert not wrong


def test_operations_know_ports_and_never_an_adapter() -> None:
    wrong = [
        f"{module}, line {each.line}: {each.module}; take the port, and let adapters.py pick"
        for module in in_row("operations")
        for each in ours(module)
        if row_name(each.module) == "adapters"
    ]
    assert not wrong


def test_no_module_imports_an_adapter_of_another_family() -> None:
    """They are found by their entry points, as those of other packages are."""
    users = {
        module
        for module in modules()
        for each in ours(module)
        if row_name(each.module) == "adapters"
        and family(each.module) != family(module)
        and (module, each.module) != ("adapters", "offline.open_folder")  # which picks a folder by its address
    }
    assert not users


def test_the_server_the_command_line_and_the_demo_talk_to_the_store() -> None:
    """Names of other rows may be used for annotations; at run time only what is pure."""
    hidden = {"ports and registry", "adapters", "operations"}
    wrong = [
        f"{module}, line {each.line}: {each.module}; ask the store"
        for module in in_row("server and cli")
        if module != "server.backend"  # which is the server's way to the store
        for each in ours(module)
        if not each.for_types and row_name(each.module) in hidden
    ]
    assert not wrong


def test_the_client_knows_errors_alone() -> None:
    """And paths; and the names of dtypes and time zones, where it makes frames, for which Polars is loaded."""
    frames = {
        ("client.frames", "dtypes"),
        ("client.frames", "zones"),
        *((f"client.{name}", "given_paths") for name in ("frames", "store")),
    }
    wrong = [
        f"{module}, line {each.line}: {each.module}"
        for module in in_row("client")
        for each in ours(module)
        if each.module != "errors" and family(each.module) != "client" and (module, each.module) not in frames
    ]
    assert not wrong


def test_nobody_but_its_users_imports_the_client() -> None:
    users = {module for module in modules() for each in ours(module) if row_name(each.module) == "client"}
    assert {family(module) for module in users} <= {"client", "cli", "demo"}


def test_there_are_no_cycles() -> None:
    graph = {module: {each.module for each in ours(module)} - {module} for module in modules()}
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, f"a cycle: {' → '.join([*path[path.index(module) :], module])}"
        if module not in done:
            for target in sorted(graph[module]):
                visit(target, (*path, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def test_nobody_imports_the_root() -> None:
    """Inside the package a name is imported from the module that defines it."""
    assert not [f"{module}, line {each.line}" for module in modules() for each in ours(module) if each.module == ""]


def test_a_library_is_imported_in_its_own_adapter_alone() -> None:
    wrong = []
    for module in modules():
        for each in imports_of(module):
            library = each.module.split(".")[0]
            if library not in sys.stdlib_module_names and library != "featurestore":
                allowed = LIBRARIES.get(library, ())
                if not any(fnmatchcase(module, pattern) for pattern in allowed):
                    wrong.append(f"{module}, line {each.line}: {library}, which is allowed in {allowed or 'none'}")
    assert not wrong


def test_the_list_of_libraries_is_what_is_installed_with_it() -> None:
    """Every library that is imported is one that pyproject.toml asks for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    imported = ("redis", "nats", "object", "postgres", "ray", "server", "testing", "tracing", "client")
    asked = [*project["dependencies"], *(each for name in imported for each in extras[name])]
    names = {re.split(r"[\[<>=~!; ]", each)[0].replace("-", "_") for each in asked}
    # pytz is DuckDB's to import, uvloop and httptools are uvicorn's, fsspec is DuckDB's and obstore's.
    called = {"PyJWT": "jwt", "opentelemetry_api": "opentelemetry", "nats_py": "nats"}
    assert set(LIBRARIES) == {called.get(name, name) for name in names} - {"pytz", "uvloop", "httptools", "fsspec"}


def test_time_is_read_in_the_clock_alone() -> None:
    assert not [reading for module in modules() if module != "clock" for reading in time_readings(module)]


def time_readings(module: str) -> Iterator[str]:
    taken = imports_of(module)
    yield from (f"{module}, line {each.line}: time.{each.name}" for each in taken if each.module == "time" and each.name
                and each.name not in TIME_FUNCTIONS)  # fmt: skip
    has_time = any(each.module == "time" and not each.name for each in taken)
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner, name = ast.unparse(node.func.value), node.func.attr
            if name in TIME_READERS or (has_time and owner == "time" and name not in TIME_FUNCTIONS):
                yield f"{module}, line {node.lineno}: {owner}.{name}(); take the time from a Clock"


def file_changes(module: str) -> Iterator[str]:
    """The calls of a module that change files, but for what a function of ``durable`` is given to fill an open file with."""
    ours_to_call = {each.name for each in ours(module) if each.module == "durable"}
    filling = {
        id(node.body)
        for node in ast.walk(tree_of(module))
        if isinstance(node, ast.Lambda) and isinstance(node.body, ast.Call)
        and [ast.unparse(each) for each in node.body.args[:1]] == [each.arg for each in node.args.args]
    }  # fmt: skip
    for node in ast.walk(tree_of(module)):
        if not isinstance(node, ast.Call) or id(node) in filling:
            continue
        called = ast.unparse(node.func)
        owner, _, name = called.rpartition(".")
        if name in ours_to_call and not owner:
            continue
        modes = [each.value for each in node.args + [word.value for word in node.keywords] if isinstance(each, ast.Constant)]
        opens = name == "open" and any(isinstance(mode, str) and set(mode) & set("wax+") <= set(mode) <= set("rwaxbt+")
                                       and mode.strip("rbt") for mode in modes)  # fmt: skip
        opens = opens or (called == "os.open" and "O_CREAT" in ast.unparse(node))
        # Of a text ``replace`` takes two arguments, of a date and a definition names.
        moves = name == "replace" and len(node.args) == 1 and not node.keywords and bool(owner)
        # Frames, dictionaries and ports have methods of these names too.
        ambiguous = name in ("copy", "remove", "rename") and owner not in ("os", "shutil", "path", "beside")
        if opens or moves or (name in WRITES and not ambiguous and (module, owner) not in NO_FILES):
            yield f"{module}, line {node.lineno}: {called}(…)"


def test_files_that_last_are_written_in_one_module_alone() -> None:
    """Else somebody forgets what it takes that they outlast a power cut, and whom they are to be kept from."""
    bound = [module for module in modules() if not any(fnmatchcase(module, pattern) for pattern in WRITERS)]
    assert [each for module in bound for each in file_changes(module)] == [], "use featurestore.durable"


def test_the_rule_of_who_writes_files_is_held_by_what_it_is_for() -> None:
    """The rule finds what it is to find, and no module is free of it without a need."""
    assert all(any(fnmatchcase(module, pattern) and list(file_changes(module)) for module in modules()) for pattern in WRITERS)


def long_modules() -> dict[str, int]:
    lengths = {module: len(file.read_text(encoding="utf-8").splitlines()) for module, file in modules().items()}
    return {module: lines for module, lines in lengths.items() if lines > LONGEST}


def test_a_module_is_short() -> None:
    assert not long_modules()


def test_a_constructor_takes_few_arguments() -> None:
    many = {
        f"{module}.{node.name}"
        for module in modules()
        for node in ast.walk(tree_of(module))
        if isinstance(node, ast.ClassDef)
        for member in node.body
        if isinstance(member, ast.FunctionDef)
        and member.name == "__init__"
        and len(member.args.args) - 1 + len(member.args.kwonlyargs) > MOST_ARGUMENTS
    }
    assert many == set(MANY_ARGUMENTS)


def functions_that_import() -> dict[str, list[int]]:
    """The functions that import, each with the lines where it does. The command loader imports a command's module by its name."""
    found: dict[str, list[int]] = {}
    for module in modules():
        inside = [node for node in ast.walk(tree_of(module)) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
        for function in inside:
            lines = [each.lineno for each in ast.walk(function) if isinstance(each, (ast.Import, ast.ImportFrom))]
            if lines:
                found[f"{module}:{function.name}"] = lines
    return found


def test_few_functions_import_and_each_says_why() -> None:
    """What a function imports no reader of the module's head sees: it stands there only where start-up pays for it."""
    found = {name: lines for name, lines in functions_that_import().items() if not name.startswith("server.")}
    assert len(found) <= LOCAL_IMPORTS, sorted(found)
    silent = []
    for name, numbers in found.items():
        lines = modules()[name.partition(":")[0]].read_text(encoding="utf-8").splitlines()
        first = min(numbers)
        if "  # " not in lines[first - 1] and not lines[first - 2].strip().startswith("#"):
            silent.append(f"{name}, line {first}")
    assert not silent


def test_a_name_says_what_is_in_it() -> None:
    assert not [module for module in modules() if VAGUE & set(module.split("."))]


def ports() -> list[tuple[str, str]]:
    return [
        (module, node.name)
        for module in modules()
        if is_port(module)
        for node in tree_of(module).body
        if isinstance(node, ast.ClassDef) and any(ast.unparse(base).startswith("Protocol") for base in node.bases)
    ]


def test_every_family_has_a_port() -> None:
    assert {module for module, _ in ports()} == {"engines.base", "offline.base", "online.base", "sources.base", "streams.base"}


@pytest.mark.parametrize(("module", "port"), ports())
def test_a_port_is_small_and_says_what_its_methods_promise(module: str, port: str) -> None:
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    methods = [node for node in class_of(module, port).body if isinstance(node, functions) and not node.name.startswith("_")]
    assert len(methods) <= PUBLIC_METHODS, [node.name for node in methods]
    assert not [node.name for node in methods if not ast.get_docstring(node)]


def test_what_is_switched_off_says_why() -> None:
    wrong = []
    for file in [*modules().values(), *sorted((ROOT / "docs").glob("*.py"))]:
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            ignored = "# type: ignore" in line and not re.search(r"# type: ignore\[[\w, -]+\]  # \w", line)
            silenced = "# noqa" in line and not re.search(r"# noqa: [A-Z]+\d+(, [A-Z]+\d+)* - \w", line)
            if ignored or silenced:
                wrong.append(f"{file.relative_to(ROOT)}:{number}")
    assert not wrong
