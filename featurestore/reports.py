"""Reports: results that print as a table, in a console, as HTML in a notebook, and as JSON, from the same columns."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from html import escape
from typing import Any, Generic, TypeVar, overload

T = TypeVar("T")


@dataclass(frozen=True)
class Column(Generic[T]):
    """A column of a report.

    Args:
        header: its header.
        text: returns what stands in it for a value.
        width: how wide it is in plain text, at least.
        is_number: whether it holds numbers, which stand at the right.
        style: returns the style of a value's cell in a terminal; "" for none.
    """

    header: str
    text: Callable[[T], str]
    width: int = 0
    is_number: bool = False
    style: Callable[[T], str] = lambda value: ""


@dataclass(frozen=True)
class Note:
    """A line about a value, below it.

    Args:
        text: the line.
        style: its style in a terminal.
    """

    text: str
    style: str = "dim"


class Report(Sequence[T], Generic[T], ABC):
    """Values that print as a table, a line for each.

    Args:
        values: the values.
    """

    notes_in_cell = False
    """Whether a terminal shows notes in a line's last cell, and not below the table."""

    def __init__(self, values: Sequence[T]) -> None:
        self._values = tuple(values)

    @abstractmethod
    def columns(self) -> Sequence[Column[T]]:
        """Return the columns of the table; the first one names the line."""

    def notes_on(self, value: T) -> Iterator[Note]:
        """Yield the lines below a value."""
        yield from ()

    @property
    def summary(self) -> str:
        """A sentence below the table; empty for none."""
        return ""

    @overload
    def __getitem__(self, index: int) -> T: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[T]: ...

    def __getitem__(self, index: int | slice) -> T | Sequence[T]:
        return self._values[index]

    def __len__(self) -> int:
        return len(self._values)

    def to_dicts(self) -> list[dict[str, Any]]:
        """Return each value as a dictionary of plain values."""
        return [asdict(value) for value in self._values]  # type: ignore[call-overload]  # they are dataclasses

    def __repr__(self) -> str:
        columns = self.columns()
        lines = [_line(columns, [column.header for column in columns])] if self._has_head() else []
        for value in self._values:
            lines.append(_line(columns, [column.text(value) for column in columns]))
            lines += [f"    {note.text}" for note in self.notes_on(value)]
        return "\n".join([*lines, *([self.summary] if self.summary else [])])

    def _repr_html_(self) -> str:
        columns = self.columns()
        head = "".join(f"<th>{escape(column.header)}</th>" for column in columns)
        rows = []
        for value in self._values:
            cells = (
                f'<td style="text-align: {"right" if column.is_number else "left"}">{escape(column.text(value))}</td>'
                for column in columns
            )
            rows.append(f"<tr>{''.join(cells)}</tr>")
            rows += [
                f'<tr><td colspan="{len(columns)}" style="text-align: left"><i>{escape(note.text)}</i></td></tr>'
                for note in self.notes_on(value)
            ]
        below = f"<p>{escape(self.summary)}</p>" if self.summary else ""
        return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>{below}"

    def _has_head(self) -> bool:
        """Return whether the text has a line of headers."""
        return bool(self._values) or not self.summary


def _line(columns: Sequence[Column[Any]], texts: Sequence[str]) -> str:
    pairs = zip(columns, texts, strict=True)
    return " ".join(f"{text:>{column.width}}" if column.is_number else f"{text:<{column.width}}" for column, text in pairs).rstrip()
