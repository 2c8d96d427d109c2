"""A trial on two devices: the same course as on one, and from one to two and back half-way."""

from importlib.util import find_spec
from pathlib import Path

import pytest
from builders import rest_in_soak
from two_devices import printed_with_two_devices

from captune.data_prep.store import PreparedData

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

# 107 captions are trained on: with batches of 31 no batch can be shared out evenly, the last of 14 can.
TRIALS = """
    data, folder = arguments
    from dataclasses import replace as changed
    from captune.data_prep.store import PreparedData
    from captune.model.flat import replace
    from captune.model.presets import PRESETS
    from captune.tuner.space.space import bind
    from captune.tuner.training.checkpoints import CheckpointPolicy, CheckpointWriter
    from captune.tuner.training.job import Job
    from captune.tuner.training.trial import train_trial

    prepared = PreparedData.open(data)
    # Without dropout, whose draws go by the shape of a batch, and on TensorFlow by the device.
    changes = {"text.units": 8, "text.embedding": 8, "text.embedding_dropout": 0, "text.dropout": 0, "head_dropout": 0}
    changes |= {"train.epochs": 3, "train.batch_size": 31, "train.ema": 0.9, "train.class_weights": "dynamic"}
    job = Job(bind(replace(PRESETS["captions"], changes), prepared.manifest), seed=3, origin=0)
    two = runtime.spread(2)

    def epochs(*turns):
        # Reports of one trial, whose first epoch is trained on the first of the turns, all others on the last.
        policy, reports = CheckpointPolicy(f"{folder}/{len(os.listdir(folder))}", None, 1, 0), []
        for place, spread in enumerate(turns):
            writer = CheckpointWriter(policy, 0, "this trial")
            writer.leaving = place < len(turns) - 1  # after its first checkpoint
            for report in train_trial(changed(job, reported=place), prepared, writer, spread=spread):
                reports.append([report.loss, report.mean_f1, report.map])
            assert writer.complaint is None, writer.complaint
        return reports

    told = {"one": epochs(None), "two": epochs(two), "to two": epochs(None, two), "to one": epochs(two, None)}
    print(json.dumps(told))
"""


@pytest.mark.soak
@pytest.mark.parametrize("backend", rest_in_soak(["tensorflow", "jax"], "tensorflow"))
def test_two_devices_take_the_course_of_one(backend: str, captions_data: PreparedData, tmp_path: Path) -> None:
    if find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    told = printed_with_two_devices(TRIALS, backend, captions_data.path, tmp_path)
    one = told.pop("one")
    assert len(one) == 3
    for course in told.values():
        for epoch, other in zip(one, course, strict=True):
            assert other[1:] == pytest.approx(epoch[1:], abs=1e-4), told
            assert other[0] == pytest.approx(epoch[0], rel=1e-2)  # its mean counts what fills a batch
