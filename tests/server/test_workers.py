"""Workers that start slowly: they are given the time that the settings say, and signals are heard meanwhile."""

import os
import signal
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import os, signal, socket, sys, threading, time
import uvicorn
from featurestore.server.workers import Workers


class Slow:
    def __reduce__(self):
        return (begun, (os.getpid(),))

    async def __call__(self, scope, receive, send):
        pass


def begun(parent):
    print("begun", os.getpid(), flush=True)
    time.sleep(SECONDS)
    print("there", os.getpid(), flush=True)
    return Slow()


SECONDS = float(sys.argv[1])
if __name__ == "__main__":
    config = uvicorn.Config(Slow(), workers=1, timeout_worker_healthcheck=int(sys.argv[2]), lifespan="off", log_level="error")
    made = socket.create_server(("127.0.0.1", 0))
    made.set_inheritable(True)
    Workers(config, [made]).run()
"""


def run(folder: Path, seconds: float, patience: int) -> "subprocess.Popen[str]":
    program = folder / "program.py"
    program.write_text(PROGRAM)
    return subprocess.Popen(
        [sys.executable, str(program), str(seconds), str(patience)], stdout=subprocess.PIPE, text=True, cwd=Path.cwd(),
        env=os.environ | {"PYTHONPATH": str(Path.cwd())},
    )  # fmt: skip


def test_a_worker_that_starts_slowly_is_not_killed(tmp_path: Path) -> None:
    with run(tmp_path, 3.0, 30) as process:
        assert process.stdout is not None
        told = [process.stdout.readline().split() for _ in range(2)]
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert [word for word, _ in told] == ["begun", "there"]
    assert told[0][1] == told[1][1]


def test_one_that_does_not_answer_is_replaced(tmp_path: Path) -> None:
    with run(tmp_path, 60.0, 1) as process:
        assert process.stdout is not None
        first, second = (process.stdout.readline().split() for _ in range(2))
        process.send_signal(signal.SIGKILL)
        process.wait(30)
        os.kill(int(second[1]), signal.SIGKILL)
    assert (first[0], second[0]) == ("begun", "begun")
    assert first[1] != second[1]
