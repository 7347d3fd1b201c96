"""The demo's project: a folder with the example definitions and settings."""

import shutil
from pathlib import Path

from featurestore.demo.parity import forget_online
from featurestore.errors import ConfigError
from featurestore.store import FeatureStore

_MARK = "# Written by `featurestore demo`, which replaces this folder's data, stores and definitions when it runs again."
_SETTINGS = f'{_MARK}\n\nproject = "flights"\n'
_PACKAGE = Path(__file__).parent.parent


def make_demo_project(folder: Path) -> FeatureStore:
    """Return the store of the demo's project, empty, made in a folder that is new, empty, or an earlier demo's.

    Raises:
        ConfigError: something else is in the folder; then nothing is touched.
    """
    settings = folder / "featurestore.toml"
    ours = settings.is_file() and settings.read_text(encoding="utf-8").startswith(_MARK)
    if folder.exists() and not ours and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder.absolute()} exists and is not a demo's folder. Name another one: featurestore demo FOLDER")
    for name in (".featurestore", "definitions"):
        shutil.rmtree(folder / name, ignore_errors=True)
    shutil.copytree(definitions_folder(), folder / "definitions", ignore=shutil.ignore_patterns("__pycache__"))
    settings.write_text(_SETTINGS, encoding="utf-8")
    store = FeatureStore(folder)
    forget_online(store)  # an online store that is a server has what an earlier demo wrote
    return store


def definitions_folder() -> Path:
    """Return where the example's definitions are: in an installed package, or beside it in a checkout."""
    for place in (_PACKAGE / "templates" / "flights" / "definitions", _PACKAGE.parent / "definitions"):
        if (place / "flights.py").is_file():
            return place
    raise ConfigError(f"The example's definitions are missing from {_PACKAGE}. Install featurestore again.")
