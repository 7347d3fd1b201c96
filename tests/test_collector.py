"""The garbage collector is off while modules are imported, and afterwards as it was."""

import gc

import pytest

from featurestore import collector


@pytest.mark.parametrize("before", [True, False])
def test_it_is_as_it_was_before(before: bool) -> None:
    was_on = gc.isenabled()
    try:
        (gc.enable if before else gc.disable)()
        with collector.paused():
            assert not gc.isenabled()
        assert gc.isenabled() == before
        with pytest.raises(ValueError, match="x"), collector.paused():
            raise ValueError("x")
        assert gc.isenabled() == before
    finally:
        (gc.enable if was_on else gc.disable)()
