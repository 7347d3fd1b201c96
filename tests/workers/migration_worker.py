"""Migrates a registry, and kills itself in a migration's midst: ``python -m tests.workers.migration_worker FOLDER URL VERSION``."""

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

from sqlalchemy import Connection

from featurestore.registry import migrations
from featurestore.registry.database import Database


def main(folder: str, url: str, version: str) -> None:
    step = next(each for each in migrations.MIGRATIONS if each.version == int(version))

    def run_and_die(connection: Connection) -> None:
        step.run(connection)
        print("migrated, not committed", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

    migrations.MIGRATIONS = tuple(replace(each, run=run_and_die) if each is step else each for each in migrations.MIGRATIONS)
    Database(url, Path(folder)).migrate()


if __name__ == "__main__":
    main(*sys.argv[1:])
