"""Writes the reference: the Python API from the docstrings, the command line from its own help, HTTP from the routes.

``python docs/generate.py`` writes ``docs/reference/*.md``. With ``--check`` it writes nothing, and ends with 1 where one of them is
not what it would write.
"""

import argparse
import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import typer

import featurestore
from featurestore import errors
from featurestore.aggregates import Aggregate, PartialAggregate
from featurestore.cli.app import app
from featurestore.cli.loader import COMMANDS, load
from featurestore.client import PushedRows, RemoteFeatureStore, RemoteRows
from featurestore.definitions.reference import FeatureReference, ViewReference
from featurestore.definitions.source import Source
from featurestore.definitions.window import Aggregation, aggregate
from featurestore.engines.base import EngineAdapter
from featurestore.maintenance.admin import Admin
from featurestore.maintenance.delete_project import DeletionReport, Removed
from featurestore.maintenance.doctor import DoctorReport, Finding
from featurestore.maintenance.status import StatusReport, ViewStatus
from featurestore.materialization.progress import Progress
from featurestore.materialization.results import MaterializeSummary, PushedView, PushSummary, ViewSummary
from featurestore.materialization.runs import Runs
from featurestore.materialization.versions import Versions
from featurestore.offline.backend import OfflineBackend
from featurestore.offline.history_size import HistorySize, HistorySizes
from featurestore.online.base import OnlineAdapter
from featurestore.plugins import Context, Plugin
from featurestore.privacy.forget import ErasedEntry, ForgetReport
from featurestore.registry.api_keys import Key, Keys
from featurestore.registry.diff import Change, Plan
from featurestore.registry.ledger import Run
from featurestore.retrieval.online_result import OnlineRows
from featurestore.scheduling.api import SchedulerApi
from featurestore.scheduling.turns import Upcoming
from featurestore.server.endpoints.table import ROUTES
from featurestore.server.http.problems import ProblemDetails
from featurestore.server.openapi.dialect import to_openapi
from featurestore.sources.base import ReaderAdapter, SourceContext
from featurestore.streams.base import StreamAdapter
from featurestore.streams.control import DeadLetterEntry, DeadLetters, Streams, StreamStatus
from featurestore.streams.counts import StreamCounts
from featurestore.testing.clock import FakeClock
from featurestore.testing.faults import faulty, interrupted
from featurestore.testing.project import temporary_store

REFERENCE = Path(__file__).parent / "reference"
PACKAGE = Path(__file__).parent.parent / "featurestore"
NOTICE = "<!-- Written by docs/generate.py; change the docstrings and run it again. -->"
WIDTH = 110

GROUPS: dict[str, list[Any]] = {
    "The store": [featurestore.FeatureStore],
    "Definitions": [
        featurestore.Entity,
        featurestore.FeatureView,
        featurestore.Feature,
        featurestore.OnDemandView,
        featurestore.Request,
        featurestore.FeatureService,
    ],
    "Sources": [
        Source,
        featurestore.ParquetSource,
        featurestore.CSVSource,
        featurestore.DeltaSource,
        featurestore.SQLSource,
        featurestore.FrameSource,
        featurestore.StreamSource,
    ],
    "Windows": [
        featurestore.count,
        featurestore.count_distinct,
        featurestore.sum_,
        featurestore.mean,
        featurestore.min_,
        featurestore.max_,
        featurestore.std,
        featurestore.var,
        featurestore.first,
        featurestore.last,
        featurestore.last_n,
        featurestore.quantile,
        Aggregation,
        aggregate,
        Aggregate,
        PartialAggregate,
    ],
    "References": [ViewReference, FeatureReference],
    "The client": [RemoteFeatureStore, RemoteRows, PushedRows],
    "Runs and versions": [Runs, Versions],
    "The scheduler": [SchedulerApi, Upcoming],
    "The streams": [Streams, StreamStatus, DeadLetters, DeadLetterEntry, StreamCounts],
    "API keys": [Keys, Key],
    "Administration": [Admin],
    "Plug-ins": [
        OnlineAdapter,
        OfflineBackend,
        HistorySizes,
        HistorySize,
        ReaderAdapter,
        StreamAdapter,
        EngineAdapter,
        Context,
        SourceContext,
        Plugin,
    ],
    "Testing": [FakeClock, temporary_store, faulty, interrupted],
    "Results": [
        OnlineRows,
        MaterializeSummary,
        ViewSummary,
        PushSummary,
        PushedView,
        StatusReport,
        ViewStatus,
        Run,
        ForgetReport,
        ErasedEntry,
        DeletionReport,
        Removed,
        DoctorReport,
        Finding,
        Plan,
        Change,
        Progress,
    ],
}
"""What the page on Python tells of, in its order. The errors follow."""

