"""Scrubbing stored errors of runs after an entity is forgotten, including the bytes of the database's files."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from sqlalchemy import func, select

from featurestore.registry.specs import SpecRegistry

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Table

CLEARED = "Its text was cleared when an entity was forgotten. Run it again to see why it fails."


class Remains:
    """The texts of errors in a project's registry.

    Args:
        registry: the project's registry.

    Every method raises ``RegistryError`` where the database cannot be reached.
    """

    def __init__(self, registry: SpecRegistry) -> None:
        self._registry = registry
        self._database = registry.database

    def clear(self, views: Iterable[str], *, dry_run: bool = False) -> dict[str, int]:
        """Clear the errors of views' runs and of what was due of them; return how many, by view.

        Nothing is left of them in the database's files either, nor of those that were cleared or replaced before. A server
        of PostgreSQL has them in its own log and backups still.

        Args:
            views: the views.
            dry_run: count only.

        Raises:
            RegistryError: somebody reads or writes all the time; repeating it completes it.
        """
        cleared: dict[str, int] = {}
        tables = self._database.tables
        with self._database.reading() if dry_run else self._database.writing() as connection:
            for view in dict.fromkeys(views):
                for table in (tables.run, tables.due):
                    has_errors = self._with_errors(table, view)
                    if dry_run:
                        count = connection.execute(select(func.count()).select_from(table).where(has_errors)).scalar()
                    else:
                        count = connection.execute(table.update().where(has_errors).values(error=CLEARED)).rowcount
                    cleared[view] = cleared.get(view, 0) + int(count or 0)
        if not dry_run:
            self._database.scrub()
        return cleared

    def _with_errors(self, table: "Table", view: str) -> "ColumnElement[bool]":
        mine = (table.c.project == self._registry.project) & table.c.view.in_((view, f"upkeep:{view}"))
        has_errors: ColumnElement[bool] = mine & table.c.error.not_in(("", CLEARED))
        return has_errors
