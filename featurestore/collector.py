"""The garbage collector, paused while modules are imported: what they make stays as long as the process."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def paused() -> Iterator[None]:
    """Return a context in which the garbage collector is switched off; afterwards it is as it was before.

    An import makes hundreds of thousands of objects that stay. To look through them again and again as they become more takes a
    fifth of the time.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
