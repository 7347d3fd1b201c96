"""How much the properties of the suites try: as much as the Hypothesis profile that runs them."""

from hypothesis import settings

_OF_HYPOTHESIS = 100
"""How many examples Hypothesis' own profile tries."""


def examples(usual: int) -> int:
    """Return on how many examples a property is tried: in proportion to the ``max_examples`` of the profile that is loaded.

    Args:
        usual: the number under Hypothesis' own profile, which tries 100.
    """
    return -(-usual * settings().max_examples // _OF_HYPOTHESIS)
