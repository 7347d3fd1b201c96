"""The files for operators in docs/ops: they parse, and name commands, options and settings that there are."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from featurestore.cli.app import app
from featurestore.config import setting_names

OPS = Path(__file__).parent.parent / "docs" / "ops"


def called() -> list[list[str]]:
    """The words after ``featurestore`` in each of the files."""
    found: list[list[str]] = []
    for document in yaml.safe_load_all((OPS / "kubernetes.yaml").read_text()):
        found += [[str(word) for word in each["args"]] for each in containers(document)]
    for text in ((OPS / "featurestore@.service").read_text(), (OPS / "Containerfile").read_text()):
        for units in re.findall(r"enable --now (.*)", text):
            found += [[unit.partition("@")[2]] for unit in units.split()]
        found += [line.split() for line in re.findall(r"flights-features (\w.*)", text)]
    return found


def containers(value: Any) -> list[dict[str, Any]]:
    inner = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    own = value.get("containers", []) if isinstance(value, dict) else []
    return [*own, *(each for part in inner for each in containers(part))]


def test_there_is_something_to_look_at() -> None:
    assert {words[0] for words in called()} == {"apply", "serve", "schedule", "stream", "status"}


@pytest.mark.parametrize("words", called(), ids=" ".join)
def test_commands_and_their_options_are_there(words: list[str]) -> None:
    told = CliRunner().invoke(app, [words[0], "--help"], env={"COLUMNS": "200"}).output
    assert "Usage" in told
    for word in words[1:]:
        assert not word.startswith("-") or word in told


@pytest.mark.parametrize("file", sorted(path.name for path in OPS.iterdir()))
def test_settings_are_there(file: str) -> None:
    text = (OPS / file).read_text()
    for name in re.findall(r"FEATURESTORE_([A-Z_]+)", text):
        assert name.lower().replace("__", ".") in setting_names()
    for name in re.findall(r"\b(?:server|schedule)\.\w+", text):
        assert name in setting_names()
