"""A process that forgets an entity, and kills itself at a given point: ``python -m tests.workers.forget_worker FOLDER POINT``.

Points are as in ``tests.workers.worker``.
"""

import sys
from pathlib import Path

from tests.privacy.test_forget import RARE, Project
from tests.workers.worker import killed_at


def main(folder: str, point: str) -> None:
    """Forgets."""
    project = Project(Path(folder), str, RARE, None)
    with killed_at(int(point)):
        project.store.admin.forget("user", {"user_id": RARE})
    project.store.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
