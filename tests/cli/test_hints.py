"""Names that users of other feature stores type first say what they are called here (N22)."""

import importlib

import pytest

import featurestore
from featurestore import FeatureStore, hints
from featurestore.cli.loader import COMMANDS
from tests.cli.conftest import Invoke


@pytest.mark.parametrize("name", hints.MODULE)
def test_the_package_says_what_a_name_is_called(name: str) -> None:
    with pytest.raises(ImportError, match=f"module 'featurestore' has no attribute '{name}'. Use "):
        exec(f"from featurestore import {name}", {})


@pytest.mark.parametrize("name", hints.MODULE)
def test_such_a_name_is_not_there_as_in_any_module(name: str) -> None:
    assert not hasattr(featurestore, name)
    assert getattr(featurestore, name, None) is None
    with pytest.raises(AttributeError, match="Use "):
        getattr(featurestore, name)


def test_other_names_are_not_there_as_in_any_module() -> None:
    assert not hasattr(featurestore, "nothing_of_the_kind")
    assert not set(hints.MODULE) & set(featurestore.__all__)


@pytest.mark.parametrize("name", hints.STORE)
def test_the_store_says_what_a_member_is_called(name: str, tmp_path: object) -> None:
    with FeatureStore(str(tmp_path), project="p") as store:
        with pytest.raises(AttributeError, match=f"FeatureStore has no '{name}'. Use store"):
            getattr(store, name)
        hint = hints.STORE[name].partition("(")[0].partition("[")[0]
        target: object = store
        for part in hint.split("."):
            target = getattr(target, part)


def test_a_member_without_a_hint_is_an_attribute_error(tmp_path: object) -> None:
    with (
        FeatureStore(str(tmp_path), project="p") as store,
        pytest.raises(AttributeError, match=r"FeatureStore has no 'nothing'\.$"),
    ):
        _ = store.nothing  # type: ignore[attr-defined]


def test_hints_of_the_package_name_what_there_is() -> None:
    for target in hints.MODULE.values():
        name = target.partition("(")[0].partition(",")[0].partition(" ")[0]
        module, _, last = name.rpartition(".")
        if module:
            assert hasattr(importlib.import_module(module), last)
        elif name not in ("a",):
            assert name in featurestore.__all__


@pytest.mark.parametrize("name", hints.COMMANDS)
def test_the_command_line_says_what_a_command_is_called(name: str, invoke: Invoke) -> None:
    assert hints.COMMANDS[name].split()[0] in COMMANDS
    assert name not in COMMANDS
    refused = " ".join(invoke(name, "x", code=2).stderr.replace("│", " ").split())
    assert f"There is no command '{name}'. Use: featurestore {hints.COMMANDS[name]}" in refused
