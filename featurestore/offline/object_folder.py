"""Folders in object storage: S3 and what speaks its protocol, Google Cloud Storage, Azure Blob Storage.

A store must create objects only where there is none (``If-None-Match: *``): ``featurestore.offline.folder_probe`` tries it.
"""

import errno
import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from time import perf_counter, sleep
from typing import TYPE_CHECKING, Any

from featurestore.errors import ConfigError, MissingExtraError
from featurestore.forking import is_first_user
from featurestore.offline.folder import Address, Content, Entry, FolderAdapter
from featurestore.offline.object_errors import problem_of
from featurestore.offline.object_files import ObjectFiles

try:
    import obstore
    from obstore.exceptions import BaseError
    from obstore.store import AzureStore, GCSStore, S3Store
except ImportError as error:
    raise MissingExtraError("A folder in object storage", "object") from error

if TYPE_CHECKING:
    from obstore import GetOptions, ObjectMeta, PutMode
    from obstore.store import ObjectStore

TIMEOUT = 30.0
_CONNECT_SECONDS = 5.0
_LARGE = 64 << 20
_PART = 16 << 20
_SLOWEST = 1 << 20
"""So many bytes a second are waited for of a large object that goes in one request."""
_PAGE = 1_000
_ATTEMPTS = 6
_PAUSE = 0.05
_HTTP = "allow_http"
_URL = re.compile(r"(s3|gs|az)://([^/?#@:]+)(?:/([^?#]*))?")


