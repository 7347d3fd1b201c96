"""One machine of a fleet, until it is killed or ``FOLDER/stop`` is there: ``… fleet_worker FOLDER KIND NAME``.

The history is in a bucket, the registry on PostgreSQL, the online store a server; the environment says where.
"""

import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl

from featurestore import Entity, FeatureStore, FeatureView, ParquetSource, count, sum_
from featurestore.errors import OfflineStoreError
from featurestore.offline.base import is_gone

BEGAN = datetime(2024, 1, 1, tzinfo=UTC)
SHOPS = [f"shop{number}" for number in range(12)]
PROJECT = "fleet"
DAY = timedelta(days=1)


def sale(number: int, who: str) -> dict[str, object]:
    """Returns the sale of a number, the same each time."""
    return {"sale": f"{who}-{number}", "shop": SHOPS[number % 12], "at": BEGAN + number * timedelta(seconds=7), "price": number / 4}


def sales(numbers: range, who: str) -> pl.DataFrame:
    return pl.DataFrame([sale(number, who) for number in numbers])


def definitions(folder: Path) -> list[type[FeatureView]]:
    shop = Entity("shop", shop=str)
    source = ParquetSource("sales", str(folder / "data" / "*.parquet"), event_time="at", event_id="sale")

    class LastSale(FeatureView, entity=shop, source=source):
        sale: str
        price: float

    class Takings(FeatureView, entity=shop, source=source):
        taken: float = sum_("price").over("7d")
        sold: int = count().over("7d", "3650d")

    return [LastSale, Takings]


def opened(folder: Path) -> FeatureStore:
    store = FeatureStore(folder, project=PROJECT)
    store.apply(definitions(folder))
    return store


def train(store: FeatureStore) -> dict[str, int]:
    """Returns how many sales a frame counts of each shop; it is asked for again where its files were merged and removed."""
    spine = pl.DataFrame({"shop": SHOPS, "t": [BEGAN + 3000 * DAY] * 12})
    while True:
        try:
            frame = store.training_frame(spine, ["last_sale", "takings"], time="t")
        except OfflineStoreError as error:
            if not is_gone(error):
                raise
            continue
        return dict(zip(frame["shop"], frame["sold_3650d"].fill_null(0), strict=True))


def main(folder: str, kind: str, name: str) -> None:
    """Works at least once, and prints what it has done or seen, a line each, once it counts."""
    root, step = Path(folder), 0
    age = int(name.rpartition("-")[2]) * 10_000
    store, is_last = opened(root), False
    before = dict.fromkeys(SHOPS, 0)
    while not is_last:
        is_last = (root / "stop").exists()
        if kind == "materialize":
            sales(range(age + step * 40, age + step * 40 + 40), name).write_parquet(root / f".{name}-{step}")
            (root / f".{name}-{step}").rename(root / "data" / f"{name}-{step}.parquet")
            store.materialize()
            print(json.dumps(["file", f"{name}-{step}.parquet"]), flush=True)
        elif kind == "push":
            first = age + step * 10
            store.push("sales", pl.concat([sales(range(max(age, first - 5), first), name), sales(range(first, first + 10), name)]))
            print(json.dumps(["pushed", name, first, first + 10]), flush=True)
        elif kind == "train":
            counts = train(store)
            assert all(counts[shop] >= before[shop] for shop in SHOPS), f"a sale is gone: {before} {counts}"
            before = counts
            print(json.dumps(["trained", sum(counts.values())]), flush=True)
        else:
            store.admin.maintain()
        step += 1
    store.close()
    print(json.dumps(["done"]), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
