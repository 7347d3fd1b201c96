"""Addresses in object storage, and what may be said of such a store where others can read it."""

import re
from collections.abc import Mapping

from featurestore.errors import ConfigError, did_you_mean

SCHEMES = ("s3", "gs", "az")
"""How the addresses in object storage begin that are known here: S3 and what speaks its protocol, Google Cloud Storage, Azure."""

_OPTIONS = frozenset({
    "account_name", "allow_http", "bucket_key_enabled", "default_region", "endpoint", "endpoint_url", "region", "request_payer",
    "s3_express", "server_side_encryption", "skip_signature", "sse_bucket_key_enabled", "sse_kms_key_id", "unsigned_payload",
    "use_emulator", "use_fabric_endpoint", "virtual_hosted_style_request",
})  # fmt: skip
"""What may be said of a store, with a cloud's name before it or without: none of it is a secret."""
_CLOUD = re.compile(r"^(?:aws|azure(?:_storage)?|google)_")
_USER = re.compile(r"^\w+://[^/]*@")
_SIGNATURE = re.compile(r"\?[\w.-]+=")


def is_object_address(text: str) -> bool:
    """Return whether a text is an address in object storage, and not a path.

    Example:
        >>> is_object_address("s3://lake/flights"), is_object_address("data/flights")
        (True, False)
    """
    return text.partition("://")[0] in SCHEMES and "://" in text


def check_options(options: Mapping[str, str]) -> None:
    """Raise where an option of object storage is unknown, or may be a secret, which others would see.

    Raises:
        ConfigError: it is.

    Example:
        >>> check_options({"region": "eu-west-1"})
        >>> check_options({"secret_access_key": "…"})
        Traceback (most recent call last):
        featurestore.errors.ConfigError: The option 'secret_access_key' of object storage cannot be set here. ...
    """
    for name, value in options.items():
        plain = _CLOUD.sub("", name.lower())
        if plain not in _OPTIONS:
            raise ConfigError(
                f"The option {name!r} of object storage cannot be set here. {did_you_mean(plain, _OPTIONS)} "
                "Keys, tokens and passwords go into the environment (AWS_SECRET_ACCESS_KEY and the like), or come from the "
                "machine's role."
            )
        check_address(value, f"The option {name!r}")


def check_address(text: str, what: str = "The address") -> None:
    """Raise where an address has a user, a password or a signature in it, which others would see.

    Raises:
        ConfigError: it has.
    """
    if _USER.match(text) or "?" in text:
        raise ConfigError(
            f"{what} has a user, a password or a signature in it, which others would see. Give it without, and put the credentials "
            "into the environment."
        )


def check_glob(text: str, what: str = "The address") -> None:
    """Raise like ``check_address`` where an address, which may have a glob's question marks, has a secret in it.

    Raises:
        ConfigError: it has a user, a password or a signature.

    Example:
        >>> check_glob("s3://lake/day=?/part_?.parquet")
        >>> check_glob("az://lake/rows.parquet?sig=…")
        Traceback (most recent call last):
        featurestore.errors.ConfigError: The address has a user, a password or a signature in it, ...
    """
    check_address(text if _SIGNATURE.search(text) else text.replace("?", "*"), what)
