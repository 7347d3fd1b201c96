"""On-demand features against the same read without them."""

from collections.abc import Iterator

import polars as pl

from benchmarks import online
from benchmarks.measure import Line, in_turn, microseconds
from benchmarks.project import store
from featurestore import Feature, OnDemandView, Request

CALLS = 2_000


def lines(*, full: bool) -> Iterator[Line]:
    """Measures what three expressions add to a read of ten features from Valkey."""
    from tests.servers.valkey import ValkeyServer

    made = online.views()[0]

    class Asked(Request):
        amount: float

    class Computed(OnDemandView, inputs=[made, Asked]):
        ratio: float | None = Feature(pl.col("amount") / pl.col("v0_1"))
        large: bool | None = Feature(pl.col("amount") > pl.col("v0_2"))
        apart: float | None = Feature((pl.col("v0_3") - pl.col("amount")).abs())

    one = [{"entity": "user_77", "amount": 12.5}]
    hundred = [{"entity": f"user_{number * 97}", "amount": number * 1.5} for number in range(100)]
    with ValkeyServer() as server, store("computed", server.url) as opened:
        opened.apply([made, Computed])
        opened.materialize([made], start="1970-01-01")
        opened.admin.rebuild_online()  # the history may be of an earlier run, the server is new
        for rows, what, reach in ((one, "1 row", 250e-6), (hundred, "100 rows", 300e-6)):
            ours, without = in_turn(
                lambda rows=rows: opened.online([made, Computed], rows).to_dicts(),  # type: ignore[misc]
                lambda rows=rows: opened.online([made], rows).to_dicts(),  # type: ignore[misc]
                CALLS,
            )
            added = ours - without
            yield Line(
                f"on-demand: 3 expressions, {what}", f"{microseconds(ours)} p50", f"{microseconds(without)} (without)",
                f"+{microseconds(added)}", f"≤ +{reach * 1e6:.0f} µs", added <= reach,
            )  # fmt: skip
