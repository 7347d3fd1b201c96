"""Notices already shown, so that a later process does not repeat them."""

from collections.abc import Mapping

from featurestore.registry.specs import SpecRegistry


class Notices:
    """The last reported state of each view of a project. Right for any number of processes.

    Args:
        registry: the project's registry, whose database it shares.

    Every method raises ``RegistryError`` where the database cannot be reached.
    """

    def __init__(self, registry: SpecRegistry) -> None:
        self._registry = registry
        self._database = registry.database
        self._notice = registry.database.tables.notice

    def exchange(self, wrong: Mapping[str, str]) -> dict[str, str]:
        """Note which views are wrong, each with its state, and return what was noted before; of two at once the second sees it.

        Args:
            wrong: the states of the views that are wrong.
        """
        table, project = self._notice, self._registry.project
        mine = table.c.project == project
        with self._database.reading() as connection:
            known = {row.view: row.state for row in connection.execute(table.select().where(mine))}
        if known == dict(wrong):
            return known
        with self._database.writing() as connection:
            rows = connection.execute(table.select().where(mine).with_for_update())
            known = {row.view: row.state for row in rows}
            connection.execute(table.delete().where(mine))
            for view, state in wrong.items():
                self._database.insert_new(connection, table, {"project": project, "view": view, "state": state})
        return known
