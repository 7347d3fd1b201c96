"""Objects as files: any order of seeking and reading gives what the bytes are, in few requests."""

from io import BufferedReader, BytesIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore.sources.range_file import RangeFile
from tests.sources.bucket import Bucket

CONTENT = bytes(range(256)) * 2_000


@settings(max_examples=50, deadline=None)
@given(
    steps=st.lists(st.tuples(st.integers(0, len(CONTENT) + 10), st.integers(0, 200_000), st.booleans()), max_size=8),
    buffer=st.sampled_from([0, 1_000, 64 << 10]),
)
def test_it_reads_what_is_there(steps: list[tuple[int, int, bool]], buffer: int) -> None:
    bucket = Bucket("s3://lake")
    bucket.put("a", CONTENT, 0)
    raw = RangeFile(bucket, "a", len(CONTENT))
    file, expected = BufferedReader(raw, buffer) if buffer else raw, BytesIO(CONTENT)
    for place, length, seeks in steps:
        if seeks:
            assert file.seek(place) == expected.seek(place)
        assert file.read(length) == expected.read(length)
        assert file.tell() == expected.tell()
    assert file.seek(-5, 2) == len(CONTENT) - 5
    assert file.read() == CONTENT[-5:]


def test_reading_on_takes_few_requests() -> None:
    bucket = Bucket("s3://lake")
    content = CONTENT * 80
    bucket.put("a", content, 0)
    with BufferedReader(RangeFile(bucket, "a", len(content)), 64 << 10) as file:
        assert sum(len(line) for line in file) == len(content)
    assert len(bucket.reads) < 15  # of 40 MB


def test_an_object_that_became_shorter_ends() -> None:
    bucket = Bucket("s3://lake")
    bucket.put("a", b"abc", 0)
    assert RangeFile(bucket, "a", 10).read() == b"abc"
    bucket.delete(["a"])
    with pytest.raises(KeyError):
        RangeFile(bucket, "a", 10).read()
