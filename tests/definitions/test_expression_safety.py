"""What a serialized expression may hold: whoever may write to the registry shall not run code in those who read it."""

import json
import os
import pickle
import sys
from collections.abc import Iterator
from contextlib import suppress
from io import StringIO
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.definitions.expression import Expression
from featurestore.definitions.expression_safety import ForbiddenPartError, check_serialized
from featurestore.errors import RegistryError

a, b, element = pl.col("a"), pl.col("b"), pl.element()

ALLOWED: list[pl.Expr] = [
    a + 1,
    -a,
    ~a,
    a**2,
    a // b,
    a.is_in([1, 2]),
    a.is_in(list(range(5000))),
    a.cast(pl.Enum([f"x{i}" for i in range(40)])),
    a.cast(pl.List(pl.Datetime("us", "UTC"))),
    pl.when(a > 1).then(pl.lit("x")).otherwise(None),
    pl.coalesce("a", "b"),
    pl.max_horizontal("a", "b"),
    pl.sum_horizontal("a", "b"),
    pl.struct("a", "b").struct.field("a"),
    a.struct.with_fields(pl.field("x") + 1),
    a.list.eval(element.filter(element > 1).sum()),
    a.list.eval(element.std()),
    a.list.eval(element.quantile(0.5)),
    a.list.eval(element.sort_by(element)),
    a.list.eval(element.slice(0, 2)),
    a.list.eval(pl.len()),
    a.list.get(0),
    a.arr.sum(),
    a.replace_strict({1: 2}, default=None),
    a.name.prefix("x"),
    a.name.keep(),
    a.str.extract("x"),
    a.str.json_decode(pl.Struct({"x": pl.Int64})),
    pl.format("{}-{}", "a", "b"),
    a.dt.offset_by("1d"),
    a.bin.encode("hex"),
    a.round(2),
    a.clip(0, 1),
    a == b"\x80\x05pickle",
]

PAYLOAD = list(pickle.dumps(print))
COLUMN = {"Column": "a"}
CODE: dict[str, Any] = {
    "a function": {"AnonymousFunction": {"input": [COLUMN], "function": list(b"PLPYFN") + PAYLOAD, "options": {}}},
    "an aggregate": {"AnonymousAgg": {"input": [COLUMN], "function": PAYLOAD}},
    "fold": {"Function": {"input": [COLUMN], "function": {"FoldHorizontal": {"callback": PAYLOAD, "return_dtype": None}}}},
    "reduce": {"Function": {"input": [COLUMN], "function": {"ReduceHorizontal": {"callback": PAYLOAD}}}},
    "cumulative fold": {"Function": {"input": [COLUMN], "function": {"CumFoldHorizontal": {"callback": PAYLOAD}}}},
    "a name": {"RenameAlias": {"function": {"Map": PAYLOAD}, "expr": COLUMN}},
    "a shared library": {
        "Function": {"input": [COLUMN], "function": {"FfiPlugin": {"lib": "/tmp/x.so", "symbol": "f", "kwargs": []}}}
    },
    "a plan": {"SubPlan": [{"PythonScan": {"options": {"scan_fn": PAYLOAD}}}, ["x"]]},
    "a column of objects": {"Literal": {"Series": [*b"....ARROW:extension:name....POLARS_EXTENSION_TYPE", *PAYLOAD]}},
    "a type of objects": {"Cast": {"expr": COLUMN, "dtype": {"Literal": {"List": "Object"}}, "options": "Strict"}},
    "a type made of an expression": {"Cast": {"expr": COLUMN, "dtype": {"OfExpr": COLUMN}, "options": "Strict"}},
    "what does not exist": {"Lambda": PAYLOAD},
}

PLACES: dict[str, Any] = {
    "alone": lambda code: code,
    "named": lambda code: {"Alias": [code, "x"]},
    "kept": lambda code: {"KeepName": code},
    "summed": lambda code: {"Agg": {"Sum": code}},
    "in a quantile": lambda code: {"Agg": {"Quantile": {"expr": COLUMN, "quantile": code, "method": "Nearest"}}},
    "in lists": lambda code: {"Eval": {"expr": COLUMN, "evaluation": code, "variant": "List"}},
    "an argument": lambda code: {"Function": {"input": [COLUMN, code], "function": {"StringExpr": "Uppercase"}}},
    "a branch": lambda code: {"Ternary": {"predicate": COLUMN, "truthy": COLUMN, "falsy": code}},
    "over": lambda code: {"Over": {"function": COLUMN, "partition_by": [code], "order_by": None, "mapping": "GroupsToRows"}},
    "an operand": lambda code: {"BinaryExpr": {"left": COLUMN, "op": "Plus", "right": code}},
    "cast": lambda code: {"Cast": {"expr": code, "dtype": {"Literal": "Int64"}, "options": "Strict"}},
}


@pytest.mark.parametrize("expression", ALLOWED, ids=str)
def test_what_polars_computes_by_itself_is_read(expression: pl.Expr) -> None:
    serialized = expression.meta.serialize(format="json")
    check_serialized(serialized)
    assert Expression("", serialized, ("a",)).polars.meta.eq(expression)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("code", CODE)
