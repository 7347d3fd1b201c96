"""The metaclass of views: inherited features and options, options that do not exist, and how a view prints."""

import inspect
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, NamedTuple, get_origin

from featurestore.definitions.reference import Reference, ViewReference
from featurestore.errors import did_you_mean


class Member(NamedTuple):
    """A feature as a class body declares it.

    Args:
        annotation: its type.
        value: what stands behind the equals sign; None where nothing does.
        owner: the class that declares it.
    """

    annotation: Any
    value: Any
    owner: str


class DefinitionMeta(type):
    """Collect what a view's class and its bases declare, so that a view that subclasses another has its features and options.

    The base of each kind of view has ``__spec__``, the name of the attribute that holds a view's spec, and ``__init_subclass__``
    with the options that there are, which type checkers and editors know from it.
    """

    __spec__: ClassVar[str]
    __view_name__: str

    def __new__(mcs, name: str, bases: tuple[type, ...], namespace: dict[str, Any], /, **options: Any) -> Any:
        """Make the class. Options that do not exist are kept aside, to be reported with the other faults."""
        base = next((base for base in bases if isinstance(base, DefinitionMeta)), None)
        if base is None or getattr(base, "__spec__", None) is None:  # the base of a kind of view, or what is above it
            return super().__new__(mcs, name, bases, namespace)
        known = options_of(base)
        inherited = {} if base.__dict__.get("__options__") is None else dict(base.__dict__["__options__"])
        namespace["__options__"] = inherited | {option: value for option, value in options.items() if option in known}
        namespace["__unknown_options__"] = tuple(option for option in options if option not in known)
        return super().__new__(mcs, name, bases, namespace, **namespace["__options__"])

    def __init__(cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], /, **options: Any) -> None:
        super().__init__(name, bases, namespace)

    def __getattr__(cls, name: str) -> Any:
        spec = None if name.startswith("__") else cls.__dict__.get(cls.__spec__)
        if spec is None:
            raise AttributeError(name)
        raise AttributeError(f"{cls.__name__} has no feature {name!r}. {did_you_mean(name, spec.feature_names)}")

    def __references__(cls) -> tuple[Reference, ...]:
        return (ViewReference(cls.__view_name__),)

    def __repr__(cls) -> str:
        spec = cls.__dict__.get(cls.__spec__)
        return cls.__name__ if spec is None else f"{cls.__name__}: {spec}"


def options_of(base: type) -> tuple[str, ...]:
    """Return the options that a class of a kind of view takes: the keywords of its ``__init_subclass__``."""
    return tuple(inspect.signature(base.__init_subclass__).parameters)


def unknown_options(cls: type) -> Iterator[str]:
    """Yield a problem for each option of a class that does not exist."""
    known = options_of(cls)
    for option in cls.__dict__["__unknown_options__"]:
        yield f"there is no option {option!r}. {did_you_mean(option, known)}"


def declared_members(cls: type) -> dict[str, Member]:
    """Return the features that a class declares or inherits, in order; a class may declare an inherited one differently.

    Inherited are those of views and of plain classes that it is made of. A class that gives an inherited feature another value
    keeps its type.
    """
    members: dict[str, Member] = {}
    for base in reversed(cls.__mro__[1:]):
        if "__members__" in vars(base):
            members |= vars(base)["__members__"]
        elif base is not object and not isinstance(base, DefinitionMeta):
            members |= {name: member for name, member in _own(base).items() if not name.startswith("_")}
    own = _own(cls)
    for name in members.keys() - own.keys():
        if name in vars(cls):
            own[name] = Member(members[name].annotation, vars(cls)[name], cls.__name__)
    members |= own
    cls.__members__ = members  # type: ignore[attr-defined]  # read by the classes made of this one
    return members


def without_annotation(cls: type, members: dict[str, Member], kinds: tuple[type, ...]) -> Sequence[str]:
    """Return the names of a class's values of some kinds that no annotation gives a type."""
    return [name for name, value in vars(cls).items() if isinstance(value, kinds) and name not in members]


def _own(cls: type) -> dict[str, Member]:
    return {
        name: Member(annotation, vars(cls).get(name), cls.__name__)
        for name, annotation in inspect.get_annotations(cls).items()
        if not _is_class_variable(annotation)
    }


def _is_class_variable(annotation: Any) -> bool:
    origin: Any = get_origin(annotation)
    return origin is ClassVar


def refuse_instance(definition: object) -> None:
    """Raise for an attempt to instantiate a definition.

    Raises:
        TypeError: always.
    """
    name = type(definition).__name__
    raise TypeError(f"{name} is a definition and is not instantiated; name its features as {name}.feature.")
