"""How a search was asked for: run.json written, read again, and held against the data."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from captune.data_prep.pieces import cut_pieces
from captune.data_prep.store import PreparedData
from captune.errors import shell_word
from captune.model.config import complaint
from captune.model.flat import flatten
from captune.model.latency import Latency, Speed
from captune.model.presets import PRESETS
from captune.model.size import Contents
from captune.model.transformers import weights_folder
from captune.results.documents import Document
from captune.results.run_facts import RunFacts
from captune.results.run_folder import RunError, RunFolder
from captune.tuner.run.locations import absolute, open_data
from captune.tuner.run.named_files import ABSENT, check_files, digests, text_weights, tower_on, vision_shape
from captune.tuner.space.config import SearchConfig
from captune.tuner.space.declarations import declared
from captune.tuner.space.dimensions import SpaceError
from captune.tuner.space.feasibility import BudgetError, FeasibleSpace
from captune.tuner.space.space import bind
from captune.tuner.space.yaml_file import ConfigError


class RunSettings(Document):
    """What run.json holds: how a search was asked for, on which data, with which versions."""

    search: SearchConfig
    data: str
    """Path or address of the prepared data set."""
    fingerprint: str
    """Of the data."""
    versions: dict[str, str]
    """Of Python and the packages that scores depend on, see `versions`."""
    git_commit: str | None
    """Of captune's own checkout."""
    warm_start: str | None = None
    """Path or address of the run that the sampler learnt from."""
    created: str
    """ISO 8601."""
    speed: Speed | None = None
    """Of the machine that the search was begun on, by which its latencies are predicted; None without a limit."""
    preset: dict[str, Any] = Field(default_factory=dict)
    """Settings of the preset as it was when the search began; another version of captune may have others."""
    files: dict[str, str] = Field(default_factory=dict)
    """SHA-256 of the weights and teachers that trials may ask for, by setting and name; see `digests`."""

    @classmethod
    def of(cls, run: RunFolder) -> RunSettings:
        """Those of a run. Raises RunError where there is none, or its run.json is not as search wrote it."""
        where = f"{run}/{run.settings.name}"
        settings = cls.parse(run.read_settings(), where)
        try:
            return settings.model_copy(update={"search": settings.search.on_preset(settings.preset)})
        except ValidationError as error:
            raise RunError(f"{where}: preset: {complaint(error)}") from None
        except ConfigError as error:
            raise RunError(f"{where}: preset: {error}") from None

    def changed_files(self) -> list[str]:
        """What weights or teacher is another file now, a line each; a whole folder that is gone, or a single file of
        weights, is missed by who needs it."""
        now = digests(self.search.build_space())
        return [f"{name} {_change(was, now[name])}" for name, was in self.files.items() if now.get(name, was) != was]

    def facts(self, run: RunFolder) -> RunFacts:
        """What whoever reads the run elsewhere is told."""
        settings = self.search.model_dump(mode="json")
        halving, fixed, space = (settings.pop(name) for name in ("halving", "fixed", "space"))
        for name, setting in declared(SearchConfig).items():
            if setting.unit and settings.get(name) is not None:
                settings[name] = setting.show(settings[name])
        grouped = {
            f"{group}.{name}": value
            for group, values in (("halving", halving), ("fixed", fixed), ("space", space))
            for name, value in values.items()
        }
        return RunFacts(
            name=absolute(str(run)).rstrip("/").rpartition("/")[2] or "run",
            data=self.data,
            fingerprint=self.fingerprint,
            budget=self.search.limit,
            metric=self.search.metric,
            objectives=(self.search.metric, *self.search.objectives[1:]),
            settings=settings | grouped,
            created=self.created,
        )


_PACKAGES = ("captune", "keras", "ray", "optuna", "numpy")  # and the backend
_SAMPLER_PACKAGES = {"gp": "torch", "cmaes": "cmaes"}  # that Optuna's samplers import


