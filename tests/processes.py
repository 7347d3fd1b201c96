"""Processes that one of their own forks, in which the package is imported already: an interpreter takes each of them a second.

The first test that starts one starts that process. It only imports: what opens files, connections or threads is for those it forks.
"""

import multiprocessing

PRELOADED = [
    "deltalake",
    "duckdb",
    "featurestore.materialization.writes",
    "featurestore.online.redis.store",
    "featurestore.testing.online",
    "sqlalchemy.dialects.postgresql",
    "sqlalchemy.dialects.sqlite",
    "tests.crashes",
    "tests.registry.samples",
    "tests.registry.test_locks",
    "tests.registry.test_migrations",
    "tests.test_push",
    "tests.workers.backfill_worker",
    "tests.workers.push_worker",
    "tests.workers.schedule_worker",
    "tests.workers.sequence_worker",
    "tests.workers.stream_worker",
    "tests.workers.upkeep_worker",
    "tests.workers.window_worker",
    "tests.workers.worker",
]
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(PRELOADED)
