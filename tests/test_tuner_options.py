"""A setting is the same by every door: search.yaml, an option, Python; help and reference leave none out."""

import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from builders import refused
from conftest import Captune

from captune.data_prep.store import PreparedData
from captune.tuner.space.config import SearchConfig, check_overrides, read_search, search_settings
from captune.tuner.space.explain import README, configuration_settings, explanation, with_reference
from captune.tuner.space.yaml_file import ConfigError

SETTINGS = {name: setting for name, setting in search_settings().items() if setting.listed}
WRITTEN = {
    "preset": "full",
    "trials": "7",
    "time_limit": "1h30m",
    "patience": "7",
    "modality": "caption",
    "metric": "micro_f1",
    "objectives": "mean_f1,bytes",
    "sampler": "qmc",
    "seed": "5",
    "backend": "jax",
    "budget": "20MB",
    "measure": "bundle",
    "latency": "1.5ms",
    "latency_format": "litert",
    "storage": "int8",
    "cpus_per_trial": "0.5",
    "gpus_per_trial": "auto",
    "price": "2.5",
    "slots": "3",
    "share": "2.5",
    "checkpoint_every": "2epochs",
    "keep": "0",
    "min_free": "5GiB",
    "cache_limit": "2GiB",
    "trial_timeout": "90s",
    "retries": "0",
    "worker_trials": "9",
    "worker_growth": "1GiB",
    "halving.grace": "4",
    "halving.reduction": "5",
}
NEEDED = {"latency_format": {"latency": "20ms"}}  # without which a setting is refused


def by_python(overrides: dict[str, Any]) -> SearchConfig:
    return read_search(None, preset=overrides.pop("preset", None), default_preset="compact", overrides=overrides)


