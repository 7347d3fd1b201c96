"""What users may rely on: the public names, what importing them costs, and the tree of errors."""

import inspect
import pickle
import re
import subprocess
import sys

import pytest

import featurestore
from featurestore import errors

PUBLIC = [
    "CSVSource",
    "DeltaSource",
    "Entity",
    "Feature",
    "FeatureService",
    "FeatureStore",
    "FeatureView",
    "FrameSource",
    "OnDemandView",
    "ParquetSource",
    "Request",
    "SQLSource",
    "StreamSource",
    "count",
    "count_distinct",
    "first",
    "last",
    "last_n",
    "max_",
    "mean",
    "min_",
    "quantile",
    "std",
    "sum_",
    "var",
]

HEAVY = [
    "adbc_driver_manager", "apscheduler", "deltalake", "duckdb", "hiredis", "lmdb", "numpy", "pandas", "psycopg", "pyarrow",
    "redis", "rich", "sqlalchemy", "starlette", "typer",
]  # fmt: skip


def test_the_public_names_are_these() -> None:
    assert featurestore.__all__ == sorted(featurestore.__all__) == PUBLIC
    assert all(hasattr(featurestore, name) for name in PUBLIC)


def test_the_root_defines_nothing_else() -> None:
    """Submodules appear as attributes once they are imported; nothing else may."""
    assert all(hasattr(featurestore, name) for name in PUBLIC)  # they are there once they were asked for
    lazy = {"TYPE_CHECKING", "Any", "import_module"}
    named = {name for name, value in vars(featurestore).items() if not name.startswith("_") and not inspect.ismodule(value)} - lazy
    assert named == set(PUBLIC)


@pytest.mark.parametrize(
    ("code", "loaded"),
    [
        ("import featurestore", []),
        ("from featurestore import FeatureStore", []),
        ("from featurestore import FeatureStore; FeatureStore('.')", ["polars", "pydantic", "sqlalchemy"]),
        (
            "from featurestore import Entity, FeatureView, ParquetSource; "
            "type('V', (FeatureView,), {'__annotations__': {'x': float}}, entity=Entity('e', k=str), "
            "source=ParquetSource('s', 'x.parquet', event_time='t'))",
            ["polars"],
        ),
    ],
    ids=["import", "the name of the class", "a store", "a definition"],
)
def test_importing_and_defining_loads_nothing_heavy(code: str, loaded: list[str]) -> None:
    """Naming ``FeatureStore`` loads no library. Opening one loads SQLAlchemy too, for every use of a store asks the registry."""
    report = f"import sys; {code}; print(*sorted({{*sys.modules}} & {{*{HEAVY!r}, 'polars', 'pydantic'}}))"
    done = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=True)
    assert done.stdout.split() == loaded


def test_the_client_loads_no_engine() -> None:
    # httpx loads rich, where it is installed, for a command line of its own.
    heavy = {"polars", "pydantic", "pydantic_settings", "starlette", "uvicorn", *HEAVY} - {"rich"}
    report = f"import sys; import featurestore.client; print(*sorted({{*sys.modules}} & set({heavy!r})))"
    done = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def error_tree() -> dict[str, str]:
    """Each error's name in the tree that the module's docstring draws, with the name it hangs from."""
    parents: dict[str, str] = {}
    branch: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        drawn = re.match(r"^( {4}[│ ]*(?:[├└]── )?)([A-Z]\w+)(?: {2,}|$)", line)
        if drawn:
            depth, name = len(drawn[1]), drawn[2]
            branch = [(known, above) for known, above in branch if known < depth]
            parents[name] = branch[-1][1] if branch else "Exception"
            branch.append((depth, name))
    return parents


def test_the_tree_of_errors_is_drawn_as_it_is() -> None:
    defined = {
        name: value
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, Exception) and value.__module__ == errors.__name__
    }
    assert error_tree() == {name: value.__bases__[0].__name__ for name, value in defined.items()}
    assert error_tree()["FeatureStoreError"] == "Exception"


def test_every_error_is_documented() -> None:
    for name in error_tree():
        assert inspect.getdoc(getattr(errors, name))


@pytest.mark.parametrize(
    "error",
    [
        errors.NotFoundError("view", "x", ["y"]), errors.DefinitionErrors([errors.DefinitionError("a", "b.py:1")]),
        errors.UnprotectError(["x"]), errors.ConcurrentApplyError(["x"]), errors.BreakingChangeError(["x"]),
        errors.MissingExtraError("a", "b"), errors.LeaseLostError("a", "b"), errors.RejectedRowsError("v", {"a": 1}, "k"),
        errors.NameClashError("a", "b", "c"), errors.LimitError("m", "rows"), errors.UnavailableError("m", 2.0),
        errors.RequestError("m", row=3), errors.UnknownAggregateError("a"), errors.OnlineStoreError("m"),
    ],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_an_error_comes_out_of_another_process_as_it_was_raised(error: errors.FeatureStoreError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again)) == (type(error), str(error))
    assert {name: repr(value) for name, value in vars(again).items()} == {name: repr(value) for name, value in vars(error).items()}
