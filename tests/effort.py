"""How much a test tries: a part of it in the quick run, which leaves the slow tests out; all of it with the slow ones."""

import itertools
import os
from collections.abc import Collection, Sequence
from typing import Any

import pytest
from hypothesis import is_hypothesis_test, settings

from featurestore.testing.examples import examples as of_profile


def is_quick() -> bool:
    """Whether this run leaves the slow tests out; conftest.py loads the profile by that."""
    return settings.get_current_profile_name() == "quick"


def examples(usual: int) -> int:
    """How many examples a property is tried on: a quarter in the quick run, whose profile says 25 of 100, all in the slow one.

    ``FEATURESTORE_EXAMPLES`` says another number, for a longer look by hand.
    """
    given = os.environ.get("FEATURESTORE_EXAMPLES")
    return int(given) if given else of_profile(usual)


def has_more(item: pytest.Item) -> bool:
    """Whether a test tries more in the slow run, and so belongs to both: properties do, and what is marked ``thorough``."""
    return is_hypothesis_test(getattr(item, "obj", None)) or item.get_closest_marker("thorough") is not None


def spread(*axes: Sequence[Any]) -> list[Any]:
    """All combinations of what each axis has, for ``parametrize``; the quick run has only so many that each value is in one.

    It is for axes that have little to do with each other, such as the type of a value and the way on which it comes.
    """
    quick = {tuple(number % len(axis) for axis in axes) for number in range(max(map(len, axes)))}
    return [
        pytest.param(
            *(axis[place] for axis, place in zip(axes, places, strict=True)),
            marks=[] if places in quick else pytest.mark.slow,
            id="-".join(_name(axis[place]) for axis, place in zip(axes, places, strict=True)),
        )
        for places in itertools.product(*(range(len(axis)) for axis in axes))
    ]


def few(values: Collection[Any], quick: Collection[Any]) -> list[Any]:
    """All values, for ``parametrize``, of which the quick run has some: those that go another way through the code each."""
    assert set(quick) < set(values), "each of the quick run's is one of all, and some are left to the slow one"
    return [pytest.param(value, marks=[] if value in quick else pytest.mark.slow, id=_name(value)) for value in values]


def _name(value: Any) -> str:
    named = getattr(value, "__name__", None)
    return named if isinstance(named, str) else str(value)
