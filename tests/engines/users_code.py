"""Code of a user's, in a module of its own: workers import it by its name."""

from featurestore.testing.engines import Whole


class Mine(Whole):
    """A task of a user's."""
