"""Limits: how much one request may bring, and how long it may take."""

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
        seconds: how long a request may take, but for a training frame (408 while its body comes, then 503).
        training: how many training frames are made at once (503 with Retry-After).
        training_seconds: how long one of them may take (503).
        memory: up to how many bytes a spine is held in memory; a larger one is worked on in files.
    """

    body: int = 32 * MIB
    spine: int = 16_384 * MIB
    rows: int = 10_000
    seconds: float = 30.0
    training: int = 2
    training_seconds: float = 3600.0
    memory: int = 64 * MIB

    @classmethod
    def of(cls, settings: Settings) -> "Limits":
        """Returns the limits that settings say."""
        return cls(
            body=int(settings.server_body_mib * MIB),
            spine=int(settings.server_spine_mib * MIB),
            memory=int(settings.server_memory_mib * MIB),
            rows=settings.server_rows,
            seconds=settings.server_seconds,
            training=settings.server_training,
            training_seconds=settings.server_training_seconds,
        )


def check_rows(rows: int, most: int, *, counted: bool = True) -> None:
    """Refuses more rows than one request may have.

    Args:
        rows: how many there are.
        most: how many there may be.
        counted: whether all were counted; else there may be more.

    Raises:
        LimitError: there are more.
    """
    if rows > most:
        told = f"{rows:,}" if counted else f"more than {most:,}"
        raise LimitError(
            f"The request has {told} rows, and {most:,} are allowed (server_rows). Send them in several requests; to look many up, "
            "a training frame (POST /v1/training) is the way.",
            "rows",
        )
