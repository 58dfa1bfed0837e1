"""How numbers, ids and flags in COCO's format are understood, for all code that reads them.

Tables that were written by pandas have whole numbers as floats, and null or NaN where nothing stood.
"""

import math
from typing import Any

# Floats above it cannot represent every whole number.
_EXACT = 2**53


def whole_number(value: Any) -> int | None:
    """Returns a number that fits in int64, 1.0 as 1; None for all else, also for true and for strings."""
    if type(value) is float and value.is_integer() and abs(value) <= _EXACT:
        return int(value)
    return value if type(value) is int and -(2**63) <= value < 2**63 else None


def plain_id(value: Any) -> Any:
    """Returns an id for comparison: whole numbers as of ``whole_number``, all else unchanged."""
    number = whole_number(value)
    return value if number is None else number


def measured_area(value: Any) -> float:
    """Returns an area of 0 or more as a float; NaN for all else, also for numbers too large for a float."""
    try:
        return float(value) if type(value) in (int, float) and 0 <= value < math.inf else math.nan
    except OverflowError:
        return math.nan


def crowd_flag(value: Any) -> bool | None:
    """Returns the value of ``iscrowd``: 1 and true are crowd; 0, false, null and NaN are not; None for all else."""
    if value is None or value != value:
        return False
    if type(value) is bool:
        return bool(value)
    number = whole_number(value)
    return bool(number) if number in (0, 1) else None
