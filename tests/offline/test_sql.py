"""SQL over the history where DuckDB finds something else around it than a script."""

import subprocess
import sys
from pathlib import Path

import pytest

_NOTEBOOK = """
import sys, types
shell = types.SimpleNamespace(config={"IPKernelApp": {}})
sys.modules["IPython"] = types.ModuleType("IPython")
sys.modules["IPython"].get_ipython = lambda: shell
"""
"""What DuckDB looks at to tell whether it runs in Jupyter; there is no ipywidgets in the tests' environment."""
_QUERIES = """
from datetime import UTC, datetime
from pathlib import Path
import polars as pl
from featurestore import Entity, FeatureStore, FeatureView, FrameSource

at = datetime(2013, 7, 1, tzinfo=UTC)

rows = pl.DataFrame({"u": ["a"], "at": [at], "x": [1.5]})

class Scores(FeatureView, entity=Entity("user", u=str), source=FrameSource("s", rows, event_time="at")):
    x: float

with FeatureStore(Path(sys.argv[1]), clock=lambda: at) as store:
    store.apply([Scores])
    store.materialize()
    trained = store.training_frame("select u, event_time as t from scores", Scores, time="t")
    print(store.sql("select x from scores").item(), trained["x"].item())
"""


@pytest.mark.parametrize("around", ["import sys", _NOTEBOOK], ids=["script", "notebook"])
def test_n01_a_select_works_in_a_notebook_without_widgets(around: str, tmp_path: Path) -> None:
    """DuckDB turns its progress bar off there, and refuses to be asked to."""
    command = [sys.executable, "-W", "error", "-c", around + _QUERIES, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "1.5 1.5\n", "")
