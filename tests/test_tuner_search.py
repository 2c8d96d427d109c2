"""What ended Ray Tune. No Ray runs here."""

import pytest


def _through(ray_first: bool, error: Exception) -> Exception:
    """`error` as it comes out of Ray, raised in a callback of ours or in Ray itself."""
    from captune.tuner.ray_tune import search

    inner: dict[str, object] = {
        "__name__": "captune.tuner.ray_tune.adapter" if ray_first else "ray.tune.logger",
        "error": error,
    }
    exec("def callback():\n    raise error", inner)
    outer: dict[str, object] = {"__name__": "ray.tune.tuner", "callback": inner["callback"]}
    exec(
        "def fit():\n    try:\n        callback()\n    except Exception as error:\n"
        "        raise RuntimeError('failed') from error",
        outer,
    )
    try:
        outer["fit"]()  # type: ignore[operator]
    except RuntimeError as wrapped:
        return search._fault(wrapped)
    raise AssertionError


@pytest.mark.cluster  # imports Ray, starts none of it
def test_end_by_rays_own_fault_is_told_in_one_line() -> None:
    told = _through(False, ValueError("no\nsuch  thing"))
    assert type(told).__name__ == "SearchError"
    assert str(told) == "Ray ended the search: ValueError: no such thing"


@pytest.mark.cluster  # imports Ray, starts none of it
def test_end_by_a_bug_of_ours_keeps_its_traceback() -> None:
    told = _through(True, KeyError("epoch"))
    assert type(told) is RuntimeError and isinstance(told.__cause__, KeyError)


@pytest.mark.cluster  # imports Ray, starts none of it
def test_end_by_the_disk_is_no_bug() -> None:
    assert "OSError: full" in str(_through(True, OSError("full")))
