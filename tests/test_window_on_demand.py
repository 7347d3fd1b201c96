"""On-demand features over windows: one row at a time equals the whole frame, online equals training (S16, S20)."""

from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore import Feature, OnDemandView, Request
from featurestore.clock import from_micros
from tests.effort import examples
from tests.test_semantics import address_of
from tests.window_oracle import same
from tests.windowed import FEW, TAME, Layout, Scene, cases_of, project, scenes, spine_of

CASES = [cases_of(rule)[0] for rule in ("count", "last", "last_n", "max", "mean", "sum")]


class Amount(Request):
    amount: float
    factor: int = 3
    note: str | None = None


def on_demand(layout: Layout, view: Any) -> tuple[type[OnDemandView], type[OnDemandView]]:
    """A view of what can be made of windows and a request, and one of what can be made of it."""
    of = {case.rule: case.columns(layout.windows)[-1] for case in CASES}

    class Usual(OnDemandView, inputs=[view, Amount]):
        share: float | None = Feature(pl.col("amount") / pl.col(of["sum"]))
        over_mean: float | None = Feature((pl.col("amount") - pl.col(of["mean"])) * pl.col("factor"))
        busy: bool = Feature(pl.col(of["count"]) >= pl.col("factor"))
        some: int = Feature(pl.col(of["last_n"]).list.len().cast(pl.Int64))
        level: str = Feature(pl.when(pl.col(of["max"]) > pl.col("amount")).then(pl.lit("low")).otherwise(pl.lit("high")))
        told: str | None = Feature(pl.col("note").str.to_uppercase() + "!")

    class Odd(OnDemandView, inputs=[Usual.busy, Usual.share, view, Amount]):
        odd: bool | None = Feature(~pl.col("busy") & (pl.col("share") > 0.5))
        back: float | None = Feature(pl.coalesce(pl.col(of["last"]), pl.col("share"), pl.col("amount")))

    return Usual, Odd


rows = st.fixed_dictionaries(
    {"amount": st.sampled_from([0.0, 1.5, -2.0, 1e15, float("inf")])},
    optional={"factor": st.integers(0, 4), "note": st.sampled_from(["a", "é", "", None])},
)


@pytest.mark.parametrize("online", ["lmdb", "valkey"])
@settings(FEW, max_examples=examples(4))
@given(scene=scenes(CASES, floats=TAME), data=st.data())
def test_s16_s20_one_row_at_a_time_equals_the_frame(
    scene: Scene, data: st.DataObject, online: str, request: pytest.FixtureRequest
) -> None:
    view = scene.layout.view(scene.source())
    asked = [key for key, _ in scene.spine]
    given = [data.draw(rows) for _ in asked]
    now = max([row.known for row in scene.events] or [0]) + data.draw(st.integers(0, 12))
    usual, odd = on_demand(scene.layout, view)
    with project([view, Amount, usual, odd], now, online=address_of(online, request)) as (store, _):
        store.materialize()
        entities = [{"k": k, "n": n} for k, n in asked]
        # A field left out is its default; a frame has one for each row.
        full = [{"factor": 3, "note": None, **each} for each in given]
        schema = {"amount": pl.Float64, "factor": pl.Int64, "note": pl.String}
        spine = spine_of([(key, now) for key in asked]).hstack(pl.DataFrame(full, schema=schema))
        features = [odd, usual, view] if data.draw(st.booleans()) else [usual.level, odd.odd, usual.share]
        trained = store.training_frame(spine, features, time="t").drop("t", "label").to_dicts()
        whole = store.online(features, [{**one, **other} for one, other in zip(entities, full, strict=True)]).to_dicts()
        for number, (entity, each) in enumerate(zip(entities, given, strict=True)):
            [alone] = store.online(features, [{**entity, **each}], at=from_micros(now)).to_dicts()
            again = store.training_frame(spine[number : number + 1], features, time="t").drop("t", "label").to_dicts()[0]
            for name in trained[number]:
                found = [trained[number][name], whole[number][name], again[name]] + ([alone[name]] if name in alone else [])
                assert all(alike(one, found[0]) for one in found), (name, found)


def alike(one: Any, other: Any) -> bool:
    """Whether two values are the same, or as near as sums of the same values in another order are (S10)."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return same(one, other) or (isinstance(one, float) and isinstance(other, float) and one == pytest.approx(other, rel=1e-6))
