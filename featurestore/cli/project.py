"""How a command opens the store of its project or, where it needs nothing else, the registry."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from featurestore.cli.options import project_folder
from featurestore.errors import ConfigError
from featurestore.project_registry import ProjectRegistry
from featurestore.settings_loader import load_settings
from featurestore.store import FeatureStore

if TYPE_CHECKING:
    from featurestore.config import Settings


def open_store(ctx: typer.Context, folder: Path | None, **settings: Any) -> FeatureStore:
    """Return the store of the project in a folder, with some settings that the command was given; None is as the project has it.

    Raises:
        ConfigError: there is no project, so that nothing is written where a command was run by mistake.
    """
    store = FeatureStore(project_folder(ctx, folder), **settings)
    require_project(store.settings)
    return store


def require_project(settings: "Settings") -> None:
    """Raise ``ConfigError`` where there is no project in the folder of some settings."""
    root, definitions = settings.root, settings.definitions
    is_project = (root / "featurestore.toml").exists() or (root / definitions).is_dir() or "FEATURESTORE_REGISTRY" in os.environ
    if not (is_project or (root / ".featurestore").is_dir()):  # which a notebook makes that opens a store here
        raise ConfigError(
            f"There is no project in {root}: it has neither a featurestore.toml nor a folder {definitions!r}. "
            "Name the project's folder with -C DIR, or make a project: featurestore init"
        )


def open_registry(ctx: typer.Context, folder: Path | None) -> ProjectRegistry:
    """Return the registry of the project in a folder.

    Raises:
        ConfigError: there is no project.
    """
    settings = load_settings(project_folder(ctx, folder))
    require_project(settings)
    return ProjectRegistry(settings)
