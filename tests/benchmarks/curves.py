"""Trains many configurations of a space through all their epochs, and keeps what a search would have seen of them.

    python tests/benchmarks/curves.py DATA CONFIG FOLDER [COUNT [PART/PARTS]]
    python tests/benchmarks/curves.py gather FOLDER FILE.parquet

CONFIG is a search.yaml or the name of a preset. COUNT (300) configurations are drawn evenly from its space, the preset
first, and every tenth is trained again with a second seed. Each is a file of FOLDER, and what is there is not trained
again. Several processes share the work as PART/PARTS: 0/2 and 1/2. `gather` makes one Parquet file of a folder: a row
for each epoch, with the values of the dimensions, number, seed, epoch, scores on validation (as a search has them) and
on test (by the rule of that epoch), seconds of processor time of the epoch on one thread, and bytes of the weights.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from captune.data_prep.batches import lengths
from captune.data_prep.store import PreparedData
from captune.files import written_aside
from captune.model.config import TrialConfig
from captune.model.f1 import f1_per_example
from captune.model.flat import Flat
from captune.model.presets import PRESETS
from captune.model.size import size
from captune.tuner.run.settings import check
from captune.tuner.space.config import read_search
from captune.tuner.training.runtime import settle
from captune.tuner.training.trial import begin, features_for, to_answer

AGAIN = 10  # every so many configurations have a second seed


def drawn(config: str, data: PreparedData, count: int) -> Iterator[tuple[int, int, Flat, TrialConfig]]:
    """Number, seed, values of the dimensions and configuration of each training."""
    file, preset = (None, config) if config in PRESETS else (Path(config), None)
    search = read_search(file, preset=preset, default_preset="compact", overrides={"trials": 1})
    feasible, random = check(search, data), Random(0)
    for number in range(count):
        values = feasible.preset() if number == 0 else feasible.space.parameters(feasible.space.draw(random))
        bound = feasible.bind(feasible.space.at(values))
        yield number, number, values, bound
        if number % AGAIN == 0:
            yield number, number + 100_000, values, bound


def curve(config: TrialConfig, seed: int, data: PreparedData) -> Iterator[dict[str, Any]]:
    """Of each epoch what a row of the table has beside the configuration."""
    from captune.model.held_out import fit

    def split(name: str) -> tuple[Any, Any]:
        rows = data.rows(name)
        if data.tokens is not None:
            rows = rows[np.argsort(lengths(data.tokens[rows]), kind="stable")]
        return to_answer(data, rows, config.model, features), data.labels[rows]

    features = features_for(config, data)
    validation, truth = split("validation")
    test, test_truth = split("test")
    training = begin(data, data.rows("train"), config, seed=seed, features=features)
    started = time.process_time()
    for epoch in fit(training, config.train.epochs, validation, truth):
        seconds = time.process_time() - started
        scored = None
        if epoch.rule is not None:
            with training.averaged(), training.stacked(epoch.stack):
                scored = float(f1_per_example(test_truth, epoch.rule.decide(training.predict(test))).mean())
        yield {
            "seed": seed,
            "epoch": epoch.epoch,
            "validation": epoch.mean_f1,
            "test": scored,
            "seconds": seconds,
            "weights_bytes": size(config.model).weights_bytes,
        }
        started = time.process_time()


def main(data: str, config: str, folder: str, count: int, part: int, parts: int) -> None:
    settle(1, "tensorflow", 0.0)
    prepared = PreparedData.open(data)
    Path(folder).mkdir(parents=True, exist_ok=True)
    for place, (number, seed, values, bound) in enumerate(drawn(config, prepared, count)):
        file = Path(folder) / f"{number}-{seed}.json"
        if place % parts == part and not file.exists():
            rows = [{"number": number, **values, **row} for row in curve(bound, seed, prepared)]
            with written_aside(file) as aside:
                aside.write_text(json.dumps(rows))
            print(number, seed, " ".join(f"{row['validation']:.4f}" for row in rows), flush=True)


def gather(folder: str, target: str) -> None:
    """One table of all files."""
    files = sorted(Path(folder).glob("*.json"), key=lambda file: [int(each) for each in file.stem.split("-")])
    table = pa.Table.from_pylist([row for file in files for row in json.loads(file.read_text())])
    narrow = {pa.int64(): pa.int32(), pa.float64(): pa.float32()}
    table = table.cast(pa.schema([(field.name, narrow.get(field.type, field.type)) for field in table.schema]))
    pq.write_table(table, target, compression="zstd")
    print(f"{len(files)} trainings, {table.num_rows} epochs, {Path(target).stat().st_size:,} bytes")


if __name__ == "__main__":
    if len(sys.argv) < 4:
        print(__doc__)
    elif sys.argv[1] == "gather":
        gather(*sys.argv[2:])
    else:
        share = sys.argv[5] if len(sys.argv) > 5 else "0/1"
        counted = int(sys.argv[4]) if len(sys.argv) > 4 else 300
        main(*sys.argv[1:4], counted, *(int(each) for each in share.split("/")))
