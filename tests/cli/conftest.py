"""What the command line's tests share: a runner, and a starter project that is applied and materialized."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from featurestore.cli.app import app

Invoke = Callable[..., Result]


def run(*words: str | Path, code: int = 0, stdin: str | None = None) -> Result:
    """Runs a command in this process, and says how it ended; no command may end with a traceback."""
    result = CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "80", "TERM": "dumb"}, input=stdin)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result


@pytest.fixture
def invoke() -> Invoke:
    return run


@pytest.fixture(scope="session")
def made_shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project that init makes, applied and materialized; not to be changed."""
    folder = tmp_path_factory.mktemp("made") / "shop"
    run("init", folder)
    run("-C", folder, "apply")
    run("-C", folder, "materialize")
    return folder


@pytest.fixture
def shop(made_shop: Path, tmp_path: Path) -> Path:
    """A copy of that project."""
    return shutil.copytree(made_shop, tmp_path / "shop")
