"""The documentation is true: its examples run, its references are current, its links lead somewhere."""

import doctest
import importlib
import inspect
import os
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from functools import reduce
from pathlib import Path
from unittest.mock import patch

import pytest

import featurestore
from featurestore.aggregates import AGGREGATES
from featurestore.clock import parse_length
from featurestore.config import Settings, setting_names
from tests.documents import FLAGS, ROOT, anchors, links, run_page

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
MODULES = ["featurestore", *(each.name for each in pkgutil.walk_packages(featurestore.__path__, "featurestore."))]
FIXTURES = {"featurestore.online.redis.store": {"url": "valkey_url"}, "featurestore.online.lmdb.store": {"folder": "tmp_path"}}
"""The names that a module's examples take as given, and the fixtures that give them."""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder to be in, without settings from outside."""
    folder = tmp_path / "project"
    folder.mkdir()
    for name in list(os.environ):
        if name.startswith("FEATURESTORE_") or name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.chdir(folder)
    with patch.dict(AGGREGATES):  # a page may define one
        yield folder
    os.chdir(ROOT)


def page_name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_the_examples_of_a_page_run_as_shown(page: Path, project: Path) -> None:
    run_page(page, project)


@pytest.mark.parametrize(
    "page",
    [
        "```python\nprint(1)\n```\nprose\n```text\n2\n```\n",
        "```python\n>>> 1\n2\n\n```\n",
        "```python\nassert False\n```\n",
        "<!-- python\nassert False\n-->\n",
        "```python excerpt pyproject.toml\n[project]\n[build-system]\n```\n",
        "```console\n$ featurestore status\n```\n",
        "```console\n$ featurestore --version\nfeaturestore nought\n```\n",
    ],
)
def test_a_page_that_is_wrong_is_noticed(page: str, project: Path) -> None:
    path = project / "page.md"
    path.write_text(page, encoding="utf-8")
    with pytest.raises(AssertionError):
        run_page(path, project)


@pytest.mark.parametrize("module", MODULES)
def test_the_examples_of_a_module_run_as_shown(module: str, project: Path, request: pytest.FixtureRequest) -> None:
    if module == "featurestore.engines.ray":
        pytest.importorskip("ray", reason="the extra 'ray' is not installed")
    loaded = importlib.import_module(module)
    tests = [test for test in doctest.DocTestFinder(exclude_empty=True).find(loaded) if test.examples]
    given = {name: request.getfixturevalue(fixture) for name, fixture in FIXTURES.get(module, {}).items()} if tests else {}
    for test in tests:
        test.globs.update(given)
        told: list[str] = []
        failed, _ = doctest.DocTestRunner(optionflags=FLAGS, verbose=False).run(test, out=told.append)
        assert not failed, "".join(told)


@pytest.mark.parametrize("name", featurestore.__all__)
def test_every_public_name_has_an_example(name: str) -> None:
    doc = inspect.getdoc(getattr(featurestore, name)) or ""
    assert "Example:\n" in doc
    assert ">>> " in doc


def test_every_public_method_says_what_it_is() -> None:
    silent = [
        f"{name}.{member}"
        for name in featurestore.__all__
        for member, value in vars(getattr(featurestore, name)).items()
        if not member.startswith("_") and (inspect.isroutine(value) or isinstance(value, property)) and not inspect.getdoc(value)
    ]
    assert not silent


def test_the_reference_is_current() -> None:
    done = subprocess.run([sys.executable, ROOT / "docs" / "generate.py", "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_reference_names_every_command_and_public_name() -> None:
    from featurestore.cli.loader import COMMANDS

    python = (ROOT / "docs" / "reference" / "api.md").read_text(encoding="utf-8")
    shell = (ROOT / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")
    assert [name for name in featurestore.__all__ if f"\n### {name}\n" not in python] == []
    assert [name for name in COMMANDS if f"\n## featurestore {name}\n" not in shell] == []


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    wrong = []
    for link in links(page.read_text(encoding="utf-8")):
        place, _, anchor = link.partition("#")
        if re.match(r"https?:|mailto:", place):
            continue
        target = (page.parent / place).resolve() if place else page
        if not target.exists() or (anchor and anchor not in anchors(target.read_text(encoding="utf-8"))):
            wrong.append(link)
    assert not wrong


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_the_files_of_the_package_that_a_page_names_are_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    inside = {each.name for each in (ROOT / "featurestore").iterdir() if (each / "__init__.py").exists()}
    folders = "|".join(sorted(inside - {"definitions"}))  # a project has a folder of that name too
    named = set(re.findall(rf"`(?:featurestore/)?((?:{folders})/[\w/*]+\.(?:py|lua))`", text))
    assert not [name for name in named if not list((ROOT / "featurestore").glob(name))]


def test_every_page_is_in_the_index() -> None:
    index = ROOT / "docs" / "index.md"
    listed = {(index.parent / link.partition("#")[0]).resolve() for link in links(index.read_text(encoding="utf-8"))}
    assert [page_name(page) for page in sorted((ROOT / "docs").rglob("*.md")) if page not in {*listed, index}] == []


def test_the_settings_are_told_with_their_defaults() -> None:
    page = (ROOT / "docs" / "how-to" / "operate.md").read_text(encoding="utf-8")
    told = dict(re.findall(r"^\| `([\w.]+)` \| `([^`]*)` \|", page, re.MULTILINE))
    defaults = {name: reduce(getattr, name.split("."), Settings()) for name in setting_names()}
    lengths = {name: parse_length(told[name]) for name, default in defaults.items() if isinstance(default, timedelta)}
    assert lengths == {name: parse_length(defaults[name]) for name in lengths}
    assert {**told, **dict.fromkeys(lengths)} == {name: None if name in lengths else str(defaults[name]) for name in defaults}


def test_every_rule_that_a_page_names_is_there() -> None:
    rules = set(re.findall(r"^- \*\*(S\d+)\*\*", (ROOT / "docs" / "semantics.md").read_text(encoding="utf-8"), re.MULTILINE))
    assert len(rules) == 22
    for page in PAGES:
        assert set(re.findall(r"\bS[1-9]\d?\b", page.read_text(encoding="utf-8"))) <= rules, page_name(page)


def test_every_aggregate_is_told_with_its_value_over_no_inputs() -> None:
    """``sum_(x)`` is the aggregate ``sum``; a line whose value is ``null`` says so of an aggregate whose value is None."""
    page = (ROOT / "docs" / "concepts" / "windows.md").read_text(encoding="utf-8")
    told = re.findall(r"^\| `(\w+?)_?\([^`]*\)` \|.*\| ([^|]*) \|$", page, re.MULTILINE)
    values = {"0": 0, "null": None, "empty list": ()}
    assert {name for name, _ in told} == set(AGGREGATES)
    assert [name for name, empty in told if AGGREGATES[name].empty != values[empty.strip()]] == []
