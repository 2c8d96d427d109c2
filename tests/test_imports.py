"""What is passed over when large libraries are imported, and by whom."""

import json
import subprocess
import sys
from importlib import import_module

import pytest
from conftest import Captune

from captune import imports
from captune.imports import passing_over

EXTRAS = {"IPython", "matplotlib", "pandas", "scipy.stats", "sklearn"}


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imports, "_alone", True)


def test_module_is_as_good_as_not_installed(alone: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    with passing_over("colorsys", "json"), pytest.raises(ModuleNotFoundError, match="colorsys"):
        import_module("colorsys")
    assert import_module("colorsys").rgb_to_hls(0, 0, 0) == (0, 0, 0)


def test_module_that_is_loaded_stays(alone: None) -> None:
    with passing_over("json"):
        assert import_module("json") is json
    assert sys.modules["json"] is json


def test_a_failing_import_leaves_nothing_hidden(alone: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    with pytest.raises(ZeroDivisionError), passing_over("colorsys"):
        raise ZeroDivisionError
    assert "colorsys" not in sys.modules


def test_beside_others_nothing_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imports, "_alone", False)
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    with passing_over("colorsys"):
        import_module("colorsys")


def test_command_has_its_process_for_itself(captune: Captune, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imports, "_alone", False)
    assert captune("--version").code == 0
    assert imports._alone


@pytest.mark.slow
@pytest.mark.parametrize(
    "call, whole",
    [
        ("runtime.settle(1, 'tensorflow')", False),
        ("imports.captune_is_alone(); runtime.import_keras('tensorflow')", False),
        ("runtime.import_keras('tensorflow')", True),
    ],
    ids=["worker", "command", "notebook"],
)
def test_libraries_are_whole_in_notebooks_alone(call: str, whole: bool) -> None:
    """And everywhere what was passed over can be had afterwards."""
    code = f"""
import sys
from captune import imports
from captune.data_prep.captions import word_tokenizer
from captune.tuner.training import runtime
{call}
word_tokenizer()
print(*sys.modules)
import IPython, jax, matplotlib.pyplot, pandas, scipy.stats, sklearn.metrics
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert EXTRAS & set(done.stdout.split()) == (EXTRAS if whole else set())