class ObjectFolder(FolderAdapter):
    """Keep files as objects below a prefix of a bucket.

    Credentials come from the environment (``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``, ``GOOGLE_SERVICE_ACCOUNT``,
    ``AZURE_STORAGE_ACCOUNT_KEY`` …) or from the role of the machine.

    An object that is created or swapped goes in one request: stores take up to 5 GB so. What ``write`` gets goes in parts where
    it is large; a writer that dies then leaves parts that nobody sees and that cost, until a lifecycle rule removes them.

    Args:
        url: ``s3://bucket/prefix``, ``gs://bucket/prefix`` or ``az://container/prefix``.
        options: what is to be known of the store besides and is not secret: ``endpoint``, ``region``, ``allow_http``.
        timeout: for how many seconds a request is waited for. It is repeated until twice as many are over, so a store that does not
            answer raises ``TimeoutError`` after four times as many at the latest.

    Raises:
        ConfigError: the address or an option is not of this form, or holds a secret.
    """

    def __init__(self, url: str, options: Mapping[str, str] | None = None, *, timeout: float = TIMEOUT) -> None:
        self._address = Address(url.rstrip("/"), dict(options or {}))
        match = _URL.fullmatch(self._address.url)
        if match is None:
            raise ConfigError(f"{url!r} is not an address in object storage. Give s3://…, gs://… or az://…, with a bucket.")
        self._scheme, self._bucket, self._prefix = match[1], match[2], match[3] or None
        self._timeout = timeout
        self._store = self._connected(timeout)
        self._above = ""

    @classmethod
    def open(cls, url: str, root: Path, options: Mapping[str, str]) -> "ObjectFolder":
        """See ``FolderAdapter.open``."""
        return cls(url, options)

    def __repr__(self) -> str:
        return f"ObjectFolder({self.address().url!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _opened, (self.address(), self._timeout)

    def list(self, prefix: str, *, after: str = "") -> Sequence[Entry]:
        """See ``Folder.list``."""
        folder = prefix[: prefix.rfind("/") + 1]
        with self._translated("list", prefix):
            offset = _offset(folder, after)
            pages = obstore.list(
                self._store,
                self._key(folder).rstrip("/") or None,
                offset=None if offset is None else self._key(offset),
                chunk_size=_PAGE,
            )
            entries = [self._entry(meta) for page in pages for meta in page]
        # What a store returns is filtered again: some pass over the offset, and what is asked for may be part of a name.
        listed = [entry for entry in entries if entry.name.startswith(prefix) and entry.name > after]
        return sorted(listed, key=lambda entry: entry.name)

    def folders(self, prefix: str) -> Sequence[str]:
        """See ``Folder.folders``."""
        with self._translated("list", prefix):
            below = obstore.list_with_delimiter(self._store, self._key(prefix).rstrip("/") or None)["common_prefixes"]
        return sorted(f"{self._name(path)}/" for path in below)

    def head(self, name: str) -> Entry | None:
        """See ``Folder.head``."""
        try:
            with self._translated("look at", name):
                return self._entry(obstore.head(self._store, self._key(name)))
        except FileNotFoundError:
            return None

    def stamps(self, names: Sequence[str]) -> Sequence[str | None]:
        """See ``Folder.stamps``."""
        folder = names[0][: names[0].rfind("/") + 1]
        # One request for all. Behind the first by one, for a listing begins behind what it is told.
        listed = {entry.name: entry.stamp for entry in self.list(folder, after=_before(min(names)))}
        return [listed.get(name) for name in names]

    def read(self, name: str, *, start: int = 0, length: int | None = None) -> bytes:
        """See ``Folder.read``."""
        try:
            with self._translated("read", name):
                if length is None:
                    within: GetOptions = {"range": {"offset": start}} if start else {}
                    return bytes(obstore.get(self._store, self._key(name), options=within).bytes())
                if length:
                    return bytes(obstore.get_range(self._store, self._key(name), start=start, length=length))
                obstore.head(self._store, self._key(name))  # the client does not ask for nothing
        except OSError as error:
            if error.errno != errno.ERANGE:  # it begins behind the end, which is an error of HTTP
                raise
        return b""

    def create(self, name: str, content: bytes) -> str | None:
        """See ``Folder.create``."""
        return self._put_if(name, content, "create")

    def swap(self, name: str, content: bytes, stamp: str) -> str | None:
        """See ``Folder.swap``."""
        mode: PutMode = {"e_tag": _quoted(stamp)}
        try:
            if self._scheme == "gs":  # which compares generations
                with self._translated("look at", name):
                    now = obstore.head(self._store, self._key(name))
                if _stamp(now) != stamp:
                    return None
                mode = {"e_tag": _quoted(stamp), "version": now["version"]}
            return self._put_if(name, content, mode, stamp)
        except FileNotFoundError:  # as S3 answers where there is none
            return None

    def write(self, name: str, content: Content) -> int:
        """See ``Folder.write``."""
        if not isinstance(content, bytes):
            file = BytesIO()
            content(file)
            content = file.getvalue()
        with self._translated("write", name):
            obstore.put(self._store, self._key(name), content, use_multipart=len(content) > _LARGE, chunk_size=_PART)
        return len(content)

    def delete(self, names: Iterable[str], *, lasting: bool = False) -> None:
        """See ``Folder.delete``."""
        waiting = [*names]
        for first in range(0, len(waiting), _PAGE):
            batch = waiting[first : first + _PAGE]
            try:
                with self._translated("delete", batch[0]):
                    obstore.delete(self._store, [*map(self._key, batch)])
            except FileNotFoundError:  # of some stores it is an error that one is gone
                for name in batch:
                    with suppress(FileNotFoundError), self._translated("delete", name):
                        obstore.delete(self._store, self._key(name))

    def inside(self, name: str) -> "ObjectFolder":
        """See ``Folder.inside``; both share their connections."""
        below = ObjectFolder.__new__(ObjectFolder)  # NOTE: a copy would open it again
        below.__dict__.update(self.__dict__, _above=f"{self._above}{name.strip('/')}/")
        return below

    def address(self, name: str = "") -> Address:
        """See ``Folder.address``."""
        return Address(f"{self._address.url}/{self._key(name)}".rstrip("/"), self._address.options)

    def file_system(self) -> ObjectFiles:
        """See ``Folder.file_system``."""
        with self._translated("open", ""):
            scheme: Any = self._scheme
            given = self._address.options
            # NOTE: its configuration takes no option of the client, as the others' does; and one given hides the environment's.
            options: Any = {name: value for name, value in given.items() if not name.endswith(_HTTP)}
            over_http = [value.lower() == "true" for name, value in given.items() if name.endswith(_HTTP)]
            client: Any = {_HTTP: any(over_http)} if over_http else None
            return ObjectFiles(scheme, config=options, client_options=client)

    def _put_if(self, name: str, content: bytes, mode: "PutMode", former: str | None = None) -> str | None:
        """Put an object on a condition, and return its stamp; None where the condition does not hold.

        Args:
            name: its name.
            content: what it is to hold.
            mode: the condition.
            former: the stamp that it must have; None where there must be no object.
        """
        store = self._store
        if len(content) > _LARGE:
            # NOTE: obstore has no condition for the end of a multipart upload, so a large object goes in one request too.
            store = self._connected(self._timeout + len(content) / _SLOWEST)
        end = perf_counter() + 2 * self._timeout
        for attempt in range(_ATTEMPTS):
            try:
                with self._translated("write", name):
                    return _stamp(obstore.put(store, self._key(name), content, mode=mode, use_multipart=False))
            except (FileExistsError, ConnectionError, TimeoutError) as error:
                refusal: OSError = error
            # An answer that was lost may have been that it is done, and who asks again is refused for what was put the first time.
            there = self.head(name)
            if there is not None and there.size == len(content) and self._holds(name, content):
                return there.stamp
            if (there and there.stamp) != former:
                return None
            # All is as it must be: the request did not arrive, or others were at work just then (409 ConditionalRequestConflict).
            if perf_counter() > end:
                break
            sleep(random.uniform(0, _PAUSE * 2**attempt))
        if isinstance(refusal, FileExistsError):
            refusal = OSError(errno.EBUSY, f"{refusal.strerror}, and there is none: repeat the call", refusal.filename)
        raise refusal

    def _holds(self, name: str, content: bytes) -> bool:
        try:
            return self.read(name) == content
        except FileNotFoundError:
            return False

    def _key(self, name: str) -> str:
        return self._above + name

    def _entry(self, meta: "ObjectMeta") -> Entry:
        # Google's is the generation, which every object has.
        version = "" if self._scheme == "gs" or meta["version"] in (None, "null") else meta["version"]
        return Entry(self._name(meta["path"]), meta["size"], _stamp(meta), meta["last_modified"].timestamp(), version or "")

    def _name(self, key: str) -> str:
        return key.removeprefix(self._above)

    def _connected(self, timeout: float) -> "ObjectStore":
        # NOTE: not as ``client_options``, which would hide what the environment says: that http is allowed, or a proxy.
        config: Any = {
            **self._address.options,
            "timeout": _milliseconds(timeout),
            "connect_timeout": _milliseconds(_CONNECT_SECONDS),
        }
        common: Any = {
            "prefix": self._prefix,
            "retry_config": {"max_retries": _ATTEMPTS, "retry_timeout": timedelta(seconds=2 * timeout)},
        }
        try:
            if self._scheme == "gs":
                return GCSStore(self._bucket, config=config, **common)
            if self._scheme == "az":
                return AzureStore(self._bucket, config=config, **common)
            # The environment may switch conditions off (AWS_CONDITIONAL_PUT), without which commits are lost.
            config["conditional_put"] = "etag"
            return S3Store(self._bucket, config=config, **common)
        except (BaseError, ValueError) as error:
            # NOTE: the error's own text may quote a key of the environment.
            raise ConfigError(
                f"The options of {self._address.url} or the variables of the environment for it are not what its client takes "
                f"({type(error).__name__}): {', '.join(sorted(self._address.options)) or 'no options'}. Correct them."
            ) from None

    @contextmanager
    def _translated(self, action: str, name: str) -> Iterator[None]:
        """Turn the client's errors into those of a file system, without what they quote: it may be a key."""
        url = self.address(name).url
        if not is_first_user("obstore"):
            raise OSError(
                errno.ENOTSUP,
                "object storage cannot be used in a process that was forked after its parent had used it: the threads that ask it "
                "are not copied. Start the process without a fork, multiprocessing.get_context('spawn'), or fork before",
                url,
            )
        try:
            yield
        except (BaseError, FileNotFoundError) as error:
            number, problem = problem_of(error)
            raise OSError(number, f"could not {action}: {problem}", url) from None


