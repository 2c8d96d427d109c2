"""Settings of a search: each declared once, for search.yaml, the command line and Python alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from importlib import resources
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, ValidationError, field_validator

from captune.errors import among, in_words
from captune.model.config import Metric, Modality, ModelConfig, Settings, TrialConfig
from captune.model.flat import flatten, unflatten
from captune.model.presets import PRESETS
from captune.model.size import DEFAULT_BUDGET, Budget, Measure
from captune.tuner.space.chosen import parameters_of
from captune.tuner.space.declarations import Declaration, Group, configuration_settings, declared
from captune.tuner.space.dimensions import SpaceError, parse_dimension
from captune.tuner.space.meaning import as_declared, chosen_as_declared
from captune.tuner.space.meaning import check as check_meaning
from captune.tuner.space.misplaced import at_the_top, check_inside
from captune.tuner.space.space import Space
from captune.tuner.space.units import Bytes, Duration, Gpus, Interval, Milliseconds, Objectives, shortened
from captune.tuner.space.yaml_file import ConfigError, YamlFile

PresetName = Literal["paper", "captions", "compact", "photos", "full"]
assert set(get_args(PresetName)) == set(PRESETS)
SamplerName = Literal["tpe", "gp", "cmaes", "qmc", "random"]


class _WithoutTruths(Settings):
    """No setting of a search is true or false, and neither counts as 1 or 0."""

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth(cls, value: Any) -> Any:
        if isinstance(value, bool):
            raise ValueError(f"true and false are no values of it, got {value}")
        return value


class HalvingConfig(_WithoutTruths):
    """Asynchronous successive halving (Li et al., 2020, arXiv 1810.05934): when it looks and how many go on."""

    grace: Annotated[int, Group("Halving")] = Field(
        1,
        ge=1,
        le=1000,
        description="epochs of trial 0 before the first rung; of any other trial the same share",
    )
    reduction: Annotated[int, Group("Halving")] = Field(
        3, ge=2, le=16, description="one in so many goes on at each rung"
    )


class SearchConfig(_WithoutTruths):
    """What one search is asked to do. Values are bytes, seconds, plain numbers; texts as people write them are read."""

    preset: Annotated[PresetName, Group("Search")] = Field(
        description="network and training to start from, and trial 0 of a search, or what is nearest to it"
    )
    trials: Annotated[int | None, Group("Search")] = Field(
        None, ge=1, le=1_000_000, description="configurations inside the budget to try; none: until the time limit"
    )
    time_limit: Annotated[Duration | None, Group("Search")] = Field(
        None,
        description="wall time of the search, the start of Ray included, after which what runs is ended; "
        "none: until all trials are done",
    )
    patience: Annotated[int | None, Group("Search")] = Field(
        None,
        ge=1,
        le=1_000_000,
        description="the search ends once so many trials in a row were no better than the best; none: any",
    )
    modality: Annotated[Modality, Group("Search")] = Field(description="what is read; by itself what the preset reads")
    metric: Annotated[Metric, Group("Search")] = Field(
        "mean_f1",
        description="the score that is maximised: trials are cut and the winner is chosen by it, and the decision rule "
        "is fitted for it",
    )
    objectives: Annotated[Objectives, Group("Search")] = Field(
        ("mean_f1",),
        description="what the sampler looks for, mean_f1 standing for the metric; with bytes for small networks as "
        "well as for good ones",
    )
    sampler: Annotated[SamplerName, Group("Search")] = Field(
        "tpe",
        description="what proposes configurations after the first even draws, by Optuna: TPE, a Gaussian process (gp), "
        "CMA-ES over the numbers (cmaes), quasi-random points (qmc), random ones",
    )
    seed: Annotated[int, Group("Search")] = Field(
        0, ge=0, lt=2**31, description="of the sampler, and through it of every trial"
    )
    backend: Annotated[Literal["tensorflow", "jax"], Group("Search")] = Field(
        "tensorflow", description="what Keras computes with"
    )
    budget: Annotated[Bytes, Group("Budget")] = Field(DEFAULT_BUDGET, gt=0, description="bytes allowed")
    measure: Annotated[Measure, Group("Budget")] = Field(
        "weights", description="what is held against the budget: the weights, or the whole bundle"
    )
    latency: Annotated[Milliseconds | None, Group("Budget")] = Field(
        None,
        description="time that the winner's exported file may take for one row on one thread of this machine, by ONNX "
        "Runtime or LiteRT; none: any",
    )
    latency_format: Annotated[Literal["onnx", "litert"] | None, Group("Budget")] = Field(
        None, description="the file that `latency` is about; none: onnx where its runtime is installed, else litert"
    )
    cpus_per_trial: Annotated[float | None, Group("Resources")] = Field(
        None, ge=0, description="CPUs of a trial, also its threads; none: an even share"
    )
    gpus_per_trial: Annotated[Gpus | None, Group("Resources")] = Field(
        None, description="GPUs that train a trial, or a share of one; auto: by the memory that the largest needs"
    )
    price: Annotated[float | None, Group("Resources")] = Field(
        None,
        ge=0,
        description="money that an hour of one slot costs, by which the search's cost is shown; none: slot hours alone",
    )
    slots: Annotated[int | None, Group("Resources")] = Field(
        None, ge=1, le=100_000, description="trials at once; more than fit now lets an autoscaler add nodes"
    )
    share: Annotated[float, Group("Resources")] = Field(
        1, gt=0, le=1000, description="weight beside other searches on the cluster: 2 for twice the slots of one with 1"
    )
    checkpoint_every: Annotated[Interval, Group("Safety")] = Field(
        "60s", description="at most one checkpoint of a trial in so much time or epochs"
    )
    keep: Annotated[int, Group("Safety")] = Field(
        3, ge=0, le=1000, description="best trials whose network is kept as a bundle"
    )
    cache_limit: Annotated[Bytes, Group("Safety")] = Field(
        8 * 2**30, description="room beside the data for features of frozen towers (train.cached_features)"
    )
    min_free: Annotated[Bytes, Group("Safety")] = Field(2**30, description="room that stays free on the run's disk")
    trial_timeout: Annotated[Duration | None, Group("Safety")] = Field(
        None, description="wall time that a trial may take; none: any"
    )
    retries: Annotated[int, Group("Safety")] = Field(3, ge=0, le=1000, description="of a trial that the machine lost")
    worker_trials: Annotated[int, Group("Workers")] = Field(
        500, ge=1, description="trials after which a worker is replaced by a fresh one"
    )
    worker_growth: Annotated[Bytes, Group("Workers")] = Field(
        2 * 2**30, description="memory that a worker may grow by before it is replaced"
    )
    halving: HalvingConfig = HalvingConfig()
    fixed: Annotated[dict[str, Any], Group("Space")] = Field(
        default_factory=dict, description="changes to the preset that are not searched"
    )
    space: Annotated[dict[str, Any], Group("Space")] = Field(
        default_factory=dict, description="dotted names to dimensions"
    )
    first: Annotated[list[dict[str, Any]], Group("Space")] = Field(
        default_factory=list,
        description="configurations that are tried right after the preset: dotted names to values, what is not named "
        "as in the preset",
    )

    @property
    def limit(self) -> Budget:
        """The budget with its measure."""
        return Budget(self.budget, self.measure)

    def on_preset(self, was: Mapping[str, Any]) -> SearchConfig:
        """The same search where the preset was another one: what has changed since is fixed to what it was.

        Args:
            was: its settings. One that was not there then has its default; those that are no more are left out.

        Raises:
            ValidationError: a value is none that its setting has.
            ConfigError: they are of a preset that reads something else.
        """
        now = flatten(PRESETS[self.preset])
        before = flatten(unflatten({name: was[name] for name in now.keys() & was.keys()})) if was else now
        if missing := sorted(now.keys() - before.keys()):
            raise ConfigError(f"it has no {missing[0]}, which preset {self.preset} has")
        changed = {name: before[name] for name in now if before[name] != now[name]}
        return self.model_copy(update={"fixed": {**changed, **self.fixed}}) if changed else self

    def build_space(self) -> Space:
        """The space around the preset, limited to the modality."""
        return _build_space(self.preset, self.fixed, self.space, self.modality)


class SettingError(ConfigError):
    """A setting given on the command line or in Python. `setting`: its dotted name; `reason`: what is wrong."""

    def __init__(self, setting: str, reason: str) -> None:
        super().__init__(f"{setting}: {reason}")
        self.setting, self.reason = setting, reason


def search_settings() -> dict[str, Declaration]:
    """The settings of a search by dotted name, with `storage`, which the command line and Python take beside them."""
    storage = declared(ModelConfig)["storage"]
    return {**declared(SearchConfig), "storage": replace(storage, group="Budget")}


def shipped_space(preset: str) -> str:
    """The search.yaml that ships for a preset, as text to edit.

    Raises:
        ConfigError: unknown preset.
    """
    check_preset(preset)
    return resources.files("captune.tuner.space").joinpath(f"{preset}.yaml").read_text()


@cache
def shipped_search(preset: str) -> SearchConfig:
    """The same as a search has it. Raises ConfigError: unknown preset."""
    return read_search(None, preset=preset, default_preset=preset, overrides={"trials": 1})


def check_preset(preset: str) -> None:
    """Raises ConfigError, naming those there are, unless `preset` is one."""
    if preset not in list(PRESETS):  # a list: YAML may have put anything here
        raise ConfigError(f"no preset {shortened(preset)}; there are: {', '.join(PRESETS)}")


def check_overrides(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Settings given by name, read and checked each by itself; None values were not given and are left out.

    Args:
        overrides: dotted names of SearchConfig's fields (`halving.grace` too) or `storage`, to values or texts.

    Raises:
        SettingError: the first that is wrong or unknown.
    """
    settings = {name: value for name, value in overrides.items() if value is not None}
    fields = {name: value for name, value in settings.items() if name != "storage"}
    needed = {"preset": "compact", "modality": "both"}  # which have no default of their own
    try:
        config = SearchConfig.model_validate(_nested(needed, fields))
        if "storage" in settings:
            _build_space("compact", {"storage": settings["storage"]}, {}, "both")
    except ValidationError as error:
        location, message = _first(error)
        raise SettingError(".".join(location), message) from None
    except SpaceError as error:
        raise SettingError("storage", str(error)) from None
    return {name: attrgetter(name)(config) if name in fields else value for name, value in settings.items()}


