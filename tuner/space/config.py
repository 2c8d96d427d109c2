"""Settings of a search, from search.yaml and the command line, checked before anything starts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, field_validator

from captune.errors import UsageError
from captune.model.config import Modality, Settings, TrialConfig
from captune.model.presets import PRESETS
from captune.model.size import DEFAULT_BUDGET, Budget, Measure, parse_bytes
from captune.tuner.space.dimensions import Space, SpaceError, parse_dimension

_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")

_EPOCHS = re.compile(r"(\d+)\s*epochs?")


class ConfigError(UsageError):
    """A setting that a person has to mend; names the file, line and key where there are any."""


class HalvingConfig(Settings):
    """Asynchronous successive halving (Li et al., 2020, arXiv 1810.05934): when it looks and how many go on."""

    grace: int = Field(1, ge=1, le=1000, description="epochs that every trial is given")
    reduction: int = Field(3, ge=2, le=16, description="one in so many goes on at each rung")


class SearchConfig(Settings):
    """What one search is asked to do. Bytes, seconds and resources are plain numbers here."""

    preset: str
    trials: int | None = Field(None, ge=1, le=1_000_000, description="feasible trials; None: until the time limit")
    time_limit: float | None = Field(None, gt=0, description="seconds of wall time; None: until all trials are done")
    budget: int = Field(DEFAULT_BUDGET, description="bytes allowed")
    measure: Measure = Field("weights", description="what is held against the budget: the weights or the whole bundle")
    objectives: tuple[Literal["mean_f1"]] | tuple[Literal["mean_f1"], Literal["bytes"]] = ("mean_f1",)
    modality: Modality
    seed: int = Field(0, ge=0, lt=2**31)
    cpus_per_trial: float | None = Field(None, ge=0)
    gpus_per_trial: Annotated[float, Field(ge=0)] | Literal["auto"] | None = Field(
        None, description="auto: a share by the memory that the largest configuration is measured to need"
    )
    slots: int | None = Field(
        None, ge=1, le=100_000, description="trials at once; more than fit now lets an autoscaler add nodes"
    )
    checkpoint_every: str = Field("60s", description="at most one checkpoint of a trial in so much time or epochs")
    keep: int = Field(3, ge=0, le=1000, description="best trials whose network is kept")
    min_free: int = Field(2**30, ge=0, description="bytes that stay free on the run's disk")
    trial_timeout: float | None = Field(None, gt=0, description="seconds a trial may take; None: any")
    retries: int = Field(3, ge=0, le=1000, description="of a trial that the machine lost")
    backend: Literal["tensorflow", "jax"] = Field("tensorflow", description="what Keras computes with")
    worker_trials: int = Field(500, ge=1, description="trials after which a worker is replaced by a fresh one")
    worker_growth: int = Field(2 * 2**30, ge=0, description="bytes of memory that a worker may grow by before it is")
    halving: HalvingConfig = HalvingConfig()
    fixed: dict[str, Any] = Field(default_factory=dict, description="changes to the preset that are not searched")
    space: dict[str, Any] = Field(default_factory=dict, description="dotted names to dimensions, as in search.yaml")

    @field_validator("checkpoint_every")
    @classmethod
    def _interval(cls, value: str) -> str:
        parse_interval(value)
        return value

    @property
    def limit(self) -> Budget:
        """The budget with its measure."""
        return Budget(self.budget, self.measure)

    def build_space(self) -> Space:
        """The space around the preset, limited to the modality."""
        return _build_space(self.preset, self.fixed, self.space, self.modality)


class _File(Settings):
    """The keys that search.yaml may hold; sizes and durations as people write them."""

    preset: Literal["paper", "captions", "compact", "full"] | None = None
    trials: int | None = None
    time_limit: float | None = None
    budget: int | None = None
    measure: Measure | None = None
    objectives: tuple[str, ...] | None = None
    modality: Modality | None = None
    seed: int | None = None
    cpus_per_trial: float | None = None
    gpus_per_trial: float | Literal["auto"] | None = None
    slots: int | None = None
    checkpoint_every: str | None = None
    keep: int | None = None
    min_free: int | None = None
    trial_timeout: float | None = None
    retries: int | None = None
    backend: Literal["tensorflow", "jax"] | None = None
    worker_trials: int | None = None
    worker_growth: int | None = None
    halving: HalvingConfig | None = None
    fixed: dict[str, Any] | None = None
    space: dict[str, Any] | None = None

    @field_validator("objectives")
    @classmethod
    def _known(cls, value: Any) -> Any:
        if value not in (None, ("mean_f1",), ("mean_f1", "bytes")):
            raise ValueError("objectives must be [mean_f1] or [mean_f1, bytes]")
        return value

    @field_validator("time_limit", "trial_timeout", mode="before")
    @classmethod
    def _duration(cls, value: Any) -> Any:
        return None if value is None else parse_duration(str(value))

    @field_validator("budget", "min_free", "worker_growth", mode="before")
    @classmethod
    def _bytes(cls, value: Any) -> Any:
        return None if value is None else parse_bytes(str(value))


def shipped_space(preset: str) -> str:
    """The search.yaml that ships for a preset, as text to edit.

    Raises:
        ConfigError: unknown preset.
    """
    check_preset(preset)
    return resources.files("captune.tuner.space").joinpath(f"{preset}.yaml").read_text()


def check_preset(preset: str) -> None:
    """Raises ConfigError, naming those there are, unless `preset` is one."""
    if preset not in list(PRESETS):  # a list: YAML may have put anything here
        raise ConfigError(f"no preset {preset!r}; there are: {', '.join(PRESETS)}")


def read_search(
    path: Path | None, *, preset: str | None, default_preset: str, overrides: Mapping[str, Any]
) -> SearchConfig:
    """A search's settings: the file (or the preset's own space), then what the command line adds, which wins.

    Args:
        path: a search.yaml; None for the space shipped with the preset.
        preset: from the command line; else the file's; else `default_preset`.
        overrides: SearchConfig fields and `storage` given on the command line; None values were not given.

    Raises:
        ConfigError: the first thing wrong, with file, line and key.
    """
    if preset is not None:
        check_preset(preset)
    if path is None:
        name, text = (
            f"the space of preset {preset or default_preset}",
            shipped_space(preset or default_preset),
        )
    else:
        name, text = str(path), _read(path)
    content, lines = _parse(text, name)
    try:
        file = _File.model_validate(content)
    except ValidationError as error:
        raise ConfigError(_first(error, name, lines)) from None
    values = {k: v for k, v in file.model_dump().items() if v is not None}
    values |= {k: v for k, v in overrides.items() if v is not None}
    storage = values.pop("storage", None)
    if storage is not None:  # from the command line: for every trial, so no longer drawn
        values["fixed"] = {**values.get("fixed", {}), "storage": storage}
        values["space"] = {k: v for k, v in values.get("space", {}).items() if k != "storage"}
    values["preset"] = preset or file.preset or default_preset
    base = PRESETS[values["preset"]]
    values.setdefault("modality", base.model.modality)
    try:
        config = SearchConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_first(error, name, lines)) from None
    try:
        config.build_space()
    except SpaceError as error:
        where = _place(name, lines, error.location)
        raise ConfigError(f"{where}: {error}") from None
    if config.trials is None and config.time_limit is None:
        raise ConfigError("a search needs an end: give --trials N, --time-limit 30m, or both")
    return config


def read_trial_config(path: Path) -> TrialConfig:
    """One configuration from YAML: `preset`, and dotted names that change it.

    Raises:
        ConfigError: the first thing wrong, with file, line and key.
    """
    content, lines = _parse(_read(path), str(path))
    preset = content.pop("preset", "paper")
    try:
        check_preset(preset)
    except ConfigError as error:
        raise ConfigError(f"{_place(str(path), lines, ('preset',))}: {error}") from None
    try:
        return _build_space(preset, content, {}, PRESETS[preset].model.modality).base
    except SpaceError as error:
        # The names stand at the top of this file, not under `fixed`.
        raise ConfigError(f"{_place(str(path), lines, error.location[1:])}: {error}") from None


def parse_duration(text: str) -> float:
    """Seconds of '90s', '30m', '1h30m'.

    Raises:
        ValueError: anything else.
    """
    match = _DURATION.fullmatch(text.strip())
    seconds = (
        sum(int(part or 0) * unit for part, unit in zip(match.groups(), (3600, 60, 1), strict=True)) if match else 0
    )
    if seconds <= 0:
        raise ValueError(f"a duration is written like 90s, 30m or 1h30m, got {text!r}")
    return float(seconds)


def parse_gpus(text: str) -> float | Literal["auto"]:
    """GPUs of a trial: a number, or auto. Raises ConfigError for anything else."""
    if text == "auto":
        return "auto"
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"GPUs per trial are a number, as 0.5 or 1, or auto, got {text!r}") from None


def parse_interval(text: str) -> tuple[float | None, int | None]:
    """Seconds, or epochs, of '60s', '10m', '1epoch', '5epochs'.

    Raises:
        ValueError: anything else.
    """
    match = _EPOCHS.fullmatch(text.strip())
    if match is not None and int(match[1]) > 0:
        return None, int(match[1])
    try:
        return parse_duration(text), None
    except ValueError:
        raise ValueError(f"an interval is written like 60s, 10m, 1epoch or 5epochs, got {text!r}") from None


def _build_space(preset: str, fixed: Mapping[str, Any], space: Mapping[str, Any], modality: Modality) -> Space:
    dimensions = {name: parse_dimension(name, value) for name, value in space.items()}
    return Space.around(PRESETS[preset], fixed=fixed, dimensions=dimensions, modality=modality)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ConfigError(f"cannot read {path}: {reason}") from None


def _parse(text: str, name: str) -> tuple[dict[str, Any], dict[tuple[str, ...], int]]:
    """The YAML mapping in `text`, and the line of each key path."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        raise ConfigError(f"{name}{line}: not YAML: {problem}") from None
    if content is None:
        return {}, {}
    if not isinstance(content, dict):
        raise ConfigError(f"{name} line 1: expected keys with values, got {type(content).__name__}")
    lines: dict[tuple[str, ...], int] = {}
    try:
        _collect_lines(root, (), lines, name)
    except RecursionError:
        raise ConfigError(f"{name}: an alias (*name) stands inside its own anchor; write the value out") from None
    return content, lines


