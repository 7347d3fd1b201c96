"""F26: a child that was forked after its parent used the history gets an error of ours, and look-ups go on."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.effort import few

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
@pytest.mark.parametrize("use", few(["sql", "upkeep", "status"], ["sql"]))
def test_f26_a_forked_child_is_told_that_it_cannot_use_the_history(tmp_path: Path, use: str) -> None:
    command = [sys.executable, "-m", "tests.offline.forked_worker", str(tmp_path), use]
    done = subprocess.run(command, cwd=ROOT, timeout=120, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
