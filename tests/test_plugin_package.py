"""The example of a plug-in: installed beside featurestore as it is, it passes the shipped suites, and a project runs on it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "docs" / "examples" / "plugin"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the example installed, built from a copy so that nothing is left beside the original."""
    folder = tmp_path_factory.mktemp("plugin")
    shutil.copytree(EXAMPLE, folder / "source", ignore=shutil.ignore_patterns("__pycache__", ".featurestore", "*.db*"))
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder / "site", folder / "source"]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (folder / "site" / "featurestore_example").is_dir()
    return folder / "site"


def run(site: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("FEATURESTORE_", "PYTEST_"))}
    variables |= {"PYTHONPATH": f"{site}{os.pathsep}{ROOT}", "COLUMNS": "100", "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run([sys.executable, "-m", *words], cwd=folder, env=variables, capture_output=True, text=True, check=False)


def featurestore(site: Path, folder: Path, *words: str) -> str:
    done = run(site, folder, "featurestore.cli", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_passes_the_suites_that_are_shipped(site: Path, tmp_path: Path) -> None:
    shutil.copytree(EXAMPLE / "tests", tmp_path / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(EXAMPLE / "pyproject.toml", tmp_path)
    done = run(site, tmp_path, "pytest", "-q", "-p", "no:cacheprovider", "tests")
    assert done.returncode == 0, done.stdout[-10_000:]
    assert " passed" in done.stdout


def test_a_project_runs_on_its_store_and_its_source(site: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    shutil.copytree(EXAMPLE / "project", project, ignore=shutil.ignore_patterns("__pycache__", ".featurestore", "*.db*"))
    assert "3 to add" in featurestore(site, project, "apply")
    featurestore(site, project, "materialize")
    assert (project / "online.db").exists()
    shown = featurestore(site, project, "online", "climate", "sensor=door", "--at", "2026-03-02T09:15", "--json")
    assert '"celsius_1h":13.5' in shown.replace(" ", "")
    with (project / "data" / "tuesday.jsonl").open("w") as more:
        more.write('{"reading": 5, "sensor": "door", "at": "2026-03-02T09:20:00Z", "celsius": 15.5}\n')
    featurestore(site, project, "materialize")
    shown = featurestore(site, project, "online", "climate", "sensor=door", "--at", "2026-03-02T09:30", "--json")
    assert '"celsius_1h":14.1666' in shown.replace(" ", "")
    assert "online store" in featurestore(site, project, "doctor")


def test_without_its_package_a_project_says_what_is_missing(site: Path, tmp_path: Path) -> None:
    """The definitions folder is not there: the registry alone names the kind of source."""
    project = tmp_path / "project"
    shutil.copytree(EXAMPLE / "project", project, ignore=shutil.ignore_patterns("__pycache__", ".featurestore", "*.db*"))
    featurestore(site, project, "apply")
    shutil.rmtree(project / "definitions")
    assert "climate" in featurestore(site, project, "status")  # another process, with the package and nothing else
    gone = run(Path("nowhere"), project, "featurestore.cli", "status")
    assert gone.returncode == 1
    assert "'jsonl', which no installed package brings" in " ".join((gone.stdout + gone.stderr).split())
    store = run(Path("nowhere"), project, "featurestore.cli", "online", "climate", "sensor=door")
    assert store.returncode == 1
