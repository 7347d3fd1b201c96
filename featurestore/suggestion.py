"""Suggestions for mistyped names."""

from collections.abc import Iterable
from difflib import get_close_matches
from itertools import islice

_LONGEST_NAME, MOST_NAMES = 200, 1_000
"""Up to how long a name is compared with others, and with how many: the work grows with the product of all three."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a suggestion to append to a message: the names nearest to ``name``, or else those there are.

    Example:
        >>> did_you_mean("wether", ["weather", "planes"])
        "Did you mean 'weather'?"
        >>> did_you_mean("x", [])
        'There are none yet.'
    """
    names = sorted(set(islice(known, MOST_NAMES)))
    if not names:
        return "There are none yet."
    names = [candidate for candidate in names if len(candidate) <= _LONGEST_NAME] or ["…"]
    near = nearest(name, names)
    if near:
        return f"Did you mean {' or '.join(repr(candidate) for candidate in near)}?"
    shown = ", ".join(repr(candidate) for candidate in names[:10])
    return f"There is {shown}{' …' if len(names) > 10 else ''}."


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """Return up to three names that resemble ``name``, the nearest first.

    Example:
        >>> nearest("wether", ["weather", "planes"])
        ['weather']
    """
    names = [candidate for candidate in islice(known, MOST_NAMES) if len(candidate) <= _LONGEST_NAME]
    return get_close_matches(name, names, n=3, cutoff=0.6) if len(name) <= _LONGEST_NAME else []
