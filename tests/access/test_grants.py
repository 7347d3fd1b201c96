"""Grants: what is written is read, and what says nothing is refused with a hint."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.access.grants import Grant
from featurestore.errors import ConfigError

NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)
ROLES = st.sampled_from(["reader", "writer", "admin"])
GRANTS = st.builds(Grant, ROLES, st.just("project"), st.just(""), st.booleans()) | st.builds(
    Grant, ROLES, st.sampled_from(["service", "view"]), NAMES, st.booleans()
)
GRANTS |= st.just(Grant("monitor", "project"))


@given(st.lists(GRANTS, min_size=1, max_size=4, unique=True))
def test_what_is_written_is_read(grants: list[Grant]) -> None:
    assert Grant.parse_all(", ".join(map(str, grants))) == tuple(grants)
    assert Grant.parse_all([str(each) for each in grants]) == tuple(grants)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "Invalid grant"),
        ("reader", "Invalid grant"),
        ("raeder project", "Did you mean 'reader'"),
        ("reader servise:x", "Did you mean 'service'"),
        ("reader service", "needs a name"),
        ("reader service:", "needs a name"),
        ("reader project:flights", "takes none"),
        ("reader project:", "takes none"),
        ("reader project PII", "Invalid grant"),
        ("reader project pii pii", "Invalid grant"),
        ("reader view:a view:b", "Invalid grant"),
        ("monitor service:a", "of the whole project"),
        ("monitor project pii", "of the whole project"),
    ],
)
def test_what_says_nothing_is_refused(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Grant.parse(text)