def _offset(folder: str, after: str) -> str | None:
    """Return behind which name a store may begin to list a folder so that no name is missing that is greater than ``after``.

    Some stores order by folders (``b/a`` before ``b-a``), others by the whole name. In both orders what is behind ``after`` is
    behind the offset where that is cut before the first character that is not greater than a slash, and by one more.

    Example:
        >>> _offset("_pushed/", "_pushed/0017.parquet")
        '_pushed/001'
    """
    if not after.startswith(folder):
        return None
    part = after[len(folder) :]
    end = next((place for place, letter in enumerate(part) if letter <= "/"), len(part))
    return folder + part[: end - 1] if end > 1 else None


def _before(name: str) -> str:
    """Return what comes right before a name, of what stands in the same folder; nothing where that cannot be said.

    Example:
        >>> _before("_delta_log/00000000000000000017.json")
        '_delta_log/00000000000000000016~'
    """
    folder, _, part = name.rpartition("/")
    digits = re.match(r"\d+", part)
    if digits is None or not int(digits[0]):
        return ""
    return f"{folder}/{int(digits[0]) - 1:0{len(digits[0])}d}~"


def _stamp(answer: Mapping[str, Any]) -> str:
    stamp = answer["e_tag"]
    if not stamp:
        raise OSError(errno.ENOTSUP, "the store gives no ETag to an object, by which its changes are seen: use another one")
    return str(stamp).strip('"')  # Azure quotes it in one answer and not in another


def _quoted(stamp: str) -> str:
    return stamp if stamp.startswith("W/") else f'"{stamp}"'


def _milliseconds(seconds: float) -> str:
    return f"{round(seconds * 1000)} ms"


def _opened(address: Address, timeout: float) -> ObjectFolder:
    return ObjectFolder(address.url, address.options, timeout=timeout)
