"""The lowest versions that ``pyproject.toml`` allows of what other tools pin too; all other tests run on the newest."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.slow

WIDE = ("typer", "msgspec", "rich", "filelock")
"""Packages that tools beside the feature store pin: code generators, notebooks, other command lines."""


def lowest(name: str) -> str:
    """Return the lowest version of a dependency that is allowed."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    [bounds] = [re.fullmatch(rf"{name}>=([\d.]+),<[\d.]+", each) for each in listed if each.startswith(f"{name}>")]
    assert bounds is not None, f"{name} has no lowest version"
    return bounds[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the lowest versions, which Python finds before those of the environment."""
    folder = tmp_path_factory.mktemp("lowest")
    pins = [f"{name}=={lowest(name)}.*" if lowest(name).count(".") == 1 else f"{name}=={lowest(name)}" for name in WIDE]
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), *pins]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def test_a_project_runs_on_the_lowest_versions(site: Path, tmp_path: Path) -> None:
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("FEATURESTORE_", "PYTEST_"))}
    variables |= {"PYTHONPATH": f"{site}{os.pathsep}{ROOT}", "COLUMNS": "100"}

    def run(*words: str) -> str:
        program = [sys.executable, "-W", "error::DeprecationWarning", "-m", "featurestore.cli", *words]
        done = subprocess.run(program, cwd=tmp_path, env=variables, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    code = f"import {', '.join(WIDE)}; print(*[{', '.join(f'{name}.__file__' for name in WIDE)}])"
    shown = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=True).stdout
    assert shown.count(str(site)) == len(WIDE)
    assert "Usage" in run("--help")
    assert "Usage" in run("status", "--help")
    run("init", "shop")
    run("-C", "shop", "apply")
    run("-C", "shop", "materialize")
    for command in ("status", "runs", "list", "doctor"):
        run("-C", "shop", command)
        run("-C", "shop", command, "--json")
    assert "1001" in run("-C", "shop", "online", "churn_model", "customer_id=1001", "--json")
