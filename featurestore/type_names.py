"""Names of types as a user would annotate them, by the names that the registry keeps. It loads no Polars."""

PYTHON_NAMES = {
    "Boolean": "bool",
    "Int64": "int",
    "Float64": "float",
    "String": "str",
    "Binary": "bytes",
    "Datetime": "datetime",
    "Date": "date",
    "Decimal(38, 9)": "Decimal",
    "Time": "time",
    "Duration": "timedelta",
}
"""The dtypes that have a Python type; others are called by their own names."""


def annotated(dtype: str, *, nullable: bool) -> str:
    """Return how a user would annotate a column of a dtype.

    Example:
        >>> annotated("Float64", nullable=True)
        'float | None'
    """
    name = PYTHON_NAMES.get(dtype, dtype)
    return f"{name} | None" if nullable else name
