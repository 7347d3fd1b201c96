"""Sales of seven shops, a minute apart, and two views of them: the last one, and what was taken in a day."""

from datetime import UTC, datetime, timedelta

import polars as pl

from featurestore import Entity, FeatureView, FrameSource, count, sum_

BEGAN = datetime(2013, 7, 1, tzinfo=UTC)


def sales(rows: int) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "sale": [f"s{number}" for number in range(rows)],
            "shop": [number % 7 for number in range(rows)],
            "at": [BEGAN + timedelta(minutes=number) for number in range(rows)],
            "price": [float(number) for number in range(rows)],
        }
    )


def views(rows: pl.DataFrame) -> list[type[FeatureView]]:
    shop = Entity("shop", shop=int)
    source = FrameSource("sales", rows, event_time="at", event_id="sale")

    class LastSale(FeatureView, entity=shop, source=source):
        price: float

    class Takings(FeatureView, entity=shop, source=source):
        taken: float = sum_("price").over("1d")
        sold: int = count().over("1d")

    return [LastSale, Takings]
