"""How much a test tries: a part of it in the quick run, which leaves the slow tests out; all of it with the slow ones."""

import math
import os

import pytest
from hypothesis import is_hypothesis_test, settings

QUICK_SHARE = 0.4


def is_quick() -> bool:
    """Whether this run leaves the slow tests out; conftest.py loads the profile by that."""
    return settings.get_current_profile_name() == "quick"


def examples(usual: int) -> int:
    """How many examples a property is tried on: two fifths of them in the quick run, all of them in the slow one.

    ``FEATURESTORE_EXAMPLES`` says another number, for a longer look by hand.
    """
    given = os.environ.get("FEATURESTORE_EXAMPLES")
    return int(given) if given else math.ceil(usual * QUICK_SHARE) if is_quick() else usual


def has_more(item: pytest.Item) -> bool:
    """Whether a test tries more in the slow run, and so belongs to both: properties do, and what is marked ``thorough``."""
    return is_hypothesis_test(getattr(item, "obj", None)) or item.get_closest_marker("thorough") is not None
