"""How an exported file is answered and timed, without a runtime."""

import sys
from typing import Any

import numpy as np
import pytest

from captune.tuner.winner.formats.answer import check_kept_out, keep_out, median_milliseconds


def test_package_that_is_kept_out_cannot_be_imported_and_counts_as_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "this", raising=False)
    keep_out(["this"])
    with pytest.raises(ImportError):
        import this  # noqa: F401
    check_kept_out(["this"])


def test_module_of_a_package_that_got_loaded_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kitchen.sink", sys)
    keep_out(["kitchen"])
    with pytest.raises(RuntimeError, match=r"kitchen\.sink"):
        check_kept_out(["kitchen"])
    check_kept_out(["kit"])


def test_time_of_a_call_is_the_median_without_the_first() -> None:
    now, seconds = [0.0], iter([9.0, 9.0, *([0.001, 0.002, 0.003] * 16), 0.001, 0.003])

    def answer(inputs: Any) -> Any:
        now[0] += next(seconds)
        return np.zeros((1, 1), np.float32)

    assert median_milliseconds(answer, {}, lambda: now[0]) == pytest.approx(2.0)
    assert next(seconds, None) is None, "50 calls after two that warm up"


def test_slow_file_is_called_five_times_after_two() -> None:
    now = [0.0]

    def answer(inputs: Any) -> Any:
        now[0] += 3.0
        return np.zeros((1, 1), np.float32)

    assert median_milliseconds(answer, {}, lambda: now[0]) == pytest.approx(3000)
    assert now[0] == 7 * 3.0
