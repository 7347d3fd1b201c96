"""Which folder an address names: one of this machine, or one in object storage."""

from collections.abc import Mapping
from pathlib import Path

from featurestore import plugins
from featurestore.offline.folder import Folder, FolderAdapter


def open_folder(url: str | Path, root: Path = Path(), options: Mapping[str, str] | None = None) -> Folder:
    """Return the folder at an address.

    Args:
        url: ``s3://…``, ``gs://…``, ``az://…`` or a plug-in's, or a path.
        root: where a relative path starts.
        options: the setting ``storage_options``.

    Raises:
        ConfigError: no installed package brings such folders, or the address or an option is of another form, or holds a secret.
        MissingExtraError: object storage needs the extra ``object``.

    Example:
        >>> open_folder("data/flights", Path("/srv")).address().url
        '/srv/data/flights'
    """
    scheme, sign, _ = str(url).partition("://")
    adapter: type[FolderAdapter] = plugins.load(plugins.FOLDERS, scheme if sign else "file", FolderAdapter)
    return adapter.open(str(url), root, options or {})
