"""Limits of requests: sizes, counts and durations."""

from dataclasses import dataclass

from featurestore.config import Settings
from featurestore.errors import LimitError

MIB = 1 << 20


@dataclass(frozen=True)
class Limits:
    """What one request may bring and take; each has its own answer.

    Args:
        body: the bytes of a body, but for a spine's (413).
        spine: the bytes of a spine (413).
        rows: the rows of one look-up or push (422).
        values: the values in a body of JSON or MessagePack (413).
        columns: the columns of a body, and the features that a look-up asks for (422).
        decoded: the bytes of a body once it is decoded; a spine of more is worked on in files (413).
        spine_rows: the rows of a spine (413).
        spine_decoded: the bytes of a spine once it is decoded (413).
        decoders: how many processes decode Arrow and Parquet.
        decoder: the bytes that one of them may take beyond what it takes to start.
        decoder_seconds: how long it may take over a body.
        bodies: the bytes of all bodies that are worked on at once (503 with Retry-After).
        pushes: how many pushes are worked on at once.
        pushes_waiting: how many may wait for that (503 with Retry-After).
        seconds: how long a request may take, but for a training frame (408 while its body comes, then 503).
        training: how many training frames are made at once (503 with Retry-After).
        training_seconds: how long one of them may take (503).
        memory: up to how many bytes a spine is held in memory; a larger one is worked on in files.
    """

    body: int = 32 * MIB
    spine: int = 1_100 * MIB
    rows: int = 10_000
    values: int = 1_000_000
    columns: int = 500
    decoded: int = 256 * MIB
    spine_rows: int = 10_000_000
    spine_decoded: int = 1024 * MIB
    decoders: int = 2
    decoder: int = 512 * MIB
    decoder_seconds: float = 30.0
    bodies: int = 256 * MIB
    pushes: int = 4
    pushes_waiting: int = 16
    seconds: float = 30.0
    training: int = 2
    training_seconds: float = 3600.0
    memory: int = 64 * MIB

    @classmethod
    def of(cls, settings: Settings) -> "Limits":
        """Return the limits that settings say."""
        server = settings.server
        return cls(
            body=int(server.max_body_mib * MIB),
            spine=int(server.max_spine_mib * MIB),
            memory=int(server.spine_memory_mib * MIB),
            rows=server.max_rows,
            values=server.max_values,
            columns=server.max_columns,
            decoded=int(server.max_decoded_mib * MIB),
            spine_rows=server.max_spine_rows,
            spine_decoded=int(server.max_spine_decoded_mib * MIB),
            decoders=server.decoders,
            decoder=int(server.decoder_memory_mib * MIB),
            decoder_seconds=server.decoder_timeout.total_seconds(),
            bodies=int(server.max_bodies_mib * MIB),
            pushes=server.max_concurrent_pushes,
            pushes_waiting=server.max_waiting_pushes,
            seconds=server.request_timeout.total_seconds(),
            training=server.max_concurrent_training,
            training_seconds=server.training_timeout.total_seconds(),
        )


def check_rows(rows: int, most: int, *, counted: bool = True) -> None:
    """Refuse more rows than one request may have.

    Args:
        rows: how many there are.
        most: how many there may be.
        counted: whether all were counted; else there may be more.

    Raises:
        LimitError: there are more.
    """
    if rows > most:
        shown = f"{rows:,}" if counted else f"more than {most:,}"
        raise LimitError(
            f"The request has {shown} rows, and {most:,} are allowed (server.max_rows). Send them in several requests; to look "
            "many up, a training frame (POST /v1/training) is the way.",
            "rows",
        )
