"""How a search was asked for: run.json written, read again, and held against the data."""

from __future__ import annotations

import platform
import subprocess
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from pydantic import ValidationError

from captune.data_prep.store import PreparedData
from captune.errors import shell_word
from captune.model.backbones import WeightsError, weights_path
from captune.model.config import complaint
from captune.model.size import Contents
from captune.results.documents import Document
from captune.results.run_facts import RunFacts
from captune.results.run_folder import RunError, RunFolder
from captune.tuner.run.locations import absolute, open_data
from captune.tuner.space.config import SearchConfig
from captune.tuner.space.dimensions import Space, SpaceError, bind
from captune.tuner.space.feasibility import BudgetError, FeasibleSpace
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

    @classmethod
    def of(cls, run: RunFolder) -> RunSettings:
        """Those of a run. Raises RunError where there is none, or its run.json is not as search wrote it."""
        return cls.parse(run.read_settings(), f"{run}/{run.settings.name}")

    def facts(self, run: RunFolder) -> RunFacts:
        """What whoever reads the run elsewhere is told."""
        settings = self.search.model_dump(mode="json")
        halving, fixed, space = (settings.pop(name) for name in ("halving", "fixed", "space"))
        grouped = {f"halving.{name}": value for name, value in halving.items()} | {
            f"space.{name}": value for name, value in (fixed | space).items()
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


def check(config: SearchConfig, data: PreparedData) -> FeasibleSpace:
    """The space of a search, held against its data and budget.

    Raises:
        ConfigError: the data lacks what the search reads.
        BudgetError: nothing in the space fits.
    """
    if not len(data.rows("validation")):
        raise ConfigError(f"{data.path} has no validation rows to score trials on; prepare it with --split 80/10/10")
    if find_spec(config.backend) is None:
        raise ConfigError(f"backend {config.backend} is not installed; pip install 'captune[{config.backend}]'")
    try:
        space = config.build_space()
        bind(space.base, data.manifest)
    except SpaceError as error:
        raise ConfigError(": ".join((*error.location, str(error)))) from None
    except ValidationError as error:  # the preset on this data, such as pictures too small for its stages
        raise ConfigError(f"{data.path} does not suit preset {config.preset}: {complaint(error)}") from None
    _check_weights(space)
    feasible = FeasibleSpace(space, partial(bind, manifest=data.manifest), config.limit, contents_of(data))
    nothing_fits = feasible.complaint()
    if nothing_fits is not None:
        raise BudgetError(nothing_fits)
    try:
        feasible.chosen(config.first, {})
    except SpaceError as error:
        raise ConfigError(": ".join(("first", *error.location, str(error)))) from None
    return feasible


def _check_weights(space: Space) -> None:
    """Raises ConfigError for a weights file that a trial may ask for and that is not here."""
    image, dimension = space.base.model.image, space.dimensions.get("image.weights")
    names = [*([] if image is None else [image.weights]), *([] if dimension is None else dimension.values())]
    for name in {*map(str, names)} - {"none", "imagenet"}:
        try:
            weights_path(name)
        except WeightsError as error:
            raise ConfigError(str(error)) from None


def contents_of(data: PreparedData) -> Contents:
    """What bundles made from this data hold besides weights."""
    words = data.vocabulary.words if data.vocabulary is not None else None
    return Contents.of(data.manifest.label_ids, data.manifest.label_names, words)


def create(
    run: RunFolder,
    config: SearchConfig,
    data: PreparedData,
    *,
    source: str | None = None,
    warm_start: str | None = None,
) -> None:
    """Makes the run folder and writes run.json, its mark.

    Args:
        source: address that the data came from; its folder if None.
        warm_start: path or address of a run that the sampler learns from, checked before.

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