@pytest.mark.parametrize("name", SETTINGS)
def test_setting_is_the_same_by_every_door(
    captune: Captune, data: PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    configs: list[SearchConfig] = []

    def check(settings: SearchConfig, _data: PreparedData, *, new: bool) -> None:
        configs.append(settings)
        raise SystemExit

    monkeypatch.setattr("captune.tuner.api.plans.check", check)
    overrides = {"trials": "1", **NEEDED.get(name, {}), name: WRITTEN[name]}
    python = by_python(dict(overrides))
    assert by_python(check_overrides(overrides)) == python
    assert python != by_python({"trials": "1"})

    options = [word for key, text in overrides.items() for word in (SETTINGS[key].flag, text)]
    captune("search", data.path, "--run", tmp_path / "run", *options)

    preset = "preset: compact\n" if name != "preset" else ""
    group, _, key = ("fixed.storage" if name == "storage" else name).rpartition(".")
    line = f"{group}: {{{key}: {WRITTEN[name]}}}\n" if group else f"{key}: {WRITTEN[name]}\n"
    path = tmp_path / "search.yaml"
    others = "".join(f"{key}: {text}\n" for key, text in overrides.items() if key != name)
    path.write_text(f"{preset}{others}{line}")
    captune("search", data.path, "--run", tmp_path / "run", "--config", path)

    by_option, by_file = configs
    assert by_option == python
    tables = {"space", "fixed", "halving"}
    assert by_file.model_dump(exclude=tables) == python.model_dump(exclude=tables)
    if group:
        assert getattr(getattr(by_file, group), key, None) == getattr(getattr(python, group), key, None)
        assert by_file.fixed.get(key) == python.fixed.get(key)


def test_help_of_search_shows_every_setting_with_its_default_and_choices(captune: Captune) -> None:
    shown = captune("search", "-h").out
    words = " ".join(re.sub("[│╭╮╰╯─]", " ", shown).split())
    assert not [name for name in SETTINGS if f"{SETTINGS[name].flag} " not in words]
    assert {setting.group for setting in SETTINGS.values()} <= set(words.replace("(", " ").split())
    assert "<weights|bundle>" in words
    for default in ("default 100MiB", "default 60s", "default 500"):
        assert default in words
    resume = captune("resume", "--help").out
    assert "--time-limit" in resume and "--budget" not in resume


def test_reference_is_that_of_the_declarations() -> None:
    text = README.read_text(encoding="utf-8")
    assert text == with_reference(text), "run: make reference"
    assert not [name for name in {**search_settings(), **configuration_settings()} if f"| `{name}` |" not in text]


@pytest.mark.parametrize("name", {**search_settings(), **configuration_settings()})
def test_every_setting_is_explained_with_its_meaning_and_values(name: str) -> None:
    first, *facts = explanation(name).splitlines()
    assert re.fullmatch(rf"{re.escape(name)}: \S.+", first)
    assert facts[0].startswith("  values   ") and facts[-1].startswith("  set by   ")


def test_explanation_tells_the_default_of_each_preset_that_has_another() -> None:
    assert "presets  paper 0.0001, captions 0.004, compact 0.006, photos 0.0012, full 0.0003" in explanation(
        "train.learning_rate"
    )
    assert "captions from 0.002 to 0.008; compact from" in explanation("train.learning_rate")
    assert "presets  captions 2, compact 2, photos 3" in explanation("halving.grace")
    assert "presets" not in explanation("trials") + explanation("budget")
    assert "1 to 1000" in explanation("halving.grace")
    assert "fixed    captions 2048, compact 4096, photos 4096" in explanation("train.epoch_examples")
    assert "neither fixed nor searched" in explanation("image.side")


def test_end_of_a_name_is_enough_where_no_other_setting_has_it() -> None:
    assert explanation("learning_rate") == explanation("train.learning_rate")
    assert explanation("grace") == explanation("halving.grace")
    assert explanation("trials").startswith("trials: "), "a whole name is itself"
    assert explanation("halving.") == explanation("halving")
    assert [line.split()[0] for line in explanation("halving").splitlines()] == ["halving.grace", "halving.reduction"]
    assert "  text.kernel " in explanation("text") and "train." not in explanation("text").replace("pretrain", "")
    refused(lambda: explanation("dropout"), "image.dropout or text.dropout", error=ConfigError)


def test_unknown_setting_is_refused_with_the_closest_names(captune: Captune) -> None:
    ran = captune("explain", "train.learning")
    assert (ran.code, ran.out) == (2, "")
    assert "train.learning_rate" in ran.err and ran.err.count("\n") == 1
    assert captune("explain").out.count("train.learning_rate") == 1


@pytest.mark.parametrize("verb", [[], ["search"], ["cluster"], ["cluster", "status"]], ids=" ".join)
def test_short_h_is_help(captune: Captune, verb: list[str]) -> None:
    ran = captune(*verb, "-h")
    assert ran.code == 0
    assert ran.out == captune(*verb, "--help").out != ""


def test_version_is_that_of_the_package(captune: Captune) -> None:
    assert captune("--version").out == f"captune {version('captune')}\n"


@pytest.mark.parametrize("verb", [[], ["cluster"]], ids=["captune", "captune cluster"])
def test_command_without_words_shows_its_help_and_is_wrong_usage(captune: Captune, verb: list[str]) -> None:
    ran = captune(*verb)
    assert ran.code == 2
    assert "Usage" in ran.out + ran.err


@pytest.mark.slow
def test_bash_completes_verbs_options_and_choices(tmp_path: Path) -> None:
    def completed(*words: str) -> set[str]:
        environment = {
            **os.environ,
            "_CAPTUNE_COMPLETE": "complete_bash",
            "COMP_WORDS": "\n".join(("captune", *words)),
            "COMP_CWORD": str(len(words)),
        }
        code = "from captune.tuner.command.main import main; main()"
        return set(
            subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True).stdout.split()
        )

    assert {"search", "size", "space"} <= completed("s")
    assert {"--time-limit", "--trials"} <= completed("search", "--t")
    assert completed("search", "--measure", "") == {"weights", "bundle"}