def _collect_lines(node: Any, path: tuple[str, ...], lines: dict[tuple[str, ...], int], name: str) -> None:
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        here = (*path, str(key.value))
        line = key.start_mark.line + 1
        if key.tag.endswith((":int", ":float", ":bool", ":null")):
            raise ConfigError(f"{name} line {line}: a key must be a name, got {key.value}")
        if here in lines:
            # YAML lets the last one win without a word.
            raise ConfigError(f"{name} line {line}: key {'.'.join(here)} stands here a second time; keep one")
        lines[here] = line
        _collect_lines(value, here, lines, name)


def _place(name: str, lines: Mapping[tuple[str, ...], int], location: tuple[str, ...]) -> str:
    known = location
    while known and known not in lines:
        known = known[:-1]
    line = f" line {lines[known]}" if known else ""
    return f"{name}{line}: {': '.join(location)}" if location else f"{name}{line}"


def _first(error: ValidationError, name: str, lines: Mapping[tuple[str, ...], int]) -> str:
    detail = error.errors()[0]
    location = tuple(str(step) for step in detail["loc"])
    if detail["type"] == "extra_forbidden":
        known = HalvingConfig.model_fields if location[0] == "halving" else _File.model_fields
        return f"{_place(name, lines, location)}: unknown key; there are: {', '.join(known)}"
    message = detail["msg"].removeprefix("Value error, ")
    given = "" if repr(detail["input"]) in message else f", got {detail['input']!r}"
    return f"{_place(name, lines, location)}: {message}{given}"
