"""The starter project of ``init``: files from the template, and data up to the present time."""

import re
from datetime import timedelta
from importlib.resources import files
from pathlib import Path

import polars as pl

from featurestore.cli.terminal import called
from featurestore.clock import utc_now
from featurestore.durable import make_folders, write_file
from featurestore.errors import ConfigError

_FILES = {
    "featurestore.toml": ("featurestore.toml", "settings, each with its default"),
    "definitions/shop.py": ("definitions/shop.py.txt", "an entity, two sources, three views, a service"),
    "README.md": ("README.md", "what to do with it"),
    ".gitignore": ("gitignore", "leaves the stores out"),
}
_DATA = {
    "data/orders.parquet": "600 orders, each loaded some minutes later",
    "data/accounts.parquet": "the accounts of 100 customers",
    "spine.parquet": "200 moments to train on",
}
_SPARED = ("README.md", ".gitignore")
_CUSTOMERS = 100
_ORDERS = 600


_EMPTY = ("featurestore.toml", ".gitignore")
"""The files of a project without the example."""


def make_project(root: Path, *, empty: bool = False) -> tuple[dict[str, str], list[str]]:
    """Make a project in a folder; return the files written, with what each is for, and those left as they were.

    Args:
        root: the folder.
        empty: whether to make settings and folders alone, without the example's definitions and data.

    Raises:
        ConfigError: there is a project already, or a file is in the way; then nothing is written.
    """
    root = root.absolute()
    if (root / "featurestore.toml").exists():
        raise ConfigError(f"There is a project in {root} already, and init does not overwrite it. Name another folder.")
    wanted = {name: _FILES[name] for name in (_EMPTY if empty else _FILES)}
    data = {} if empty else _DATA
    taken = [name for name in (*wanted, *data) if name not in _SPARED and (root / name).exists()]
    if taken:
        raise ConfigError(f"init would overwrite {', '.join(taken)} in {root}. Name another folder, or move them away.")
    if root.exists() and not root.is_dir():
        raise ConfigError(f"{root} is a file; a project needs a folder.")
    project = re.sub(r"[^A-Za-z0-9_-]+", "_", root.name).strip("_") or "shop"
    kept = [name for name in _SPARED if name in wanted and (root / name).exists()]
    template = files("featurestore") / "templates" / "shop"
    written = {}
    try:
        for name in ("definitions", *(() if empty else ("data",))):
            make_folders(root / name, private=False)
        for name, (source, what) in wanted.items():
            if name not in kept:
                text = (template / source).read_text(encoding="utf-8")
                if not name.endswith((".py", ".gitignore")):
                    text = text.format(project=project)
                write_file(root / name, text.encode(), private=False)
                written[name] = what
        if not empty:
            _write_data(root)
    except OSError as error:
        raise ConfigError(f"The project cannot be written to {root}: {error.strerror}.") from error
    return {**written, **data}, kept


def next_steps(folder: Path | None, *, empty: bool = False) -> list[tuple[str, str]]:
    """Return the commands to go on with, each with what it does."""
    program = called(anywhere=True)
    steps = [] if folder is None or folder == Path() else [(f"cd {folder}", "where the project is")]
    if empty:
        return [
            *steps,
            ("definitions/", "write entities, sources and views into modules there"),
            (f"{program} plan", "show what apply would do"),
            (f"{program} apply", "make the definitions take effect"),
        ]
    return [
        *steps,
        (f"{program} apply", "make the definitions take effect"),
        (f"{program} materialize", "bring the rows into the history and the online store"),
        (f"{program} online churn_model customer_id=1001", "look features up, as a service would"),
        (f"{program} train spine.parquet churn_model --time asked_at --out train.parquet", "fetch a training frame"),
    ]


def _write_data(root: Path) -> None:
    """Write orders, accounts and a spine; only the hour they are counted back from differs from day to day."""
    now = utc_now().replace(minute=0, second=0, microsecond=0)
    order = pl.int_range(_ORDERS, eager=True)
    ordered = [now - timedelta(minutes=137 * number + 60) for number in range(_ORDERS)]
    items = order * 7 % 5 + 1
    orders = pl.DataFrame(
        {
            "order_id": order + 1,
            "customer_id": order * 37 % _CUSTOMERS + 1001,
            "ordered_at": ordered,
            "loaded_at": [at + timedelta(minutes=3 + number % 17) for number, at in enumerate(ordered)],
            "amount": ((order * 7919 % 9500 + 1995) / 100 * items).round(2),
            "items": items,
            "channel": [("web", "app", "store")[number * number % 7 % 3] for number in order],
            "coupon": [f"SAVE{number % 4 * 5 + 5}" if number % 4 < 3 else None for number in order],
        }
    )
    customer = pl.int_range(_CUSTOMERS, eager=True)
    accounts = pl.DataFrame(
        {
            "customer_id": customer + 1001,
            "updated_at": [now - timedelta(days=90 + number * 3) for number in customer],
            "tier": [("basic", "basic", "silver", "gold")[number % 4] for number in customer],
            "newsletter": [number % 3 != 0 for number in customer],
        }
    )
    asked = pl.int_range(200, eager=True)
    spine = pl.DataFrame(
        {
            "customer_id": asked * 13 % _CUSTOMERS + 1001,
            "asked_at": [now - timedelta(hours=5 * number + 1) for number in asked],
            "churned": [number % 6 == 0 for number in asked],
        }
    )
    # Files of a source are read from the oldest row on.
    write_file(root / "data" / "orders.parquet", orders.sort("ordered_at").write_parquet, private=False)
    write_file(root / "data" / "accounts.parquet", accounts.sort("updated_at").write_parquet, private=False)
    write_file(root / "spine.parquet", spine.sort("asked_at").write_parquet, private=False)
