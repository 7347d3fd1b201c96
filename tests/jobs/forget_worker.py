"""A process that forgets an entity, and kills itself at a given point: ``python -m tests.jobs.forget_worker FOLDER POINT``.

Points are as in ``tests.jobs.worker``.
"""

import sys
import threading
from pathlib import Path

from tests.jobs.test_forget import RARE, Project
from tests.jobs.worker import killer


def main(folder: str, point: str) -> None:
    """Forgets."""
    project = Project(Path(folder), str, RARE, None)
    profile, calls = killer(int(point))
    threading.setprofile(profile)
    sys.setprofile(profile)
    project.store.forget("user", {"user_id": RARE})
    sys.setprofile(None)
    threading.setprofile(None)
    project.store.close()
    print(calls())


if __name__ == "__main__":
    main(*sys.argv[1:])
