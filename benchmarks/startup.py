"""Start-up: the first keystroke, a look at the registry, the first import; beside an interpreter that imports what they need."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from benchmarks.measure import Line

RUNS = 15
COMPLETING = {"_FEATURESTORE_COMPLETE": "complete_bash", "COMP_WORDS": "featurestore ", "COMP_CWORD": "1"}
CALL = "import sys; sys.argv = ['featurestore', *sys.argv[1:]]; from featurestore.cli import main; main()"
TYPER, REGISTRY, POLARS = "import typer", "import typer, rich, sqlalchemy, pydantic_settings", "import polars"


def lines(*, full: bool) -> Iterator[Line]:
    """Measures processes from their start to their end, ours and the floor by turns, with compiled bytecode."""
    cases = [
        ("featurestore --help", ["-c", CALL, "--help"], {}, TYPER),
        ("featurestore --version", ["-c", CALL, "--version"], {}, TYPER),
        ("completion of a command", ["-c", CALL], COMPLETING, TYPER),
        ("featurestore runs", ["-c", CALL, "runs"], {}, REGISTRY),
        ("featurestore list", ["-c", CALL, "list"], {}, REGISTRY),
        ("featurestore status", ["-c", CALL, "status"], {}, REGISTRY),
        ("featurestore versions account", ["-c", CALL, "versions", "account"], {}, REGISTRY),
        ("from featurestore import FeatureStore", ["-c", "from featurestore import FeatureStore"], {}, POLARS),
        ("FeatureStore('.')", ["-c", "from featurestore import FeatureStore; FeatureStore('.')"], {}, POLARS),
    ]
    with TemporaryDirectory() as folder:
        project = Path(folder) / "shop"
        for words in (["init", str(project)], ["-C", str(project), "apply"], ["-C", str(project), "materialize"]):
            _seconds(["-c", CALL, *words], {}, Path(folder))
        for what, words, environment, floor in cases:
            ours, bare = [], []
            for _ in range(RUNS + 1):
                ours.append(_seconds(words, environment, project))
                bare.append(_seconds(["-c", floor], {}, project))
            mine, other = median(ours[1:]), median(bare[1:])  # the first ones compile
            yield Line(what, f"{mine * 1e3:.0f} ms", f"{other * 1e3:.0f} ms ({floor})", f"{mine / other:.2f}×", "-", None)


def _seconds(words: list[str], environment: dict[str, str], folder: Path) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, *words], cwd=folder, env=os.environ | environment, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began
