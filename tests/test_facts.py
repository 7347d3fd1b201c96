"""``scripts/facts --check`` finds words of the old register, and lets good English pass."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FACTS = Path(__file__).parent.parent / "scripts" / "facts"


def check(folder: Path, source: str, module: str = "planted.py") -> subprocess.CompletedProcess[str]:
    """Run the check over a package of one module."""
    (folder / "scripts").mkdir()
    (folder / "featurestore").mkdir()
    script = shutil.copy(FACTS, folder / "scripts")
    (folder / "featurestore" / module).write_text(source)
    return subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("source", "word"),
    [
        ('"""Writes files anew."""\n', "anew"),
        ('"""Whoever asks may see it."""\n', "whoever"),
        ('raise ValueError(f"{given!r} is no feature.")\n', "is no"),
        ('"""Panics, which are\n    no exceptions."""\n', "are no"),
        ('"""It asks in\nvain."""\n', "in vain"),
        ('"""The definitions at hand."""\n', "at hand"),
        ('"""Does it.\n\nArgs:\n    told: is told of it.\n"""\n', "told"),
    ],
)
def test_a_planted_word_is_found(source: str, word: str, tmp_path: Path) -> None:
    checked = check(tmp_path, source)
    assert checked.returncode == 1
    assert checked.stdout == f"planted:1: {word}\n"


def test_good_english_passes(tmp_path: Path) -> None:
    checked = check(
        tmp_path,
        '"""There is no view, there are\nno rows, and it is no longer here.\n\nArgs:\n    on_result: called with ``told``.\n"""\n'
        "anew = 1  # whoever reads code: comments and names are not checked\n",
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_a_planted_word_is_found_on_a_page_and_not_in_its_code(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# Title\n\n```python\ntold = 1\n```\n\nIt is `told`, and told.\n")
    assert check(tmp_path, "").stdout == "README.md:7: told\n"


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("found = 1\n", "found"),
        ("def act(held):\n    pass\n", "held"),
        ("names = [each for each in ()]\n", "each"),
        ("if (made := 1) > 0:\n    pass\n", "made"),
        ("async def act(*, told=None):\n    pass\n", "told"),
        ("with open(place) as found:\n    pass\n", "found"),
    ],
)
def test_a_local_that_says_nothing_is_found(source: str, name: str, tmp_path: Path) -> None:
    checked = check(tmp_path, source)
    assert (checked.returncode, checked.stdout) == (1, f"planted:1: {name}\n")


def test_attributes_and_arguments_of_others_may_have_such_names(tmp_path: Path) -> None:
    assert check(tmp_path, "row.found = read(held=1).made\n").returncode == 0
