"""A bucket as S18 sees it: objects that appear with times in whole seconds, some of which are those of an upload's beginning."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import md5

from featurestore.offline.folder import Address, Content, Entry

SECOND = 1_000_000


@dataclass
class Bucket:
    """A ``Folder`` in memory whose clock is its user's; it is listed and read, and no more.

    Attributes:
        url: its address.
        objects: what it has: contents and times, in seconds, by key.
        reads: the keys of which something was read.
    """

    url: str
    objects: dict[str, tuple[bytes, int]] = field(default_factory=dict)
    reads: list[str] = field(default_factory=list)

    def put(self, key: str, content: bytes, micros: int) -> None:
        """Puts an object at an instant, or with the time of the instant at which its upload began; some seconds are rounded up."""
        rounded = -(-micros // SECOND) if key.endswith("1.csv") else micros // SECOND
        self.objects[key] = content, rounded

    def list(self, prefix: str, *, after: str = "") -> Sequence[Entry]:
        return [entry for key in sorted(self.objects) if key.startswith(prefix) and key > after and (entry := self.head(key))]

    def head(self, name: str) -> Entry | None:
        if name not in self.objects:
            return None
        content, second = self.objects[name]
        return Entry(name, len(content), md5(content, usedforsecurity=False).hexdigest(), second)

    def read(self, name: str, *, start: int = 0, length: int | None = None) -> bytes:
        self.reads.append(name)
        return self.objects[name][0][start : None if length is None else start + length]

    def address(self, name: str = "") -> Address:
        return Address(f"{self.url}/{name}".rstrip("/"))

    def folders(self, prefix: str) -> Sequence[str]:
        raise NotImplementedError

    def stamps(self, names: Sequence[str]) -> Sequence[str | None]:
        raise NotImplementedError

    def create(self, name: str, content: bytes) -> str | None:
        raise NotImplementedError

    def swap(self, name: str, content: bytes, stamp: str) -> str | None:
        raise NotImplementedError

    def write(self, name: str, content: Content) -> int:
        raise NotImplementedError

    def delete(self, names: Iterable[str], *, lasting: bool = False) -> None:
        for name in names:
            self.objects.pop(name, None)

    def inside(self, name: str) -> "Bucket":
        raise NotImplementedError
