"""Workers in processes of their own: they are started, and come to their end or are killed."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def start_worker(name: str, folder: Path, *words: object) -> subprocess.Popen[str]:
    """Starts a worker of this folder, ``"push_worker"`` say, in a project's folder, which is made."""
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", f"tests.workers.{name}", str(folder), *map(str, words)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str], seconds: float = 120) -> str:
    """Waits for a worker that is to come to its end; returns what it printed."""
    out, err = process.communicate(timeout=seconds)
    assert process.returncode == 0, err
    return out
