"""The engine on Ray where Ray is not installed: what to install is said."""

import sys

import pytest

from featurestore import FeatureStore, plugins
from featurestore.engines.base import EngineAdapter
from featurestore.errors import MissingExtraError


def test_a_missing_extra_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.delitem(sys.modules, "featurestore.engines.ray", raising=False)
    monkeypatch.setitem(sys.modules, "ray", None)
    plugins.forget()
    try:
        with pytest.raises(MissingExtraError, match=r"pip install 'featurestore\[ray\]'"):
            plugins.load(plugins.ENGINES, "ray", EngineAdapter)
        with FeatureStore(str(tmp_path), engine="ray") as store, pytest.raises(MissingExtraError):
            store.training_frame({"k": []}, "weather")
    finally:
        plugins.forget()