def read_search(
    path: Path | None, *, preset: str | None, default_preset: str, overrides: Mapping[str, Any]
) -> SearchConfig:
    """A search's settings: the file (or the preset's own space), then `overrides`, which win.

    Args:
        path: a search.yaml; None for the space shipped with the preset.
        preset: from the command line or Python; else the file's; else `default_preset`.
        overrides: as `check_overrides` takes them.

    Raises:
        ConfigError: the first thing wrong, with file, line and key, or the name of the setting.
    """
    if preset is not None:
        check_preset(preset)
    overrides = check_overrides(overrides)
    if path is not None:
        file = YamlFile.open(path)
    else:
        shipped = preset or default_preset
        file = YamlFile(shipped_space(shipped), f"the space of preset {shipped}")
    values = {"preset": default_preset} | _written(file.content)
    if preset is not None:
        values["preset"] = preset
    base = PRESETS.get(values["preset"]) if isinstance(values["preset"], str) else None
    values.setdefault("modality", base.model.modality if base else "both")
    storage = overrides.pop("storage", None)
    try:
        values = SearchConfig.model_validate(values).model_dump()
    except ValidationError as error:
        location, message = _first(error)
        raise file.error(message, *location) from None
    values = _nested(values, overrides)
    if storage is not None:  # for every trial, so no longer drawn
        values["fixed"] = {**values["fixed"], "storage": storage}
        values["space"] = {name: value for name, value in values["space"].items() if name != "storage"}
    try:
        check_inside({"fixed": values["fixed"], "space": values["space"]}, declared(SearchConfig))
        values["fixed"], values["space"] = as_declared(values["fixed"], values["space"])
        values["first"] = chosen_as_declared(values["first"], "first")
        config = SearchConfig.model_validate(values)
        space = config.build_space()
        check_meaning(space, config.fixed, overridden=() if storage is None else ("storage",))
        for place, configuration in enumerate(config.first, 1):
            try:
                parameters_of(space, configuration)
            except SpaceError as error:
                raise SpaceError(str(error), "first", str(place), *error.location) from None
    except SpaceError as error:
        if error.location and error.location[0] in overrides:
            raise SettingError(": ".join(error.location), str(error)) from None
        raise file.error(str(error), *error.location) from None
    if config.trials is None and config.time_limit is None and config.patience is None:
        raise ConfigError(
            "a search needs an end: give --trials N, --time-limit 30m, --patience N, or several, here or in the file"
        )
    if config.latency_format is not None and config.latency is None:
        raise ConfigError("latency_format says which file has to keep a --latency; give one, as --latency 20ms")
    return config


