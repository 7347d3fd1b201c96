"""Splitting CSV text into records, with line ends inside quotes."""

import gzip
import io
import re
from collections.abc import Iterator
from typing import IO, cast


def unzipped(file: IO[bytes]) -> IO[bytes]:
    """Return a file of text that was just opened, plain or gzipped."""
    zipped = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    return cast("IO[bytes]", gzip.GzipFile(fileobj=file)) if zipped else file


def cut(file: IO[bytes], count: int) -> Iterator[tuple[int, bytes, bool]]:
    r"""Yield a file's header and then stretches of ``count`` records, each with its offset, and whether its end is open.

    A line's end lies between two records where the quotes before it are even in number. What follows the last of them is a
    record too, in a stretch of its own: its end is open, for it may still be being written.

    Example:
        >>> list(cut(io.BytesIO(b'a,b\n1,"x\ny"\n2,z'), 1))
        [(0, b'a,b\n', False), (4, b'1,"x\ny"\n', False), (12, b'2,z', True)]
    """
    first, rows, quoted, limit = 0, 0, False, 1
    lines: list[bytes] = []
    whole = 0  # how many of these lines are records that have ended
    for line in file:
        lines.append(line)
        quoted ^= bool(line.count(b'"') & 1)
        if quoted or not line.endswith(b"\n"):
            continue
        whole = len(lines)
        if not line.strip():
            continue
        rows += 1
        if rows == limit:
            stretch = b"".join(lines)
            yield first, stretch, False
            first, rows, limit, lines, whole = first + len(stretch), 0, count, [], 0
    for some, is_open in ((lines[:whole], False), (lines[whole:], True)):
        if some:
            stretch = b"".join(some)
            yield first, stretch, is_open and bool(stretch.strip())
            first += len(stretch)


def readable(text: bytes) -> tuple[bytes, str]:
    r"""Return text with an unused character in place of bytes that are not UTF-8, and that character; empty for none.

    Example:
        >>> readable(b"caf\xe9,1"), readable(b"1")
        ((b'caf\xee\x80\x80,1', '\ue000'), (b'1', ''))
    """
    try:
        text.decode()
    except UnicodeDecodeError:
        mark = next((mark_candidate for mark_candidate in map(chr, _PRIVATE) if mark_candidate.encode() not in text), "\ufffd")
        return re.sub("[\udc80-\udcff]", mark, text.decode(errors="surrogateescape")).encode(), mark
    return text, ""


_PRIVATE = range(0xE000, 0xF900)
"""Characters that mean nothing by themselves."""


def without_blank_lines(text: bytes) -> bytes:
    r"""Return records without the blank lines between them.

    Example:
        >>> without_blank_lines(b"1,2\n\n3,4\n")
        b'1,2\n3,4\n'
    """
    if not (b"\n\n" in text or b"\n\r\n" in text or text.startswith((b"\n", b"\r\n"))):
        return text
    kept, quoted = [], False
    for line in io.BytesIO(text):
        if quoted or line.strip(b"\r\n"):
            kept.append(line)
        quoted ^= bool(line.count(b'"') & 1)
    return b"".join(kept)