def check(config: SearchConfig, data: PreparedData, speed: Speed | None = None, *, new: bool = False) -> FeasibleSpace:
    """The space of a search, held against its data and budget.

    Args:
        speed: by which latencies are predicted, where the search has a limit for them.
        new: whether it is not begun yet: of another captune `first` may hold what is one network in this one.

    Raises:
        ConfigError: the data lacks what the search reads.
        BudgetError: nothing in the space fits.
    """
    if not len(data.rows("validation")):
        raise ConfigError(f"{data.path} has no validation rows to score trials on; prepare it with --split 80/10/10")
    if find_spec(config.backend) is None:
        raise ConfigError(f"backend {config.backend} is not installed; pip install 'captune[{config.backend}]'")
    package = _SAMPLER_PACKAGES.get(config.sampler)
    if package is not None and find_spec(package) is None:
        raise ConfigError(f"sampler {config.sampler} needs {package}; pip install 'captune[{config.sampler}]'")
    if config.sampler == "cmaes" and len(config.objectives) > 1:
        raise ConfigError("sampler cmaes looks for one thing only; set objectives: mean_f1, or sampler: tpe")
    try:
        space = config.build_space()
        check_files(space, data)
        bound = partial(bind, manifest=data.manifest, tower=partial(tower_on, data), vision=vision_shape)
        bound(space.base)
    except SpaceError as error:
        raise ConfigError(": ".join((*error.location, str(error)))) from None
    except ValidationError as error:  # the preset on this data, such as pictures too small for its stages
        raise ConfigError(f"{data.path} does not suit preset {config.preset}: {complaint(error)}") from None
    latency = None if config.latency is None or speed is None else Latency(config.latency, speed)
    contents = contents_of(data, text_weights(space))
    feasible = FeasibleSpace(space, bound, config.limit, contents, latency)
    nothing_fits = feasible.complaint()
    if nothing_fits is not None:
        raise BudgetError(nothing_fits)
    try:
        feasible.new(config.first, {}) if new else feasible.chosen(config.first)
    except SpaceError as error:
        raise ConfigError(": ".join(("first", *error.location, str(error)))) from None
    return feasible


def contents_of(data: PreparedData, text_weights: Iterable[str] = ()) -> Contents:
    """What bundles made from this data hold besides weights. text_weights: folders of their text towers.

    Raises:
        WeightsError: a folder is not there.
    """
    words = data.vocabulary.words if data.vocabulary is not None else None
    pieces = {name: cut_pieces(data, weights_folder(name, "text")).pieces.pieces for name in text_weights}
    return Contents.of(data.manifest.label_ids, data.manifest.label_names, words, pieces)


def create(
    run: RunFolder,
    config: SearchConfig,
    data: PreparedData,
    *,
    source: str | None = None,
    warm_start: str | None = None,
    speed: Speed | None = None,
) -> None:
    """Makes the run folder and writes run.json, its mark.

    Args:
        source: address that the data came from; its folder if None.
        warm_start: path or address of a run that the sampler learns from, checked before.
        speed: see RunSettings.

    Raises:
        RunError: the folder already holds something.
    """
    if run.path.exists() and (not run.path.is_dir() or any(run.path.iterdir())):
        raise RunError(f"{run} exists; give another --run, or go on with `captune resume {shell_word(run)}`")
    run.path.mkdir(parents=True, exist_ok=True)
    RunSettings(
        search=config,
        data=absolute(source or str(data.path)),
        fingerprint=data.manifest.fingerprint,
        versions=versions(config.backend),
        git_commit=_git_commit(),
        warm_start=None if warm_start is None else absolute(warm_start),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        speed=speed,
        preset=flatten(PRESETS[config.preset]),
        files=digests(config.build_space()),
    ).write(run.settings)


def versions(backend: str) -> dict[str, str]:
    """Of Python and the packages that scores depend on, "absent" for one that is not installed."""
    installed = {"python": platform.python_version()}
    for name in (*_PACKAGES, backend):
        try:
            installed[name] = version(name)
        except PackageNotFoundError:
            installed[name] = "absent"
    return installed


def discard(run: RunFolder) -> None:
    """Takes back what `create` made where no search came of it, so that the same command can be given again."""
    if not run.journal.exists():
        run.settings.unlink(missing_ok=True)
        run.lock.unlink(missing_ok=True)
        run.baselines.unlink(missing_ok=True)
        with suppress(OSError):  # not empty: something else is in it
            run.path.rmdir()


def read(run: RunFolder) -> tuple[SearchConfig, PreparedData]:
    """Settings and data of a run.

    Raises:
        RunError: no run, or its data is no longer the same.
        DataError, StorageError: its data is gone or cannot be reached.
    """
    settings = RunSettings.of(run)
    data = open_data(settings.data, verify=True)
    if data.manifest.fingerprint != settings.fingerprint:
        raise RunError(f"the data in {settings.data} is not what the run was searched on; prepare it again as it was")
    return settings.search, data


def _change(was: str, is_now: str) -> str:
    if was == ABSENT:
        return "was not there when the search began"
    return "is gone" if is_now == ABSENT else "is not the file it was"


def refuse_other_files(settings: RunSettings) -> None:
    """Raises RunError where a run's weights or teacher are other files than its trials had."""
    if changed := settings.changed_files():
        raise RunError(f"{changed[0]}; have the files as they were, or begin another run")


def remember(run: RunFolder, config: SearchConfig) -> RunSettings:
    """The settings of a run with what a resume changes: it holds for the next one too, else an interruption would
    forget its trials."""
    settings = RunSettings.of(run)
    if settings.search != config:
        settings = settings.model_copy(update={"search": config})
        settings.write(run.settings)
    return settings


def _git_commit() -> str | None:
    """The commit of captune's own checkout; None where it is installed without one."""
    try:
        command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, timeout=5).stdout.strip() or None
    except (OSError, subprocess.TimeoutExpired):
        return None
