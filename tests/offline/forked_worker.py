"""Uses the history, forks, and uses it in the child: in a process of its own, for a child of one with many threads may hang."""

import os
import sys
from pathlib import Path

from featurestore.clock import from_micros
from featurestore.errors import FeatureStoreError, OfflineStoreError
from tests.oracle import Row
from tests.projects import frame_of, parquet_of, store_at, view_of


def main(folder: Path, use: str) -> int:
    rows = frame_of([Row(("a",), 1, 1, (1.0,))], {"k": str}, {"x": float})  # type: ignore[dict-item]  # Polars takes both
    with store_at(folder / "project", lambda: from_micros(1000)) as store:
        store.apply([view_of(parquet_of(folder / "data", [rows]), {"k": str}, {"x": float | None})])
        store.materialize()
        uses = {
            "sql": lambda: store.sql("from v"),
            "upkeep": store.admin.maintain,
            "status": store.status,
        }
        child = os.fork()
        if child == 0:
            code = 1
            try:
                assert store.online("v", [{"k": "a"}]).to_dicts()[0]["x"] == 1.0
                uses[use]()  # type: ignore[no-untyped-call]  # they are our own
                code = 2
            except OfflineStoreError as error:
                code = 0 if "forked" in str(error) else 3
            except FeatureStoreError as error:
                sys.stderr.write(str(error))
                code = 4
            finally:
                os._exit(code)
        ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert store.sql("from v").height == 1
    return ended


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2]))
