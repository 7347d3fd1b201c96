"""Names of schemas: PascalCase, as generators of clients name classes by them."""

import re
from collections.abc import Collection, Iterable

SUFFIXES = ("Row", "Columns", "Request", "Response", "Features", "Statuses", "EventTimes", "Types")
"""What the schemas of one service are called, behind its own name."""


def schema_names(services: Iterable[str], taken: Collection[str] = ()) -> dict[str, str]:
    """Return the name in PascalCase of each service, no two alike.

    Args:
        services: the services.
        taken: the names of other schemas.

    Example:
        >>> schema_names(["delay_model", "a_1b", "a1_b", "3d"])
        {'3d': 'Service3d', 'a1_b': 'A1B', 'a_1b': 'A1b2', 'delay_model': 'DelayModel'}
        >>> schema_names(["a__b", "a_b"], taken=["AB2Row"])
        {'a__b': 'AB', 'a_b': 'AB3'}
    """
    names: dict[str, str] = {}
    used = {name.lower() for name in taken}  # a generator may write a file for each, where case does not count
    for service in sorted(services):
        parts = [part for part in re.split(r"[^A-Za-z0-9]+", service) if part]
        base = "".join(part[0].upper() + part[1:] for part in parts)
        base = base if base[:1].isalpha() else f"Service{base}"
        name, number = base, 1
        while used & {f"{name}{suffix}".lower() for suffix in SUFFIXES}:
            number += 1
            name = f"{base}{number}"
        names[service] = name
        used |= {f"{name}{suffix}".lower() for suffix in SUFFIXES}
    return names
