"""What is to be known of a source before a view depends on it: what becomes of rows that are corrected, deleted or late there."""

from collections.abc import Iterator

from featurestore.clock import format_duration
from featurestore.spec.source import FrameSource, SQLSource
from featurestore.spec.stream import StreamSource
from featurestore.spec.view import ViewSpec


def source_notices(view: ViewSpec) -> Iterator[str]:
    """Returns what a view's source does not tell, and what follows from it, a line each.

    Args:
        view: the view.
    """
    source = view.source
    if isinstance(source, (StreamSource, FrameSource)):
        return
    if source.event_id is None and view.windows:
        yield (
            f"view {view.name!r}: source {source.name!r} names no event_id=: a row corrected in place counts twice, and one "
            "that is deleted stays."
        )
    elif source.event_id is None and source.available_time is None and source.order_by is None:
        yield (
            f"view {view.name!r}: source {source.name!r} names no available_time= or order_by=: of a row corrected in place the "
            "greater value is served, a deleted one stays."
        )
    if isinstance(source, SQLSource) and source.available_time is None and source.lateness is None:
        late = format_duration(source.lateness_micros)
        yield (
            f"source {source.name!r} tells what is new by the event time alone: a row that arrives more than {late} after it is "
            "not found. Say how late rows may be: lateness=, or name an available_time=."
        )