def test_what_can_run_code_is_refused_wherever_it_stands(code: str, place: str) -> None:
    with pytest.raises(RegistryError, match=r"holds .*(reading it could run code|Apply the definitions again)"):
        _ = Expression("", json.dumps(PLACES[place](CODE[code])), ("a",)).polars


TAGS = st.sampled_from(["Function", "Literal", "Cast", "Agg", "Alias", "Eval", "input", "function", "dtype", "expr"])
SCALARS = st.none() | st.booleans() | st.integers(-300, 300) | st.text(max_size=5)


@given(st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TAGS, inner, max_size=3), max_leaves=12))
def test_any_json_is_an_expression_or_refused(body: Any) -> None:
    try:
        check_serialized(json.dumps(body))
    except ForbiddenPartError:
        return
    with suppress(RegistryError):  # this version of Polars cannot read it
        assert isinstance(Expression("", json.dumps(body), ()).polars, pl.Expr)


def test_text_that_nests_without_end_is_refused() -> None:
    for text in ("[" * 200_000, '{"KeepName":' * 100_000 + '{"Column":"a"}' + "}" * 100_000, "x", ""):
        with pytest.raises(RegistryError):
            _ = Expression("", text, ()).polars


class _Payload:
    """What makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def callback(ran: Path, protocol: int) -> bytes:
    """A Python function as Polars writes one: a mark, the version of Python, and its pickle."""
    return bytes([0, *sys.version_info[1:3]]) + pickle.dumps(_Payload(ran), protocol)


def planted(ran: Path) -> dict[str, Any]:
    """What runs code, in every form it may have."""
    binary, text = list(callback(ran, 4)), callback(ran, 0).decode()
    name = {"RenameAlias": {"function": {"Map": binary}, "expr": COLUMN}}
    udf = {
        "AnonymousFunction": {"input": [COLUMN], "function": list(b"PLPYFN\x94\xc0\xc0\xc2\xc2" + callback(ran, 4)), "options": {}}
    }
    return {
        "bytes": binary, "text": text, "a map": {"Map": binary}, "a map as text": {"Map": text}, "names": {"MapFieldNames": binary},
        "a type": {"OfExpr": name}, "an expression": name, "a function": udf, "a list": [binary],
    }  # fmt: skip


FUNCTIONS: list[pl.Expr] = [
    *ALLOWED, a.rolling_mean(3), a.struct.rename_fields(["x"]), a.str.strptime(pl.Date, "%Y"), a.bin.reinterpret(dtype=pl.Int32),
    pl.int_range(0, a, dtype=pl.Int32), a.list.to_struct(fields=["x", "y"]), a.replace({1: 2}), a.rolling_mean_by("b", "1d"),
    a.bin_intervals([1, 2], labels=["x", "y", "z"]), a.interpolate(), a.list.sort(), a.str.to_decimal(scale=2), a.rank(), a.hash(),
]  # fmt: skip


def with_one_replaced(body: Any, by: Any) -> Iterator[Any]:
    """Every JSON that comes of some JSON by putting something else in the place of one part of it."""
    yield by
    if isinstance(body, dict):
        for key, value in body.items():
            yield from ({**body, key: changed} for changed in with_one_replaced(value, by))
            yield {**body, key: [value, by]}
    elif isinstance(body, list) and len(body) < 8:
        for place, value in enumerate(body):
            yield from ([*body[:place], changed, *body[place + 1 :]] for changed in with_one_replaced(value, by))


def loads(serialized: str) -> None:
    with suppress(RegistryError, pl.exceptions.PolarsError, pl.exceptions.PanicException):
        pl.DataFrame({"a": [1], "b": [1]}).select(Expression("", serialized, ("a",)).polars)


def test_a_pickle_is_loaded_from_no_place_of_an_expression(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    bodies = [json.loads(expression.meta.serialize(format="json")) for expression in FUNCTIONS]
    for form in planted(ran).values():
        for body in bodies:
            for changed in with_one_replaced(body, form):
                loads(json.dumps(changed))
    assert not ran.exists()


@pytest.mark.parametrize("place", ["a name", "a rolling function", "a type"])
def test_without_the_check_it_would_be_loaded(place: str, tmp_path: Path) -> None:
    """So that the test above can fail."""
    ran = tmp_path / "ran"
    rolling = json.loads(a.rolling_mean(3).meta.serialize(format="json"))
    rolling["Function"]["function"]["RollingExpr"]["function"] = planted(ran)["a map"]
    decode = json.loads(a.str.strptime(pl.Date, "%Y").meta.serialize(format="json"))
    decode["Function"]["function"]["StringExpr"]["Strptime"][0] = planted(ran)["a type"]
    body = {"a name": planted(ran)["an expression"], "a rolling function": rolling, "a type": decode}[place]
    with suppress(pl.exceptions.PolarsError, pl.exceptions.PanicException):
        pl.Expr.deserialize(StringIO(json.dumps(body)), format="json")
    assert ran.exists()
    ran.rmdir()
    with pytest.raises(RegistryError, match="reading it could run code"):
        _ = Expression("", json.dumps(body), ("a",)).polars
    assert not ran.exists()