SUBCLASSED = (
    featurestore.FeatureView,
    featurestore.OnDemandView,
    featurestore.Request,
    Aggregate,
    OnlineAdapter,
    OfflineBackend,
    HistorySizes,
    ReaderAdapter,
    StreamAdapter,
    EngineAdapter,
)
"""Those that users define by a subclass."""

NOT_CALLED = (*SUBCLASSED, Aggregation, OnlineRows, RemoteRows, PushedRows, MaterializeSummary, PushSummary, StatusReport, Progress,
              ForgetReport, DeletionReport, DoctorReport, Streams)  # fmt: skip
"""Those that users never make by a call."""

SECTIONS = ("Args", "Returns", "Yields", "Raises", "Example")


def api() -> str:
    """Returns the page on Python."""
    lines = [
        "# Python",
        "",
        NOTICE,
        "",
        "What `import featurestore` has, what its calls return, and every error. Names of other modules are imported from "
        "where the heading says.",
    ]
    for title, things in GROUPS.items():
        lines += ["", f"## {title}"]
        for thing in things:
            lines += ["", *thing_lines(thing)]
    tree = inspect.cleandoc(errors.__doc__ or "").split("\n\n")[1]
    lines += ["", "## Errors", "", "From `featurestore.errors`.", "", "```", inspect.cleandoc(tree), "```"]
    for name in re.findall(r"[A-Z]\w+Errors?\b", tree):
        lines += ["", f"### {name}", "", *doc_lines(getattr(errors, name))]
    return "\n".join(lines) + "\n"


def thing_lines(thing: Any) -> Iterator[str]:
    """Yield what is shown of a class or function: its signature, its docstring, its members."""
    name = thing.__name__
    public = name in featurestore.__all__
    yield f"### {name}"
    yield ""
    if not public:
        package, _, _ = thing.__module__.rpartition(".")
        yield f"From `{package if hasattr(sys.modules.get(package), '__all__') else thing.__module__}`."
        yield ""
    if thing not in NOT_CALLED:
        yield from signature_lines(name, thing)
        yield ""
    made = thing not in NOT_CALLED or thing in SUBCLASSED
    yield from doc_lines(thing, without=() if made else ("Args",))
    if inspect.isclass(thing):
        for member, value in members(thing):
            yield ""
            yield f"#### {name}.{member}"
            yield ""
            if not isinstance(value, property):
                yield from signature_lines(member, value)
                yield ""
            yield from doc_lines(value.fget if isinstance(value, property) else value)


def members(cls: type) -> Iterator[tuple[str, Any]]:
    """Yields the public methods and properties of a class, those of bases that the page does not tell of too, in their order."""
    shown = {thing for things in GROUPS.values() for thing in things} - {cls}
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        if base.__module__.startswith("featurestore") and base not in shown:
            for name, value in vars(base).items():
                plain = value.__func__ if isinstance(value, (classmethod, staticmethod)) else value
                if not name.startswith("_") and (inspect.isfunction(plain) or isinstance(plain, property)):
                    found[name] = plain
    yield from found.items()


