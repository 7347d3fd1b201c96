"""The console script itself: what init says works as it says, and how the process ends."""

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from featurestore.cli.loader import COMMANDS, load
from tests.effort import few

PROGRAM = Path(sys.executable).with_name("featurestore")
ENVIRONMENT = {**os.environ, "PATH": f"{PROGRAM.parent}{os.pathsep}{os.environ['PATH']}", "COLUMNS": "80"}


def call(*words: str, folder: Path, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([PROGRAM, *words], cwd=folder, env=ENVIRONMENT, input=stdin, capture_output=True, text=True, check=False)


def test_what_init_suggests_works(tmp_path: Path) -> None:
    made = call("init", "shop", folder=tmp_path)
    assert made.returncode == 0, made.stderr
    commands = re.findall(r"^  ((?:cd|featurestore) .*)$", made.stdout.partition("Next:")[2], re.MULTILINE)
    assert [command.split()[1] for command in commands] == ["shop", "apply", "materialize", "online", "train"]

    done = subprocess.run(
        " && ".join(commands), shell=True, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "7 to add" in done.stdout
    assert re.search(r"amount +\d+\.\d+ +present", done.stdout)
    assert "missing" not in done.stdout
    assert "expired" not in done.stdout
    assert (tmp_path / "shop" / "train.parquet").stat().st_size > 1000
    status = json.loads(call("-C", "shop", "status", "--json", folder=tmp_path).stdout)
    assert {view["view"]: view["rows"] for view in status} == {"account": 100, "last_order": 600, "spending": 600}


def test_an_error_ends_with_1_and_says_so_on_standard_error(tmp_path: Path) -> None:
    failed = call("-C", "nowhere", "plan", folder=tmp_path)
    assert failed.returncode == 1
    assert failed.stdout == ""
    assert failed.stderr.startswith("Error: ")
    assert "featurestore init nowhere" in failed.stderr


def test_wrong_usage_ends_with_2(tmp_path: Path) -> None:
    failed = call("plann", folder=tmp_path)
    assert failed.returncode == 2
    assert "Did you mean 'plan'?" in failed.stderr


HEAVY = ("polars", "duckdb", "deltalake", "sqlalchemy", "pydantic", "redis", "lmdb", "pyarrow", "msgspec", "rich")
COMPLETING = {"_FEATURESTORE_COMPLETE": "complete_bash", "COMP_WORDS": "featurestore st", "COMP_CWORD": "1"}


def reporting(words: list[str], folder: Path, environment: dict[str, str] | None = None) -> tuple[str, list[str]]:
    """Runs a command; returns what it printed, and which of the heavy libraries it loaded."""
    code = f"""
import atexit, sys
sys.argv = ["featurestore", *{words!r}]
atexit.register(lambda: print(*(name for name in {HEAVY!r} if name in sys.modules), file=sys.stderr))
from featurestore.cli import main
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=os.environ | (environment or {}),
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout, done.stderr.split()


@pytest.mark.parametrize(
    ("words", "environment", "printed"),
    [(["--help"], {}, "materialize"), (["--version"], {}, "featurestore "), ([], COMPLETING, "status\nstream\n")],
    ids=["help", "version", "completion"],
)
def test_the_first_keystroke_loads_no_library_but_typer(
    tmp_path: Path, words: list[str], environment: dict[str, str], printed: str
) -> None:
    shown, loaded = reporting(words, tmp_path, environment)
    assert printed in shown
    assert loaded == []


PRINTED = {
    "runs": "last_order/1/1",
    "runs --json": '"view": "last_order"',
    "list": "last_order",
    "list views --json": '"name": "last_order"',
    "status": "600",
    "status --json": '"rows": 600',
    "versions last_order": "600",
    "versions last_order --json": '"rows": 600',
}


@pytest.mark.parametrize("command", few(PRINTED, ["runs --json", "list", "status", "versions last_order --json"]))
def test_what_the_registry_and_the_logs_know_is_shown_without_an_engine(made_shop: Path, command: str) -> None:
    shown, loaded = reporting(command.split(), made_shop)
    assert PRINTED[command] in shown
    assert loaded == ["sqlalchemy", "pydantic", "msgspec", "rich"]


@pytest.mark.parametrize("command", few(["status --json", "versions account --json"], ["status --json"]))
def test_what_they_do_not_know_is_asked_of_the_store(shop: Path, command: str) -> None:
    row = '{"customer_id": 1, "updated_at": "2026-01-01T00:00:00", "tier": "gold", "newsletter": true}'
    assert call("push", "accounts", "-", folder=shop, stdin=row).returncode == 0
    shown, loaded = reporting(command.split(), shop)
    assert json.loads(shown)[0]["rows"] == 101
    assert "polars" in loaded


def test_a_command_runs_with_the_garbage_collector_switched_on(made_shop: Path) -> None:
    """While a command is imported it is off, and what was imported is looked through no more."""
    code = """
import atexit, gc, sys
sys.argv = ["featurestore", "runs"]
atexit.register(lambda: print(gc.isenabled(), gc.get_freeze_count() > 10_000, file=sys.stderr))
from featurestore.cli import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=made_shop, capture_output=True, text=True, check=True)
    assert done.stderr.split() == ["True", "True"]


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_of_commands_says_what_their_own_help_says(name: str) -> None:
    command = load(name)
    assert (command.name, str(command.help).split("\n", 1)[0]) == (name, COMMANDS[name].summary)
    assert bool(COMMANDS[name].examples) != hasattr(command, "commands")


@pytest.mark.parametrize(("answer", "code", "version"), [("n\n", 1, 1), pytest.param("y\n", 0, 2, marks=pytest.mark.slow)])
def test_a_terminal_is_asked_before_rows_are_computed_anew(shop: Path, answer: str, code: int, version: int) -> None:
    definitions = shop / "definitions" / "shop.py"
    definitions.write_text(definitions.read_text().replace('unit="EUR", ge=0', 'unit="EUR", ge=1'))
    ended, told = in_terminal("apply", folder=shop, typed=answer)
    assert "Apply this?" in told
    assert ended == code, told
    assert {view["view"]: view["version"] for view in json.loads(call("status", "--json", folder=shop).stdout)}[
        "last_order"
    ] == version


@pytest.mark.slow
def test_a_terminal_is_not_asked_with_yes_and_sees_bars(shop: Path) -> None:
    definitions = shop / "definitions" / "shop.py"
    definitions.write_text(definitions.read_text().replace('unit="EUR", ge=0', 'unit="EUR", ge=1'))
    ended, told = in_terminal("apply", "--yes", folder=shop)
    assert (ended, "Apply this?" in told) == (0, False)
    ended, told = in_terminal("materialize", folder=shop)
    assert ended == 0
    assert "write history" in told
    assert "━" in told


def in_terminal(*words: str, folder: Path, typed: str = "") -> tuple[int, str]:
    """Runs the program in a pseudo-terminal; returns how it ended and all it wrote there."""
    ours, theirs = pty.openpty()
    environment = {**ENVIRONMENT, "TERM": "xterm"}
    with subprocess.Popen([PROGRAM, *words], cwd=folder, env=environment, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        os.write(ours, typed.encode())
        told = b""
        try:
            while part := os.read(ours, 4096):
                told += part
        except OSError:  # Linux says so when the other end is closed
            pass
    os.close(ours)
    return process.returncode, told.decode()
