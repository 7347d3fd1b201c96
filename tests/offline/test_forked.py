"""F26: a child that was forked after its parent used the history gets an error of ours, and look-ups go on."""

import os
import sys
from pathlib import Path

import pytest

from featurestore.clock import from_micros
from featurestore.errors import FeatureStoreError, OfflineStoreError
from tests.oracle import Row
from tests.projects import frame_of, parquet_of, store_at, view_of


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("use", ["sql", "upkeep", "status"])
def test_f26_a_forked_child_is_told_that_it_cannot_use_the_history(tmp_path: Path, use: str) -> None:
    rows = frame_of([Row(("a",), 1, 1, (1.0,))], {"k": str}, {"x": float})  # type: ignore[dict-item]  # Polars takes both
    with store_at(tmp_path / "project", lambda: from_micros(1000)) as store:
        store.apply([view_of(parquet_of(tmp_path / "data", [rows]), {"k": str}, {"x": float | None})])
        store.materialize()
        uses = {
            "sql": lambda: store.sql("from v"),
            "upkeep": store.upkeep,
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
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert store.sql("from v").height == 1