def read_configurations(path: Path) -> tuple[YamlFile, list[dict[str, Any]]]:
    """Configurations that people chose, one or a list of them in YAML or JSON: dotted names to values.

    Returns:
        The file, for errors at a place in it, and what it holds; the space is not looked at.

    Raises:
        ConfigError: the first thing wrong, with file, line and key.
    """
    file = YamlFile.open(path, several=True)
    if not file.content:
        raise ConfigError(f"{path} is empty; it holds dotted names with values, or a list of such")
    try:
        return file, chosen_as_declared(list(file.content.values()))
    except SpaceError as error:
        raise file.error(str(error), *error.location) from None


def read_trial_config(path: Path) -> TrialConfig:
    """One configuration from YAML: `preset`, and dotted names that change it.

    Raises:
        ConfigError: the first thing wrong, with file, line and key.
    """
    file = YamlFile.open(path)
    changes = dict(file.content)
    preset = changes.pop("preset", "paper")
    try:
        check_preset(preset)
    except ConfigError as error:
        raise file.error(str(error), "preset") from None
    of_a_search = SearchConfig.model_fields.keys() - flatten(PRESETS[preset])
    if misplaced := [name for name in changes if name in of_a_search]:
        raise file.error(
            "that is of a search.yaml, whose sizes `captune search --dry-run` tells; here stands one configuration: "
            "preset, and dotted names that change it",
            misplaced[0],
        )
    try:
        changes, _ = as_declared(changes, {})
        return _build_space(preset, changes, {}, PRESETS[preset].model.modality).base
    except SpaceError as error:
        # The names stand at the top of this file, not under `fixed`.
        raise file.error(str(error), *error.location[1:]) from None


