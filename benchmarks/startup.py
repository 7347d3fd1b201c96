"""Start-up: the first keystroke and the first import, against a bare interpreter that imports what they need."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from statistics import median

from benchmarks.measure import Line

RUNS = 15
COMPLETING = {"_FEATURESTORE_COMPLETE": "complete_bash", "COMP_WORDS": "featurestore ", "COMP_CWORD": "1"}
CALL = "import sys; sys.argv = ['featurestore', *sys.argv[1:]]; from featurestore.cli import main; main()"


def lines(*, full: bool) -> Iterator[Line]:
    """Measures processes from their start to their end, ours and the floor by turns, with compiled bytecode."""
    cases = [
        ("featurestore --help", ["-c", CALL, "--help"], {}, "import typer"),
        ("featurestore --version", ["-c", CALL, "--version"], {}, "import typer"),
        ("completion of a command", ["-c", CALL], COMPLETING, "import typer"),
        ("from featurestore import FeatureStore", ["-c", "from featurestore import FeatureStore"], {}, "import polars"),
    ]
    for what, words, environment, floor in cases:
        ours, bare = [], []
        for _ in range(RUNS + 1):
            ours.append(_seconds(words, environment))
            bare.append(_seconds(["-c", floor], {}))
        mine, other = median(ours[1:]), median(bare[1:])  # the first ones compile
        yield Line(what, f"{mine * 1e3:.0f} ms", f"{other * 1e3:.0f} ms ({floor})", f"{mine / other:.2f}×", "-", None)


def _seconds(words: list[str], environment: dict[str, str]) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, *words], env=os.environ | environment, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began
