"""Which folder an address names: one of this machine, or one in object storage."""

from collections.abc import Mapping
from pathlib import Path

from featurestore.object_storage import is_object_address
from featurestore.offline.folder import Folder
from featurestore.offline.local_folder import LocalFolder


def open_folder(url: str | Path, root: Path = Path(), options: Mapping[str, str] | None = None) -> Folder:
    """Return the folder at an address.

    Args:
        url: ``s3://…``, ``gs://…`` or ``az://…``, or a path.
        root: where a relative path starts.
        options: the setting ``storage_options``.

    Raises:
        ConfigError: the address or an option is of another form, or holds a secret.
        MissingExtraError: object storage needs the extra ``object``.
    """
    text = str(url)
    if is_object_address(text):
        from featurestore.offline.object_folder import ObjectFolder  # obstore, an extra

        return ObjectFolder(text, options)
    return LocalFolder(root / Path(text.removeprefix("file://")).expanduser())