def signature_lines(name: str, thing: Callable[..., Any]) -> Iterator[str]:
    """Yields a call's signature, as code."""
    signature = inspect.signature(thing)
    parts: list[str] = []
    named_only = False
    for parameter in signature.parameters.values():
        if parameter.name in ("self", "cls", "place"):
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not named_only:
            named_only = True
            parts.append("*")
        parts.append(parameter_text(parameter))
    result = "" if inspect.isclass(thing) else f" -> {type_text(signature.return_annotation)}"
    prefix = "await " if inspect.iscoroutinefunction(thing) else ""
    line = f"{prefix}{name}({', '.join(parts)}){result}"
    yield "```"
    if len(line) <= WIDTH:
        yield line
    else:
        yield f"{prefix}{name}("
        yield from (f"    {part}," for part in parts)
        yield f"){result}"
    yield "```"


def parameter_text(parameter: inspect.Parameter) -> str:
    """Returns a parameter with its type and default."""
    text = str(parameter).partition(":")[0].partition("=")[0]
    if parameter.annotation is not parameter.empty:
        text += f": {type_text(parameter.annotation)}"
    if parameter.default is not parameter.empty:
        default = getattr(parameter.default, "__name__", None) or repr(parameter.default)
        text += f" = {'…' if default == '<factory>' else default}"
    return text


def type_text(annotation: Any) -> str:
    """Returns an annotation as one would write it, without the modules' names."""
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    text = re.sub(r"\bpolars\.[\w.]*\b(DataFrame|LazyFrame|DataType)\b", r"pl.\1", text)
    return re.sub(r"\b(?!pl\.)(?:\w+\.)+(\w+)", r"\1", text)


def doc_lines(thing: Any, without: Sequence[str] = ()) -> Iterator[str]:
    """Yields a docstring as Markdown, some sections left out."""
    for title, body in sections(inspect.getdoc(thing) or ""):
        if title in without:
            continue
        if title == "Example":
            yield ""
            yield "```pycon"
            yield body
            yield "```"
        elif title in ("Args", "Raises"):
            yield ""
            yield f"**{title}**"
            yield ""
            for names, text in entries(body):
                yield f"- {', '.join(f'`{name}`' for name in names.split(', '))}: {as_markdown(text)}"
        elif title:
            yield ""
            yield f"**{title}** {as_markdown(body)}"
        else:
            yield as_markdown(body)


def sections(doc: str) -> Iterator[tuple[str, str]]:
    """Yields a docstring's sections, ``("", text)`` for what is outside of any."""
    for part in re.split(rf"^(?=(?:{'|'.join(SECTIONS)}):$)", doc, flags=re.MULTILINE):
        title, _, rest = part.partition(":\n")
        if title not in SECTIONS:
            yield "", part.strip()
            continue
        # A section ends where the indentation does.
        inside = re.match(r"(?:(?: {4}.*)?(?:\n|$))*", rest)
        end = inside.end() if inside else 0
        yield title, textwrap.dedent(rest[:end]).strip()
        if rest[end:].strip():
            yield "", "\n" + rest[end:].strip()


def entries(body: str) -> Iterator[tuple[str, str]]:
    """Yields the names and texts of a section's entries, whose further lines are indented."""
    for entry in re.split(r"\n(?! )", body):
        name, _, text = entry.partition(": ")
        first, *further = text.split("\n")
        yield name.replace(":", ""), "\n".join([first, *(f"  {line.strip()}" if line.strip() else "" for line in further)])


def as_markdown(text: str) -> str:
    """Returns docstring text with code marked as Markdown does."""
    return text.replace("``", "`")


def cli() -> str:
    """Returns the page on the command line."""
    group: Any = typer.main.get_command(app)
    commands = {name: load(name) for name in COMMANDS}
    lines = [
        "# Command line",
        "",
        NOTICE,
        "",
        *command_lines("featurestore", group),
        "",
        "0 is success, 1 an error, 2 wrong usage, 130 an interruption. Results go to standard output, progress bars, warnings and "
        "errors to standard error. `--json` prints what a script would read.",
        "",
        "| command | does |",
        "| --- | --- |",
        *(f"| [`{name}`](#featurestore-{name}) | {summary(command)} |" for name, command in commands.items()),
    ]
    for name, command in commands.items():
        lines += ["", f"## featurestore {name}", "", *command_lines(f"featurestore {name}", command)]
        for inner, subcommand in getattr(command, "commands", {}).items():
            lines += ["", f"### featurestore {name} {inner}", "", *command_lines(f"featurestore {name} {inner}", subcommand)]
    return "\n".join(lines) + "\n"


