"""Tiles as bytes."""

import struct
import sys

import pytest

from featurestore.windows.tiles import little_endian


@pytest.mark.parametrize(("order", "code"), [("little", "<"), ("big", ">")])
def test_d35_tiles_are_little_endian_whatever_the_machine(order: str, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = (1, -2, 2**62)
    monkeypatch.setattr(sys, "byteorder", order)
    stored = little_endian(struct.pack(f"{code}3q", *numbers))
    assert stored == struct.pack("<3q", *numbers)
    assert little_endian(stored) == struct.pack(f"{code}3q", *numbers)
