"""The port of folders: where the files of a table lie, on a disk of this machine or in object storage."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from featurestore.errors import ConfigError, did_you_mean

_OPTIONS = frozenset({
    "account_name", "allow_http", "bucket_key_enabled", "default_region", "endpoint", "endpoint_url", "region", "request_payer",
    "s3_express", "server_side_encryption", "skip_signature", "sse_bucket_key_enabled", "sse_kms_key_id", "unsigned_payload",
    "use_emulator", "use_fabric_endpoint", "virtual_hosted_style_request",
})  # fmt: skip
"""What may be said of a store, with a cloud's name before it or without: none of it is a secret."""
_CLOUD = re.compile(r"^(?:aws|azure(?:_storage)?|google)_")
_USER = re.compile(r"^\w+://[^/]*@")


@dataclass(frozen=True)
class Entry:
    """A file of a folder.

    Args:
        name: its name, from the folder on, with slashes.
        size: how many bytes it has.
        stamp: another one whenever its content is another: for comparison only.
        modified: when it was written, by the clock of what keeps it, in seconds since the epoch: maybe whole ones.
    """

    name: str
    size: int
    stamp: str
    modified: float


@dataclass(frozen=True)
class Address:
    """Where a folder or a file is, for libraries that read and write there by themselves: Polars and deltalake.

    It holds no secret, so it may be shown, pickled and stored. Who uses it has credentials in its environment, or by the role of
    its machine.

    Args:
        url: a path of this machine, or ``"s3://bucket/name"``.
        options: what those libraries call ``storage_options``: endpoint, region and the like.

    Raises:
        ConfigError: it has an option that is unknown or may be a secret.

    Example:
        >>> Address("s3://lake/weather", {"region": "eu-west-1"})
        Address(url='s3://lake/weather', options={'region': 'eu-west-1'})
        >>> Address("s3://lake/weather", {"secret_access_key": "…"})
        Traceback (most recent call last):
        featurestore.errors.ConfigError: The option 'secret_access_key' of object storage cannot be set here. ...
    """

    url: str
    options: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value in self.options.items():
            plain = _CLOUD.sub("", name.lower())
            if plain not in _OPTIONS:
                raise ConfigError(
                    f"The option {name!r} of object storage cannot be set here. {did_you_mean(plain, _OPTIONS)} "
                    "Keys, tokens and passwords go into the environment (AWS_SECRET_ACCESS_KEY and the like), or come from the "
                    "machine's role."
                )
            _require_no_secret(f"The option {name!r}", value)
        _require_no_secret("The address", self.url)

    def __hash__(self) -> int:
        return hash((self.url, *sorted(self.options.items())))


class Folder(Protocol):
    """Keep files by name. Any number of processes and machines may use one folder at once.

    A name is parts with slashes between them, none of which is empty, ``.`` or ``..``. Nothing is a file and a folder of others.

    A file appears whole or not at all, and what is read is whole: the content of one moment. What a method has written is durable
    when it returns: it outlasts a power cut. Whatever fails raises ``OSError``: a folder that cannot be reached ``ConnectionError``
    or ``TimeoutError`` after a bounded time, one that the process may not use ``PermissionError``. Whether a write that failed so
    has its effect is unknown.
    """

    def list(self, prefix: str, *, after: str = "") -> Sequence[Entry]:
        """Return the files whose names begin with a prefix, in folders below too, by name.

        A file that was there before the call and is not deleted meanwhile is listed. Of several that others create meanwhile, a
        later one may be listed without an earlier one. A file that ends in ``.tmp`` is being written, or was when its writer died.

        Args:
            prefix: how the names begin. It looks in no folder but those it names: ``"_pushed/"`` costs the least.
            after: only those are returned whose names are greater.
        """

    def head(self, name: str) -> Entry | None:
        """Return what is known of a file without its content; None if there is none."""

    def read(self, name: str, *, start: int = 0, length: int | None = None) -> bytes:
        """Return what a file holds.

        Args:
            name: its name.
            start: from which byte on.
            length: how many bytes at most; all by default. Behind the end there are none.

        Raises:
            FileNotFoundError: there is no such file.
        """

    def create(self, name: str, content: bytes) -> str | None:
        """Create a file if there is none of that name, and return its stamp; None if there is one.

        Of several callers at once, one succeeds. Their contents must differ: a creator that had to ask again, for the answer was
        lost, may be refused for its own file, and knows it by the content.
        """

    def swap(self, name: str, content: bytes, stamp: str) -> str | None:
        """Replace what a file holds if it has that stamp, and return the new stamp; None if it has another, or there is no file.

        Of several callers at once with one stamp, one succeeds. Their contents must differ, as those of ``create``. A caller of
        ``write`` or ``delete`` at the same time is not kept out.
        """

    def write(self, name: str, content: bytes) -> None:
        """Create a file, or replace what it holds: a reader finds the old content or the new."""

    def delete(self, names: Iterable[str], *, lasting: bool = False) -> None:
        """Delete files; one that is not there is no error. If it fails, some of them may be deleted.

        Args:
            names: their names.
            lasting: whether they must not be there again after a power cut. What nothing names any more may come back.
        """

    def address(self, name: str = "") -> Address:
        """Return where a file is, or the folder itself: for libraries that read and write there."""


def _require_no_secret(what: str, value: str) -> None:
    if _USER.match(value) or "?" in value:
        raise ConfigError(
            f"{what} has a user, a password or a signature in it, which others would see. Give it without, and put the credentials "
            "into the environment."
        )
