"""Running an operation for several views: a failing view does not stop the others."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from featurestore.definitions.catalog import AppliedView, BoundView
from featurestore.errors import DamagedHistoryError, DefinitionError, FeatureStoreError, MaterializeError, SourceError
from featurestore.materialization.results import ViewSummary

OF_ONE_VIEW = (SourceError, DefinitionError, MaterializeError, DamagedHistoryError)
"""The errors that one view's source, transform, rows or history give cause to."""


def each_view(
    views: Sequence[AppliedView],
    bind: Callable[[AppliedView], BoundView],
    do: Callable[[BoundView], ViewSummary],
    parallel: int,
) -> list[ViewSummary]:
    """Do something with each view, some at once; one that fails does not keep the others from being done.

    Args:
        views: the views as applied.
        bind: returns a view with its definition.
        do: does it.
        parallel: how many at once.

    Raises:
        MaterializeError: several views failed; it tells of each.
        FeatureStoreError: one view failed, with its own error; or a store cannot be reached, after which none is begun.
    """
    failed: list[FeatureStoreError] = []
    stopped: list[FeatureStoreError] = []

    def one(view: AppliedView) -> ViewSummary | None:
        if stopped:
            return None
        try:
            return do(bind(view))
        except OF_ONE_VIEW as error:
            failed.append(error)
        except FeatureStoreError as error:
            stopped.append(error)
        return None

    if parallel == 1:
        done = list(map(one, views))
    else:
        with ThreadPoolExecutor(parallel) as threads:
            done = list(threads.map(one, views))
    if stopped:
        raise stopped[0]
    if len(failed) == 1:
        raise failed[0]
    if failed:
        messages = "".join(f"\n  - {error}" for error in failed)
        raise MaterializeError(f"{len(failed)} of {len(views)} views failed; the others are done.{messages}")
    return [result for result in done if result is not None]
