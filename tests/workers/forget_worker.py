"""A process that forgets an entity, and may be killed at a point: ``python -m tests.workers.forget_worker FOLDER POINT``."""

import sys
from pathlib import Path

from tests.crashes import killed_at
from tests.privacy.test_forget import RARE, Project


def main(folder: str, point: str) -> None:
    """Forgets."""
    project = Project(Path(folder), str, RARE, None)
    with killed_at(int(point)):
        project.store.admin.forget("user", {"user_id": RARE})
    project.store.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