def summary(command: Any) -> str:
    """Returns the first sentence of a command's help."""
    return str(command.help).split("\n", 1)[0].strip()


def command_lines(name: str, command: Any) -> Iterator[str]:
    """Yields a command's usage, help, arguments, options and examples."""
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    options = [each for each in command.params if each.param_type_name == "option" and "completion" not in each.name]
    words = [argument_word(each) for each in arguments] or (["COMMAND"] if hasattr(command, "commands") else [])
    yield "```"
    yield " ".join([name, "[OPTIONS]", *words])
    yield "```"
    yield ""
    yield inspect.cleandoc(command.help)
    if arguments or options:
        yield ""
        yield "| | |"
        yield "| --- | --- |"
        for each in arguments:
            yield f"| `{argument_word(each).replace('|', chr(92) + '|')}` | {plain(each.help)} |"
        for each in options:
            value = "" if each.is_flag else f" {each.metavar or 'N'}"
            names = ", ".join(f"`{opt}{value if opt.startswith('--') else ''}`" for opt in sorted(each.opts, key=len, reverse=True))
            default = "" if each.default in (None, False) or callable(each.default) else f" Default: `{each.default}`."
            yield f"| {names} | {plain(each.help)}{default} |"
    shown = [line.strip() for line in (command.epilog or "").splitlines() if line.strip().startswith("$")]
    if shown:
        yield ""
        yield "```sh"
        yield from shown
        yield "```"


def argument_word(argument: Any) -> str:
    """Returns an argument as a usage line has it."""
    word = f"{argument.metavar}{'...' if argument.nargs == -1 else ''}"
    return word if argument.required else f"[{word}]"


def plain(help_text: str | None) -> str:
    """Returns help fit for a table's cell."""
    return (help_text or "").replace("|", "\\|")


def modules() -> str:
    """Return the page of modules: each folder's, with the first line of their docstrings."""
    folders: dict[Path, list[Path]] = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        folders.setdefault(file.parent, []).append(file)
    lines = ["# Modules", "", NOTICE, "", "Which file does what. [Architecture](../architecture.md) follows a row through them."]
    for folder, files in folders.items():
        name = folder.relative_to(PACKAGE.parent).as_posix()
        lines += ["", f"## {name}", ""]
        if folder != PACKAGE:
            lines += [first_line(folder / "__init__.py"), ""]
        lines += ["| file | what it holds |", "| --- | --- |"]
        lines += [
            f"| `{file.relative_to(PACKAGE).as_posix()}` | {first_line(file)} |" for file in files if file.name != "__init__.py"
        ]
    return "\n".join(lines) + "\n"


def first_line(file: Path) -> str:
    """Return the first line of a module's docstring, fit for a table's cell."""
    doc = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return as_markdown(doc.split("\n", 1)[0]).replace("|", "\\|")


