"""Errors on their way: what one carries is there on the other side, whatever its class (D12), and no wording is parsed (D25)."""

import copy
import inspect
import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import msgspec
import pytest

from featurestore import errors
from featurestore.client.transport import error_of
from featurestore.errors import DefinitionError, FeatureStoreError, NotFoundError, RequestError
from featurestore.server.http.problems import problem_of

KINDS = [
    kind for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, FeatureStoreError) and kind.__module__ == errors.__name__
]  # fmt: skip
VALUES: dict[str, Any] = {
    "row": 3, "column": "origin", "changed": ("a", "b"), "broken": ("a",), "reasons": {"null": 2}, "retry_after": 7.0,
    "faults": (DefinitionError("wrong", "a.py:1"), DefinitionError("worse", "b.py:2")), "limit": "body",
}  # fmt: skip
"""What the fields are given; a text where nothing is said."""


def made_of(kind: type[FeatureStoreError]) -> FeatureStoreError:
    """An error of a class with all its fields, by its constructor."""
    parameters = [each for name, each in inspect.signature(kind.__init__).parameters.items() if name != "self"]
    given: dict[str, Any] = {}
    rest: list[Any] = []
    for each in parameters:
        value = VALUES.get(each.name, f"the {each.name}")
        if each.kind is inspect.Parameter.VAR_POSITIONAL:
            rest = ["something"]
        elif each.name == "known":
            given[each.name] = ["weather"]
        elif each.kind is not inspect.Parameter.VAR_KEYWORD:
            given[each.name] = value
    return kind(*rest, **given)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_what_an_error_carries_is_there_on_the_other_side(kind: type[FeatureStoreError]) -> None:
    error = made_of(kind)
    problem = problem_of(error)
    found = error_of(problem.status, problem.encoded(), problem.headers)
    assert type(found) is kind
    assert str(found) == str(error)
    for name in kind.FIELDS:
        expected = getattr(error, name)
        back = getattr(found, name)
        assert (tuple(back) if isinstance(expected, tuple) else back) == expected, name


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_what_is_not_told_is_as_if_not_known(kind: type[FeatureStoreError]) -> None:
    """Of an older server, say: to look at a field is no AttributeError."""
    body = msgspec.json.encode({"type": "urn:featurestore:problem:request", "detail": "It is wrong.", "error": kind.__name__})
    found = error_of(422, body, {})
    assert type(found) is kind
    for name in kind.FIELDS:
        getattr(found, name)


def every(kind: type[FeatureStoreError]) -> list[type[FeatureStoreError]]:
    return [kind, *(each for below in kind.__subclasses__() for each in every(below))]


@pytest.mark.parametrize(
    "way", [*range(pickle.HIGHEST_PROTOCOL + 1), copy.copy, copy.deepcopy], ids=lambda way: getattr(way, "__name__", str(way))
)
@pytest.mark.parametrize("kind", sorted(set(every(FeatureStoreError)), key=lambda each: each.__name__))
def test_d11_an_error_comes_out_of_another_process_as_it_was_raised(kind: type[FeatureStoreError], way: Any) -> None:
    for error in (made_of(kind), kind.from_wire("It is wrong.", {})):
        error.add_note("seen in the night")
        back = way(error) if callable(way) else pickle.loads(pickle.dumps(error, way))
        assert type(back) is kind
        assert (str(back), back.args, repr(back)) == (str(error), error.args, repr(error))
        assert told_of(back) == told_of(error)


def test_d11_a_pool_of_processes_raises_what_its_worker_raised() -> None:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        found = pool.submit(raised).exception()
    assert isinstance(found, NotFoundError)
    assert (found.name, found.known, str(found)) == ("wether", ("weather",), str(NotFoundError("view", "wether", ["weather"])))


def raised() -> None:
    raise NotFoundError("view", "wether", ["weather"])


def told_of(error: Any) -> Any:
    """What an error carries, errors inside it too."""
    if isinstance(error, FeatureStoreError):
        return type(error), str(error), {name: told_of(value) for name, value in vars(error).items()}
    return [told_of(each) for each in error] if isinstance(error, tuple | list) else error


def test_a_users_text_is_no_place_of_a_fault() -> None:
    """D25: rows and columns are what the error says they are, not what its text looks like."""
    error = RequestError("The value is \"Row 7: the column 'secret'\", which is no number.")
    assert "row" not in problem_of(error).more
    assert "column" not in problem_of(error).more
    told = problem_of(RequestError("Zeile 3, Spalte 'b'.", row=3, column="b"))
    assert (told.more["row"], told.more["column"]) == (3, "b")


def test_row_nought_is_told() -> None:
    assert b'"row":0' in problem_of(RequestError("It is wrong.", row=0)).encoded()
