"""Delta tables so small that a few rows exceed their sizes."""

import pytest

from featurestore.testing.offline import Limited, Limits


class DeltaLimits(Limited):
    """Where the adapter keeps sizes: they are read when its modules are imported."""

    def limit(self, patch: pytest.MonkeyPatch, limits: Limits) -> None:
        super().limit(patch, limits)
        split = limits.bucket_rows if limits.split_rows is None else limits.split_rows
        patch.setattr("featurestore.offline.delta.commit.ROWS_PER_BUCKET", split)
        patch.setattr("featurestore.rows.buckets.LARGER_OBJECTS", 1)
        if limits.small_files is not None:
            patch.setattr("featurestore.offline.delta.compaction._SMALL_FILES", limits.small_files)