def http() -> str:
    """Return the page of the server's routes, and of the structs that they take and answer."""
    lines = ["# HTTP", "", NOTICE, ""]
    lines += [
        "What each route takes and answers. [Serve](../how-to/serve.md) says how they are used; `GET /openapi.json` of a server has"
    ]
    lines += ["the rows and features of each service besides. A route without an operation is not in that document.", ""]
    lines += ["| route | operation | needs |", "| --- | --- | --- |"]
    structs: list[Any] = [ProblemDetails]
    described: list[str] = []
    for route in ROUTES:
        operation = route.operation
        needs = "nothing" if route.permission is None else f"`{route.permission.action}` of {route.permission.kind}"
        name = (
            "" if operation is None else f"[{operation.summary}](#{route.method.lower()}-{re.sub(r'[^a-z0-9_-]', '', route.path)})"
        )
        lines.append(f"| `{route.method} {route.path}` | {name} | {needs} |")
        if operation is None:
            continue
        structs += operation.structs
        called = f"`{operation.id}`" + (" with the name of the service, `lookUpDelayModel`" if operation.of_each_service else "")
        described += ["", f"## {route.method} {route.path}", "", f"{operation.summary}: the operation {called}."]
        if operation.query is not None:
            _, components = msgspec.json.schema_components([operation.query])
            described += ["", *field_lines(to_openapi(components[operation.query.__name__]), "parameter")]
        if operation.bodies:
            described += ["", f"The body: {content_text(operation.bodies)}."]
        described += ["", f"The answer: {content_text(operation.answers)}. {operation.description}"]
    lines += described
    _, components = msgspec.json.schema_components(structs, ref_template="{name}")
    lines += ["", "## Structs"]
    for name, schema in sorted(components.items()):
        converted = to_openapi(schema)
        lines += ["", f"### {name}", "", converted["description"], ""]
        lines += field_lines(converted, "field") if "properties" in converted else [choices_text(converted)]
    return "\n".join(lines) + "\n"


def content_text(kinds: Mapping[str, Any]) -> str:
    """Return what a body may be: its structs, each with the media types that carry it."""
    medias: dict[str, list[str]] = {}
    for media, kind in kinds.items():
        (schema,), _ = msgspec.json.schema_components([kind], ref_template="{name}")
        medias.setdefault("bytes" if kind is bytes else schema_text(to_openapi(schema)), []).append(f"`{media}`")
    return "; ".join(f"{text} as {', '.join(names)}" for text, names in medias.items())


def field_lines(schema: dict[str, Any], word: str) -> list[str]:
    """Return the table of a struct's fields."""
    lines = [f"| {word} | type | |", "| --- | --- | --- |"]
    for name, field in schema["properties"].items():
        needed = "" if name in schema.get("required", ()) else " (may be left out)"
        lines.append(f"| `{name}` | {schema_text(field)} | {field.get('description', '')}{needed} |")
    return lines


def schema_text(schema: dict[str, Any]) -> str:
    """Return a schema in words."""
    if "$ref" in schema:
        return f"[{schema['$ref']}](#{schema['$ref'].lower()})"
    if "allOf" in schema:
        text = schema_text(schema["allOf"][0])
    elif "anyOf" in schema:
        text = " or ".join(schema_text(each) for each in schema["anyOf"])
    elif "enum" in schema:
        text = choices_text(schema) if len(schema["enum"]) < 5 else schema["type"]
    elif schema.get("type") == "array":
        text = f"list of {schema_text(schema['items'])}"
    elif isinstance(schema.get("additionalProperties"), dict):
        text = f"object of {schema_text(schema['additionalProperties'])}"
    else:
        text = schema.get("type", "anything")
    return f"{text} or null" if schema.get("nullable") else text


def choices_text(schema: dict[str, Any]) -> str:
    """Return the values that may be chosen from."""
    return ", ".join(f"`{each}`" for each in schema["enum"])


PAGES = {"api.md": api, "cli.md": cli, "http.md": http, "modules.md": modules}


def main() -> int:
    """Writes or checks the pages; returns the exit code."""
    parser = argparse.ArgumentParser(description="Writes the reference from docstrings and from the command line's help.")
    parser.add_argument("--check", action="store_true", help="write nothing; end with 1 where a page is stale")
    check = parser.parse_args().check
    stale = []
    for name, write in PAGES.items():
        path, text = REFERENCE / name, write()
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            stale.append(name)
            if not check:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
    if check and stale:
        print(f"Stale: {', '.join(stale)}. Run: python docs/generate.py", file=sys.stderr)
        return 1
    print("The reference is current." if not stale else f"Written: {', '.join(stale)}.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
