"""Python values (of data frames and the Hub) as literal cells."""

import math

import numpy as np

from remora.data.table import Cell, Nested

_MISSING_TYPES = ("NAType", "NaTType")


def cell_of(value: object) -> Cell:
    """A value as the text it is written as; None, NaN and pandas' own missing values are missing.

    Args:
        value: of any type.

    Returns:
        Text, None, or `Nested` for lists and other objects.
    """
    if isinstance(value, np.floating) and not np.isnan(value):
        return str(value)  # before .item(), which would write a 32-bit 3.2 as 3.200000047683716
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or type(value).__name__ in _MISSING_TYPES:
        return None
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        return str(value)
    if isinstance(value, list | tuple | np.ndarray):
        return Nested(kind="list", items=tuple(map(cell_of, value)))
    return Nested(kind=type(value).__name__)