def _build_space(preset: str, fixed: Mapping[str, Any], space: Mapping[str, Any], modality: Modality) -> Space:
    dimensions = {name: parse_dimension(name, value) for name, value in space.items()}
    return Space.around(PRESETS[preset], fixed=fixed, dimensions=dimensions, modality=modality)


def _written(content: dict[str, Any]) -> dict[str, Any]:
    """A file's values, with bare numbers as texts where a unit belongs, so that they are refused; what is null is left
    out, where it is a setting."""
    refused = {name for name, setting in declared(SearchConfig).items() if setting.unit and setting.unit.bare_refused}
    given = {k: v for k, v in content.items() if v is not None or k not in SearchConfig.model_fields}
    return {k: str(v) if k in refused and isinstance(v, int | float) else v for k, v in given.items()}


def _nested(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy with dotted names changed."""
    result = dict(values)
    for name, value in changes.items():
        group, _, field = name.rpartition(".")
        if group:
            result[group] = {**result.get(group, {}), field: value}
        else:
            result[name] = value
    return result


def _first(error: ValidationError) -> tuple[tuple[str, ...], str]:
    """Where the first thing that is wrong stands, and what it is."""
    detail = error.errors()[0]
    location = tuple(str(step + 1 if isinstance(step, int) else step) for step in detail["loc"])  # places from 1
    if detail["type"] == "extra_forbidden":
        advice = at_the_top(location[0], detail["input"], declared(SearchConfig)) if len(location) == 1 else None
        if advice is not None:
            return location, advice
        at_top = configuration_settings() if "." in location[0] else SearchConfig.model_fields
        names = HalvingConfig.model_fields if location[0] == "halving" else at_top
        return location, f"unknown key; {among(location[-1], names)}"
    message = in_words(detail["msg"])
    value = shortened(detail["input"])
    return location, message if value in message else f"{message}, got {value}"
