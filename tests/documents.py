"""Runs what a page of the documentation shows.

The blocks of a page share one namespace and one temporary folder, in their order:

- ``python``: is executed; with ``>>>`` in it, as a doctest. If the next block is ``text``, that is what it must print.
- a block whose first line is a comment with a file's name (``# definitions/flights.py``): is written to that file.
- ``python excerpt FILE``: is not executed; its lines must stand in that file, in their order.
- ``console``: each ``$ featurestore …`` is run through the command line, ``$ cd …`` followed, other commands passed over.
  What is shown below a command must be what it prints.
- ``<!-- python`` … ``-->``: is executed, and readers do not see it.

What is printed is compared line by line without regard to spaces and rules; ``...`` stands for anything.
"""

import doctest
import io
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from featurestore.cli.app import app

ROOT = Path(__file__).parent.parent
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
_FENCE = re.compile(r"^```(\w*)(?: excerpt (\S+))?\n(.*?)^```$|^<!-- (python)\n(.*?)^-->$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"^# ([\w./-]+\.(?:py|toml))$")
_RULES = re.compile(r"[─━│┃┌┐└┘├┤┬┴┼╭╮╰╯═╞╡╪┆╶╴]+")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, the line of the page at which that begins, and the file it is an excerpt of."""

    language: str
    text: str
    line: int
    excerpt: str = ""


def blocks(page: str) -> list[Block]:
    found = []
    for match in _FENCE.finditer(page):
        language, excerpt, text, hidden, unseen = match.groups()
        line = page.count("\n", 0, match.start(5 if hidden else 3)) + 1
        found.append(Block(hidden or language, unseen if hidden else text, line, excerpt or ""))
    return found


def run_page(path: Path, folder: Path) -> None:
    """Runs a page in a folder, which must be the current one."""
    page = path.read_text(encoding="utf-8")
    namespace: dict[str, Any] = {"__name__": "__main__"}
    shown = blocks(page)
    for block, following in zip_longest(shown, shown[1:]):
        file = _FILE.match(block.text.partition("\n")[0])
        if block.excerpt:
            _check_excerpt(block, path)
        elif file and block.language in ("python", "toml"):
            target = folder / file[1]
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(block.text, encoding="utf-8")
        elif block.language == "python" and ">>> " in block.text:
            _run_doctest(block, path, namespace)
        elif block.language == "python":
            printed = _execute(block, path, namespace)
            if following and following.language == "text":
                check(following.text, printed, f"{path}:{following.line}")
        elif block.language == "console":
            _run_commands(block, path)


def check(expected: str, printed: str, place: str) -> None:
    """Compares what is shown with what was printed."""
    wanted, found = _plain(expected), _plain(printed)
    assert doctest.OutputChecker().check_output(wanted, found, FLAGS), f"{place}: shown\n{wanted}\nbut printed\n{found}"


def _check_excerpt(block: Block, path: Path) -> None:
    """Checks that the lines of an excerpt stand in their file, in their order; the file may have others between them."""
    file = Path(block.excerpt) if Path(block.excerpt).exists() else ROOT / block.excerpt
    there = iter([line.strip() for line in file.read_text(encoding="utf-8").splitlines()])
    for number, line in enumerate(block.text.splitlines()):
        assert line.strip() in there, f"{path}:{block.line + number}: not in {block.excerpt} here: {line}"


def _plain(text: str) -> str:
    lines = (re.sub(r"\s+", " ", _RULES.sub(" ", line)).strip() for line in text.splitlines())
    return "\n".join(line for line in lines if line) + "\n"


def _execute(block: Block, path: Path, namespace: dict[str, Any]) -> str:
    code = compile("\n" * (block.line - 1) + block.text, str(path), "exec")
    printed = io.StringIO()
    with redirect_stdout(printed):
        exec(code, namespace)
    return printed.getvalue()


def _run_doctest(block: Block, path: Path, namespace: dict[str, Any]) -> None:
    test = doctest.DocTestParser().get_doctest(block.text, namespace, path.name, str(path), block.line - 1)
    test.globs = namespace
    told: list[str] = []
    failed, _ = doctest.DocTestRunner(optionflags=FLAGS, verbose=False).run(test, out=told.append, clear_globs=False)
    assert not failed, "".join(told)


def _run_commands(block: Block, path: Path) -> None:
    for number, command, expected in _commands(block.text):
        place = f"{path}:{block.line + number}"
        words = shlex.split(command, comments=True)
        if words[0] == "cd":
            os.chdir(words[1])
        elif words[0] == "featurestore":
            done = CliRunner().invoke(app, words[1:])
            assert done.exit_code == 0 or expected, f"{place}: {command} ended with {done.exit_code}:\n{done.output}"
            assert done.exception is None or isinstance(done.exception, SystemExit), f"{place}: {done.exception!r}"
            if expected.strip():
                check(expected, done.output, place)


def _commands(text: str) -> Iterator[tuple[int, str, str]]:
    """Yields each command of a block: its line, the command, and what is shown below it."""
    parts: list[tuple[int, str, list[str]]] = []
    for number, line in enumerate(text.splitlines()):
        if line.startswith("$ "):
            parts.append((number, line[2:], []))
        elif parts and parts[-1][1].endswith("\\"):
            parts[-1] = (parts[-1][0], parts[-1][1].removesuffix("\\") + line.strip(), parts[-1][2])
        elif parts:
            parts[-1][2].append(line)
    for number, command, shown in parts:
        yield number, command, "\n".join(shown)


def links(page: str) -> Sequence[str]:
    """The targets of a page's links, those in code left out."""
    text = re.sub(r"^```.*?^```$|`[^`\n]*`", "", page, flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", text)


def anchors(page: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```$", "", page, flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title) for title in titles]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in plain}
