"""Redaction of errors: for a view with personal features an error names what failed and where, and no value.

An error's text goes into terminals, logs, the registry and webhooks, which nobody thinks of as places of personal data, and what
libraries raise quotes the values that it is about. So of such a view their texts are left out, with the errors themselves, whose
texts a traceback would print; and what stands in quotes in ours is shown only where it is a name.
"""

import re
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import polars as pl

from featurestore.definitions.feature_view import ViewSpec
from featurestore.errors import DefinitionError, DefinitionErrors, FeatureStoreError, MaterializeError, RegistryError
from featurestore.shortage import shortage_of

T = TypeVar("T")

LEFT_OUT = "(its text is left out: there are personal features)"
_CAST = re.compile(
    r"conversion from `([\w\[\], μ()]+)` to `([\w\[\], μ()]+)` failed in column '([^']*)' for (\d+) out of (\d+) values"
)
_QUOTED = re.compile(r"""'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)"|`([^`]*)`|\[([^\[\]]*)\]""")
_NUMBER = re.compile(r"(?<![\w'\"])[-+]?\d[\d.]*(?:e[-+]?\d+)?(?= is (?:no|not a valid) )")
_SHORTEST = 4
_OWN = Path(__file__).parent.parent


def is_personal(view: ViewSpec) -> bool:
    """Return whether a view has features that are personal information."""
    return any(feature.pii for feature in view.features)


def discreetly(views: Iterable[ViewSpec], work: Callable[[], T], columns: Callable[[], Iterable[str]] = tuple) -> T:
    """Return the work's result; for views with personal features, raise its errors without values.

    Args:
        views: the views that it is done for.
        work: does it.
        columns: returns the columns of their source, whose names may appear in an error.

    Raises:
        MaterializeError: it fails with an error that is not ours.
        FeatureStoreError: it fails with one that is.
    """
    concerned = list(views)
    if not any(map(is_personal, concerned)):
        return work()
    try:
        return work()
    except RegistryError as error:
        failure: FeatureStoreError = error
        cause = None
    except FeatureStoreError as error:
        failure = error
        cause = error
    except (Exception, pl.exceptions.PanicException) as error:  # noqa: BLE001 - whatever it is, its text may tell values
        names = ", ".join(repr(view.name) for view in concerned)
        failure = MaterializeError(f"view {names} fails: {described(error)}")
        failure.__cause__ = shortage_of(error)
        cause = None
    if cause is not None:
        known = {*_names(concerned)}
        with suppress(FeatureStoreError):  # the very error, for one
            known.update(columns())
        without_values(cause, known)
    # Outside of the handler, so that the library's error is not the context of ours.
    raise failure


def discreet_text(text: str, views: Iterable[ViewSpec] | None) -> str:
    """Return a text of ours about rows of some views: of those with personal features without what it says of their values.

    Where it is not known which views these are, None, it is as if they had some.

    Example:
        >>> discreet_text("'ann@example.org' is not a valid time", [])
        "'ann@example.org' is not a valid time"
    """
    concerned = list(views or ())
    if views is not None and not any(map(is_personal, concerned)):
        return text
    return _NUMBER.sub("…", _plain(text, (), {*_names(concerned)}))


def described(error: BaseException) -> str:
    """Return an error's type, the dtypes and counts of a failed cast, and the user's line that raised it."""
    cast = _CAST.search(str(error)) if isinstance(error, pl.exceptions.PolarsError) else None
    lines = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_users(frame.filename)]
    where = f" in {Path(lines[-1].filename).name}, line {lines[-1].lineno}" if lines else ""
    if cast is None:
        return f"{type(error).__name__}{where} {LEFT_OUT}"
    actual, wanted, column, count, total = cast.groups()
    return (
        f"{type(error).__name__}{where}: a cast from {actual} to {wanted} fails in column {column!r} for {count} of {total} values"
    )


def without_values(error: FeatureStoreError, names: Collection[str]) -> FeatureStoreError:
    """Take out of an error of ours what an error beneath it says, and what it quotes, but for names; return it.

    Example:
        >>> str(without_values(FeatureStoreError("'ann@example.org' is not a valid Int64 for the column 'age'"), {"age"}))
        "'…' is not a valid Int64 for the column 'age'"
    """
    beneath = sorted({line for cause in _causes(error) for line in _lines_of(cause)}, key=len, reverse=True)
    lacked = shortage_of(error)
    error.__context__ = None
    error.__cause__ = lacked  # which tells no value
    error.args = tuple(_plain(cause, beneath, names) if isinstance(cause, str) else cause for cause in error.args)
    if isinstance(error, DefinitionError):
        error.problem = _plain(error.problem, beneath, names)
    if isinstance(error, DefinitionErrors):
        for cause in error.faults:
            without_values(cause, names)
    return error


def _plain(text: str, beneath: Iterable[str], names: Collection[str]) -> str:
    for line in beneath:
        text = text.replace(line, LEFT_OUT)
    return _QUOTED.sub(lambda match: _masked(match, names), text)


def _masked(match: "re.Match[str]", names: Collection[str]) -> str:
    inner = next(group for group in match.groups() if group is not None)
    if inner in names or inner.startswith("featurestore ") or _is_path(inner):
        return match[0]
    if match[4] is not None and not inner.strip():
        return match[0]
    return f"{match[0][0]}…{match[0][-1]}"


def _is_path(text: str) -> bool:
    try:
        return "/" in text and Path(text).exists()
    except (OSError, ValueError):
        return False


def _names(views: Iterable[ViewSpec]) -> Iterator[str]:
    for view in views:
        source = view.source
        yield from (view.name, source.name, view.entity.name, *view.entity.keys, *view.feature_names, *view.stored_schema)
        yield from (*source.time_columns, *source.rename, *source.rename.values())
        yield from (str(value) for value in (getattr(source, name, None) for name in ("path", "url", "topic", "table")) if value)


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = {id(error)}
    left = [error.__cause__, error.__context__]
    while left:
        cause = left.pop()
        if cause is not None and id(cause) not in seen:
            seen.add(id(cause))
            yield cause
            left += [cause.__cause__, cause.__context__]


def _lines_of(error: BaseException) -> Iterator[str]:
    if isinstance(error, FeatureStoreError):  # whose text is ours, and is looked at as such
        return
    for text in (str(error), repr(error)):
        for line in [text, *text.splitlines()]:
            stripped = line.strip().rstrip(".:")
            if len(stripped) >= _SHORTEST:
                yield stripped


def _is_users(filename: str) -> bool:
    path = Path(filename)
    return not path.is_relative_to(_OWN) and "site-packages" not in path.parts and path.suffix == ".py" and path.exists()
