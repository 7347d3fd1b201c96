"""Aggregates: what a window can make of its events. ``base`` says what one is; each other file has some."""

from featurestore.aggregates.base import AGGREGATES, Aggregate, PartialAggregate
from featurestore.aggregates.counts import Count, CountDistinct
from featurestore.aggregates.ends import First, Last, LastN
from featurestore.aggregates.extremes import Max, Min
from featurestore.aggregates.quantiles import Quantile
from featurestore.aggregates.spread import Std, Var
from featurestore.aggregates.sums import Mean, Sum

__all__ = [
    "AGGREGATES",
    "Aggregate",
    "Count",
    "CountDistinct",
    "First",
    "Last",
    "LastN",
    "Max",
    "Mean",
    "Min",
    "PartialAggregate",
    "Quantile",
    "Std",
    "Sum",
    "Var",
]
