"""The objects that an address names: one, those of a folder, or those that match a glob."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import translate
from functools import cached_property
from glob import has_magic
from typing import Literal

from featurestore.object_storage import check_glob
from featurestore.offline.folder import Entry, Folder
from featurestore.offline.open_folder import open_folder

Kind = Literal["object", "folder", "glob"]


@dataclass(frozen=True, slots=True)
class Listing:
    """What was found at an address.

    Args:
        kind: as what the address was taken.
        entries: the objects, their names being their keys in the bucket.
        below: how many objects lie in the folder that was listed.
        base: this folder, with a slash at its end.
        is_delta: whether it is the folder of a Delta table.
    """

    kind: Kind
    entries: Sequence[Entry]
    below: int
    base: str
    is_delta: bool = False


class ObjectListing:
    """Find the objects of an address. Nothing is asked of the store before ``find``.

    Args:
        address: ``s3://bucket/…``, ``gs://bucket/…`` or ``az://container/…``: an object, a folder, or a glob, in which ``**``
            stands for any number of folders.
        options: the setting ``storage_options``.

    Raises:
        ConfigError: the address has a user, a password or a signature in it.

    Example:
        >>> listing = ObjectListing("s3://lake/flights/**/*.parquet")
        >>> listing.bucket, listing.base, listing.address("flights/1.parquet")
        ('s3://lake', 'flights/', 's3://lake/flights/1.parquet')
    """

    def __init__(self, address: str, options: Mapping[str, str] | None = None) -> None:
        check_glob(address)
        scheme, _, rest = address.partition("://")
        name, _, key = rest.partition("/")
        self.bucket = f"{scheme}://{name}"
        self.options = dict(options or {})
        self._key = key.strip("/")
        self._named_folder = not self._key or key.endswith("/")
        self._parts = tuple(part for part in self._key.split("/") if part)
        fixed = next((index for index, part in enumerate(self._parts) if has_magic(part)), None)
        self._moving = () if fixed is None else self._parts[fixed:]
        if self._moving[-1:] == ("**",):
            self._moving = (*self._moving, "*")
        above = self._parts if fixed is None else self._parts[:fixed]
        self.base = "".join(f"{part}/" for part in above)

    @cached_property
    def folder(self) -> Folder:
        """The bucket.

        Raises:
            ConfigError: the address or an option is of another form, or holds a secret.
            MissingExtraError: object storage needs the extra ``object``.
        """
        return open_folder(self.bucket, options=self.options)

    def address(self, key: str) -> str:
        """Return the address of an object."""
        return f"{self.bucket}/{key}"

    def key(self, address: str) -> str:
        """Return an object's name in the bucket."""
        return address.removeprefix(f"{self.bucket}/")

    def find(self, endings: Collection[str]) -> Listing:
        """Return what the address names.

        What a glob or a folder holds under a name that starts with ``_`` or ``.`` is left out, as on a disk, and so are the empty
        objects by which some tools mark a folder. What has a name that looks like a glob is found by it.

        Args:
            endings: the endings of the objects that count in a folder.

        Raises:
            OSError: the store cannot be reached, has no such bucket, or does not allow it.
        """
        if not self._moving and not self._named_folder:
            entry = self.folder.head(self._key)
            if entry is not None:
                return Listing("object", [entry], 1, self.base)
        below = self.folder.list(self.base)
        folders = {entry.name[:place] for entry in below for place in _slashes(entry.name)}
        objects = [entry for entry in below if entry.size or entry.name not in folders]
        if not self._moving:
            return self._folder(objects, tuple(endings), self.base)
        exact = [entry for entry in objects if entry.name == self._key and not self._named_folder]
        if exact:
            return Listing("object", exact, len(objects), self.base)
        inside = [entry for entry in objects if entry.name.startswith(f"{self._key}/")]
        if inside:
            return self._folder(inside, tuple(endings), f"{self._key}/")
        patterns = [None if part == "**" else re.compile(translate(part)) for part in self._moving]
        asked = _is_hidden(self._moving)  # a pattern that spells such a name out wants it
        parts = [(entry, entry.name[len(self.base) :].split("/")) for entry in objects]
        matches = [entry for entry, names in parts if _fits(names, patterns) and (asked or not _is_hidden(names))]
        return Listing("glob", matches, len(objects), self.base)

    @staticmethod
    def _folder(objects: Sequence[Entry], endings: tuple[str, ...], base: str) -> Listing:
        inside = [entry for entry in objects if entry.name.endswith(endings) and not _is_hidden(entry.name[len(base) :].split("/"))]
        is_delta = any(entry.name.startswith(f"{base}_delta_log/") for entry in objects)
        return Listing("folder", inside, len(objects), base, is_delta)


def _slashes(name: str) -> list[int]:
    return [place for place, letter in enumerate(name) if letter == "/"]


def _is_hidden(parts: Sequence[str]) -> bool:
    return any(part.startswith((".", "_")) and "=" not in part for part in parts)


def _fits(parts: Sequence[str], patterns: Sequence[re.Pattern[str] | None]) -> bool:
    """Return whether the parts of a name fit those of a glob, of which None stands for any number of folders."""
    # Which patterns are left to fit after the parts so far.
    reached = _skipped({0}, patterns)
    for part in parts:
        following = set()
        for index in reached:
            if index < len(patterns):
                pattern = patterns[index]
                if pattern is None:
                    following.add(index)
                elif pattern.match(part):
                    following.add(index + 1)
        reached = _skipped(following, patterns)
    return len(patterns) in reached


def _skipped(reached: set[int], patterns: Sequence[re.Pattern[str] | None]) -> set[int]:
    reached = set(reached)
    for index in range(len(patterns)):
        if index in reached and patterns[index] is None:
            reached.add(index + 1)
    return reached
