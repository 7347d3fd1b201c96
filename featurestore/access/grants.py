"""Grants: what a caller may do on a server, written as text: ``reader service:delay_model pii``."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, cast, get_args

from featurestore.errors import ConfigError, did_you_mean

Role = Literal["reader", "writer", "admin", "monitor"]
"""``reader`` reads features, ``writer`` pushes rows, ``admin`` does both and whatever else there is, ``monitor`` reads metrics."""
Scope = Literal["project", "service", "view"]

_FORM = "Write a role (reader, writer, admin, monitor), where it counts (project, service:NAME or view:NAME) and, if need be, pii."


@dataclass(frozen=True)
class Grant:
    """One role in one place.

    Args:
        role: what may be done.
        scope: where: in the whole project, a service or a view.
        name: the service's or view's name; empty for the project.
        pii: whether features that are personal information are among what may be read. No role has that by itself.

    Example:
        >>> Grant.parse("reader service:delay_model pii")
        Grant(role='reader', scope='service', name='delay_model', pii=True)
        >>> str(Grant("writer", "view", "weather"))
        'writer view:weather'
    """

    role: Role
    scope: Scope
    name: str = ""
    pii: bool = False

    @classmethod
    def parse(cls, text: str) -> "Grant":
        """Return the grant that a text says.

        Raises:
            ConfigError: it says none.
        """
        words = text.split() if isinstance(text, str) else []
        if not 2 <= len(words) <= 3 or words[2:] not in ([], ["pii"]):
            raise ConfigError(f"Invalid grant {text!r}. {_FORM}")
        role, (scope, colon, name) = words[0], words[1].partition(":")
        for what, word, known in (("role", role, get_args(Role)), ("scope", scope, get_args(Scope))):
            if word not in known:
                raise ConfigError(f"Invalid grant {text!r}: unknown {what} {word!r}. {did_you_mean(word, known)} {_FORM}")
        if bool(colon and name) == (scope == "project") or (colon and not name):
            raise ConfigError(f"Invalid grant {text!r}: a service or view needs a name, and a project takes none. {_FORM}")
        if role == "monitor" and words[1:] != ["project"]:
            raise ConfigError(
                f"Invalid grant {text!r}: a monitor reads the metrics of the whole project, so its scope must be project. {_FORM}"
            )
        return cls(cast("Role", role), cast("Scope", scope), name, len(words) == 3)

    @classmethod
    def parse_all(cls, texts: str | Iterable[str]) -> "tuple[Grant, ...]":
        """Return the grants of several texts, or of one with commas between them, each once."""
        parts = texts.split(",") if isinstance(texts, str) else texts
        return tuple(dict.fromkeys(cls.parse(part) for part in parts))

    def __str__(self) -> str:
        where = f"{self.scope}:{self.name}" if self.name else self.scope
        return f"{self.role} {where}{' pii' if self.pii else ''}"
