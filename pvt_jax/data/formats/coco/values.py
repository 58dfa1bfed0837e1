"""Numbers, ids and flags as files of COCO's format have them: what is understood of each, for all that reads them.

Tables that were written by pandas have whole numbers as floats, and null or NaN where nothing stood.
"""

import math
from typing import Any

# Above it a float does not tell one whole number from the next.
_EXACT = 2**53


def whole_number(value: Any) -> int | None:
    """Returns a number that int64 holds, 1.0 as 1; None for all else, also for true and for texts."""
    if type(value) is float and value.is_integer() and abs(value) <= _EXACT:
        return int(value)
    return value if type(value) is int and -(2**63) <= value < 2**63 else None


def plain_id(value: Any) -> Any:
    """Returns an id as it is compared: a whole number as ``whole_number`` has it, all else as it stands."""
    number = whole_number(value)
    return value if number is None else number


def measured_area(value: Any) -> float:
    """Returns an area of 0 or more as a float; NaN for all else, also for a number that no float holds."""
    try:
        return float(value) if type(value) in (int, float) and 0 <= value < math.inf else math.nan
    except OverflowError:
        return math.nan


def crowd_flag(value: Any) -> bool | None:
    """Returns whether ``iscrowd`` says crowd: 1 and true do; 0, false, null, NaN and nothing do not; None: all else."""
    if value is None or value != value:
        return False
    if type(value) is bool:
        return bool(value)
    number = whole_number(value)
    return bool(number) if number in (0, 1) else None
