"""Applying definitions: checks them against their sources, compares them with the catalog, and writes all in one step."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import polars as pl

from featurestore.access.redaction import discreetly
from featurestore.definitions.catalog import AppliedView, Catalog
from featurestore.definitions.feature_view import FeatureView, ViewSpec
from featurestore.definitions.source import Source
from featurestore.errors import (
    BreakingChangeError,
    DefinitionError,
    DefinitionErrors,
    SourceError,
    SourceShapeError,
    UnprotectError,
)
from featurestore.project.collect import Definitions
from featurestore.project.pii_changes import unprotected
from featurestore.project.row_locality import SAMPLE_ROWS, check_row_local
from featurestore.project.source_notices import decimal_notices, source_notices
from featurestore.registry.diff import Plan, diff
from featurestore.registry.specs import SpecRegistry
from featurestore.rows.rereading import rereading_warnings, tie_warnings
from featurestore.rows.transform import check_columns, run_transform
from featurestore.sources.base import SourceReader


@dataclass(frozen=True)
class Applier:
    """Plan and apply definitions.

    Args:
        registry: where specs are kept.
        open_source: opens a source's reader.
        count_rows: tells how many rows a view's history holds: those to be recomputed, and whether there are any to serve.
        retained: tells which earlier data versions of a view are kept.
        place: tells which data version a view is to have whose rows are to be made, given the one that comes next.
        adopt: receives the views in another data version than before, before that is written: it may have rows already.
    """

    registry: SpecRegistry
    open_source: Callable[[Source], SourceReader]
    count_rows: Callable[[AppliedView], int | None]
    retained: Callable[[str], Sequence[AppliedView]]
    place: Callable[[ViewSpec, int], int] = lambda view, number: number
    adopt: Callable[[Sequence[AppliedView]], None] = lambda views: None

    def plan(self, definitions: Definitions, *, partial: bool) -> Plan:
        """Return what applying the definitions would change.

        Raises:
            DefinitionErrors: views do not fit their sources or have invalid transforms; all are reported.
        """
        catalog = self.registry.load()
        plan = diff(catalog, definitions, partial=partial, rows=self.count_rows, retained=self.retained, place=self.place)
        changed = {change.name for change in plan.changes if change.kind in ("view", "source", "entity")}
        faults: list[DefinitionError] = []
        warnings: list[str] = []
        for view in definitions.views.values():
            try:
                warnings += self._checked(view, tried=view.__view__.name not in changed)
                warnings += _opaque_warnings(view)
            except DefinitionErrors as error:
                faults += error.faults
            except DefinitionError as error:
                faults.append(error)
        if faults:
            raise DefinitionErrors(faults)
        opened = tuple(unprotected(self.registry, definitions))
        return replace(plan, warnings=(*plan.warnings, *warnings), unprotected=opened)

    def apply(
        self, definitions: Definitions, *, partial: bool, allow_breaking: bool, allow_unprotect: bool, expected: Plan | None
    ) -> tuple[Plan, Catalog]:
        """Apply the definitions; return what changed, and the catalog as it then is.

        Args:
            definitions: the definitions.
            partial: whether they are some of the project's.
            allow_breaking: whether services may lose features they use.
            allow_unprotect: whether personal features may become features that are not.
            expected: the plan that somebody agreed to; nothing is written if somebody else applied since it was made.

        Raises:
            DefinitionErrors: as ``plan``.
            BreakingChangeError: services would lose features they use, and that is not allowed.
            UnprotectError: personal features would not be personal any more, and that is not allowed.
            ConcurrentApplyError: somebody else applied meanwhile.
        """
        plan = self.plan(definitions, partial=partial)
        if plan.broken and not allow_breaking:
            raise BreakingChangeError(plan.broken)
        if plan.unprotected and not allow_unprotect:
            raise UnprotectError(plan.unprotected)
        if plan.is_empty:
            return plan, self.registry.load()
        self.adopt(list(self._moved(plan)))
        base = plan.base_revision if expected is None else expected.base_revision
        return plan, self.registry.commit(base, plan.puts(), plan.deletes(), plan.unprotected)

    def _moved(self, plan: Plan) -> Iterator[AppliedView]:
        """Return the views that a plan gives another data version than they have, or their first one."""
        before = self.registry.load().views
        for put in plan.puts():
            if isinstance(put.spec, ViewSpec) and put.data_version is not None:
                known = before.get(put.spec.name)
                if known is None or known.data_version != put.data_version:
                    yield AppliedView(put.spec, put.version, put.data_version)

    def _checked(self, defined: type[FeatureView], *, tried: bool) -> list[str]:
        view = defined.__view__
        return discreetly([view], lambda: self._check(defined, tried=tried), lambda: self.open_source(view.source).schema())

    def _check(self, defined: type[FeatureView], *, tried: bool) -> list[str]:
        """Check a view against its source; return what is to be known of it, and what could not be checked without a source.

        A transform that is applied as it is was tried then (S20), and is tried again by each run that has something to read.
        """
        view = defined.__view__
        reader = self.open_source(view.source_as_read)
        try:
            schema = reader.schema()
        except SourceShapeError as error:
            raise DefinitionError(str(error), view.place) from error
        except SourceError as error:
            return [f"view {view.name!r} could not be checked against its source: {error}"]
        transform = defined.__transform__
        if transform is not None:
            schema = run_transform(pl.LazyFrame(schema=schema), view, transform).collect_schema()
        problems = check_columns(view, schema)
        if problems:
            raise DefinitionErrors([DefinitionError(problem, view.place) for problem in problems])
        decimals = list(decimal_notices(view, schema))  # which goes on for as long as nobody mends it, so it is said again
        if tried:
            return decimals
        sample = reader.sample(SAMPLE_ROWS)
        if transform is not None:
            check_row_local(view, transform, sample)
        notices = [*decimals, *source_notices(view)]
        if view.windows and view.source.event_id is None:
            return [*notices, *rereading_warnings(view, transform, sample, reader.sample(SAMPLE_ROWS))]
        return [*notices, *tie_warnings(view, transform, sample)]


def _opaque_warnings(view: type[FeatureView]) -> Iterator[str]:
    """Return what a view's transform uses whose changes no plan can show (D17)."""
    if view.__opaque__:
        yield (
            f"view {view.__view__.name!r}: its transform uses {', '.join(view.__opaque__)}; a change there does not change the "
            "view, since its meaning cannot be determined. If it changes the values, change the transform too."
        )
