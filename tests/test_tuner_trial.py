"""One trial; no Ray is imported."""

import dataclasses
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from captune.data_prep.store import PreparedData
from captune.model.config import TrialConfig
from captune.model.flat import replace
from captune.model.metrics import Epoch

pytestmark = pytest.mark.slow


def scored(epochs: Iterator[Epoch]) -> list[dict[str, Any]]:
    """Everything that an epoch reports but the seconds."""
    return [{name: getattr(e, name) for name in ("epoch", "loss", "mean_f1", "map", "ece", "rule")} for e in epochs]


def test_trial_reports_every_epoch_and_repeats_itself_with_its_seed(data: PreparedData, tiny: TrialConfig) -> None:
    from captune.tuner.training.job import Job
    from captune.tuner.training.trial import train_trial

    first = list(train_trial(Job(tiny, 5, 0), data))
    assert [e.epoch for e in first] == [1, 2]
    for epoch in first:
        assert math.isfinite(epoch.loss)
        assert all(0 <= score <= 1 for score in (epoch.mean_f1, epoch.micro_f1, epoch.macro_f1, epoch.map))
        assert epoch.train_seconds > 0 and epoch.evaluate_seconds > 0
    other = scored(train_trial(Job(tiny, 6, 0), data))
    again = scored(train_trial(Job(tiny, 5, 0), data))
    assert again == scored(iter(first)), "also after another trial in the same process"
    assert other != again


ALL_THAT_IS_RANDOM = {
    "train.epochs": 4,
    "train.augment.flip": True,
    "train.augment.rotation": 20.0,
    "text.dropout": 0.3,
    "head_dropout": 0.3,
    "train.schedule": "cosine",
    "train.warmup": 0.1,
}


@pytest.mark.parametrize(
    "changes",
    [
        {"image.max_side": 16, "train.ema": 0.9, "storage": "int4"},
        pytest.param(
            {"train.optimizer": "adamw", "train.weight_decay": 0.1, "train.clip_norm": 1.0, "storage": "float16"},
            marks=pytest.mark.soak,
        ),
    ],
)
def test_trial_cut_off_after_any_epoch_takes_the_same_course_from_its_checkpoint(
    data: PreparedData, tiny: TrialConfig, tmp_path: Path, changes: dict[str, Any]
) -> None:
    from captune.tuner.training.checkpoints import LAST, CheckpointPolicy, CheckpointWriter
    from captune.tuner.training.job import Job
    from captune.tuner.training.trial import train_trial

    job = Job(replace(tiny, ALL_THAT_IS_RANDOM | changes), 5, 3)
    policy = CheckpointPolicy(str(tmp_path), None, 1, 0)

    def keeper() -> CheckpointWriter:
        return CheckpointWriter(policy, job.origin, job.identity(data.manifest.fingerprint))

    whole = scored(train_trial(job, data))
    for cut in (1, 3):
        epochs = train_trial(job, data, keeper())
        before = scored(next(epochs) for _ in range(cut))
        epochs.close()  # dies while the next epoch trains: the report of the last has no checkpoint yet
        assert before == whole[:cut]
        for reported in {cut - 1, 0}:  # what the record has: all that the checkpoint has, or nothing
            rest = scored(train_trial(dataclasses.replace(job, reported=reported), data, keeper()))
            assert rest == whole[reported:], cut
        (tmp_path / "3" / LAST).unlink()


def test_trial_that_diverges_reports_nan_and_ends(data: PreparedData, tiny: TrialConfig) -> None:
    from captune.model import training
    from captune.tuner.training.job import Job
    from captune.tuner.training.trial import train_trial

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.Training, "epoch", lambda self, number, heard: math.nan)
        (only,) = train_trial(Job(tiny, 0, 0), data)
    assert math.isnan(only.loss) and math.isnan(only.mean_f1)


def test_a_trial_and_the_refit_of_a_winner_import_no_ray() -> None:
    code = (
        "import sys, captune.tuner.training.trial, captune.tuner.training.checkpoints, captune.tuner.winner.refit;"
        "print('ray' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
