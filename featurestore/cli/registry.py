"""How a command opens the registry of its project, where it needs nothing else of it."""

from pathlib import Path

import typer

from featurestore.cli.options import project_folder, require_project
from featurestore.project_registry import ProjectRegistry
from featurestore.settings_loader import load_settings


def open_registry(ctx: typer.Context, folder: Path | None) -> ProjectRegistry:
    """Return the registry of the project in a folder.

    Raises:
        ConfigError: there is no project.
    """
    settings = load_settings(project_folder(ctx, folder))
    require_project(settings)
    return ProjectRegistry(settings)
