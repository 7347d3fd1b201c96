"""Reports: text, HTML, JSON and the terminal show the same columns."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest
from rich.console import Console

from featurestore.cli.terminal import print_report
from featurestore.reports import Column, Note, Report


@dataclass(frozen=True)
class Item:
    name: str
    count: int
    remark: str = ""


class Items(Report[Item]):
    def columns(self) -> Sequence[Column[Item]]:
        return [
            Column("name", lambda item: item.name, 6, style=lambda item: "cyan"),
            Column("count", lambda item: f"{item.count:,}", 7, is_number=True),
        ]

    def notes_on(self, value: Item) -> Iterator[Note]:
        if value.remark:
            yield Note(value.remark, "red")

    @property
    def summary(self) -> str:
        return f"{len(self)} in all."


ITEMS = Items([Item("a<b", 1_000), Item("longer", 2, "too & few")])


def test_text() -> None:
    assert repr(ITEMS).splitlines() == ["name     count", "a<b      1,000", "longer       2", "    too & few", "2 in all."]
    assert repr(Items([])) == "0 in all."


def test_html_is_a_table_and_escapes() -> None:
    html = ITEMS._repr_html_()
    assert html.startswith("<table><thead><tr><th>name</th><th>count</th></tr></thead>")
    assert "a&lt;b" in html
    assert "too &amp; few" in html
    assert html.endswith("<p>2 in all.</p>")


@pytest.mark.parametrize("in_cell", [False, True])
def test_a_terminal_shows_cells_notes_and_summary(in_cell: bool) -> None:
    class There(Items):
        notes_in_cell = in_cell

    written = io.StringIO()
    print_report(Console(file=written, width=80), There(list(ITEMS)))
    lines = [line.strip() for line in written.getvalue().splitlines()]
    assert ["a<b", "1,000"] in [line.split() for line in lines]
    assert ("longer: too & few" in lines) is not in_cell
    assert lines[-1] == "2 in all."


def test_it_is_a_sequence_of_values() -> None:
    assert (len(ITEMS), ITEMS[0].name, [item.count for item in ITEMS[1:]]) == (2, "a<b", [2])
    assert ITEMS.to_dicts()[1] == {"name": "longer", "count": 2, "remark": "too & few"}
