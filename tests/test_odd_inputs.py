"""Fifty inputs, odd or bad, drawn from seeds; ``python -m tests.helpers.odd_inputs 1000`` draws more."""

import numpy as np
import pytest

from pvt_jax.errors import UserError
from tests.helpers import odd_inputs

CASES = range(50)


@pytest.mark.parametrize("seed", CASES)
@pytest.mark.filterwarnings("ignore")
def test_is_read_as_written_or_refused_in_one_line(seed, tmp_path):
    case = odd_inputs.draw(seed, tmp_path)
    assert odd_inputs.failure(case) == "", case.what


def test_what_is_wrong_is_seen():
    """The judge itself: each way to fail, and the two to pass."""

    def judged(is_bad: bool = False, error: Exception | None = None) -> str:
        def run() -> None:
            if error:
                raise error

        return odd_inputs.failure(odd_inputs.Case("nothing", run, is_bad))

    assert judged() == "" and judged(is_bad=True) == "accepted"
    assert judged(error=UserError("no")) == "refused: no" and judged(True, UserError("no")) == ""
    assert judged(True, UserError("no\nno")).startswith("an error of 2 lines")
    assert judged(error=ZeroDivisionError("x")) == "traceback: ZeroDivisionError: x"
    assert judged(error=TimeoutError("x")) == "traceback: TimeoutError: x"
    with pytest.raises(AssertionError) as wrong:
        np.testing.assert_array_equal([1], [2])
    assert judged(error=wrong.value).startswith("read wrongly: ")
