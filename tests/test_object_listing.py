"""What an address in object storage names: what the same path names on a disk."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from featurestore.definitions.source import ParquetSource
from featurestore.errors import ConfigError
from featurestore.object_listing import ObjectListing
from featurestore.sources.paths import find_files
from tests.sources.bucket import Bucket

PARTS = ["a", "b", "ab", "_a", ".b", "day=1", "_day=2", "[a]", "a.parquet", "b.parquet", "_b.parquet", "c.csv"]
NAMES = ["1.parquet", "2.parquet", "_3.parquet", ".4.parquet", "5.csv", "[6].parquet", "ab.parquet"]
PATTERNS = ["*", "**", "?", "a*", "*b", "[ab]", "[!a]*", "day=*", "_*", ".*", "*.parquet", "[[]*", "?.parquet", "_*.parquet"]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Bucket]:
    """The same names on a disk and in a bucket."""
    root, bucket = tmp_path_factory.mktemp("tree"), Bucket("s3://lake")
    folders = ["", *(f"{one}/" for one in PARTS[:8]), *(f"{one}/{two}/" for one in PARTS[:7] for two in PARTS[:7])]
    for folder in folders:
        (root / folder).mkdir(parents=True, exist_ok=True)
        for name in NAMES:
            (root / folder / name).write_bytes(b"rows")
            bucket.put(folder + name, b"rows", 0)
    return root, bucket


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=st.lists(st.sampled_from([*PARTS, *NAMES, *PATTERNS, *PATTERNS]), min_size=1, max_size=4), slash=st.booleans())
@example(parts=["[a]"], slash=False)
@example(parts=["a", "[6].parquet"], slash=False)
def test_it_is_what_the_path_names_on_a_disk(tree: tuple[Path, Bucket], parts: list[str], slash: bool) -> None:
    root, bucket = tree
    path = "/".join(parts) + ("/" if slash and parts[-1] in PARTS[:8] else "")
    expected = {file.name for file in find_files(ParquetSource("s", path, event_time="t"), path, root, (".parquet",))}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("featurestore.object_listing.open_folder", lambda url, options: bucket)
        found = ObjectListing(f"s3://lake/{path}").find((".parquet",))
    assert {entry.name for entry in found.entries} == expected


def test_a_bucket_is_a_folder_and_a_secret_is_refused() -> None:
    listing = ObjectListing("s3://lake")
    assert (listing.bucket, listing.base) == ("s3://lake", "")
    for address in ("s3://me:secret@lake/x", "az://lake/x?sig=secret"):
        with pytest.raises(ConfigError, match="a password or a signature") as caught:
            ObjectListing(address)
        assert "secret" not in str(caught.value)
