"""A search whose trials are a formula instead of a network: quick, and it goes wrong where it is told to.

    python tests/formula.py DATA RUN TRIALS [ADDRESS]

    python tests/formula.py captune VERB ...

The first starts a search in RUN, or goes on with it; each of DATA and RUN is a path or an address. The second is the
command line. What the trials do comes from
the variable CAPTUNE_FORMULA, a JSON object: seconds (of an epoch), faults (number of a trial's first attempt -> what
goes wrong in its second epoch), log (a file that takes one line for each epoch trained), settings (of the search),
cut_off (seconds without the head of the cluster after which a worker ends), hold (a file without which no attempt goes
beyond its first epoch), start (seconds that a worker takes to start; each start is a line in the file `log`.starts).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from captune.errors import Error
from captune.model.checkpoint import Checkpoint
from captune.model.metrics import Epoch
from captune.model.rule import DecisionRule
from captune.results.run_folder import RunFolder
from captune.results.summary import Summary
from captune.tuner.space.config import SearchConfig
from captune.tuner.training.checkpoints import CheckpointWriter

EPOCHS = 9
SPACE = {
    "text.embedding": {"low": 8, "high": 256},
    "text.units": {"low": 8, "high": 512},
    "train.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
}


def plan() -> dict[str, Any]:
    return {"seconds": 0.1, "faults": {}, "log": None, "settings": {}} | json.loads(
        os.environ.get("CAPTUNE_FORMULA", "{}")
    )


def score(identity: str, epoch: int) -> float:
    """Of a trial after an epoch: rises towards a quality of its own."""
    quality = int(hashlib.sha256(identity.encode()).hexdigest()[:8], 16) / 16**8
    return (0.3 + 0.6 * quality) * (1 - math.exp(-epoch / 3))


def settings(trials: int) -> SearchConfig:
    fields: dict[str, Any] = {
        "preset": "captions",
        "modality": "caption",
        "trials": trials,
        "checkpoint_every": "1epoch",
        "min_free": 0,
        "retries": 1000,
        "fixed": {"train.epochs": EPOCHS},
        "space": SPACE,
    }
    return SearchConfig.model_validate(fields | plan()["settings"])


def go_wrong(fault: str, log: str) -> dict[str, Any]:
    """What the second epoch of a trial reports with this fault, if it reports at all."""
    match fault:
        case "nan" | "inf" | "-inf":
            return {"mean_f1": float(fault)}
        case "nan loss":
            return {"loss": math.nan}
        case "raise":
            raise ValueError("what was asked for cannot be done")
        case "memory":
            raise MemoryError("no room for that")
        case "hog":  # until Ray's memory monitor ends it
            kept = []
            while True:
                kept.append(np.ones(2**25))
                time.sleep(0.1)
        case "hang":
            time.sleep(3600)
        case "die":
            os._exit(1)
        case "once":  # dies on its first attempt alone
            marker = Path(f"{log}.once")
            if not marker.exists():
                marker.touch()
                os._exit(1)
    return {}


def worker() -> type:
    from captune.tuner.ray_tune.worker import TrialWorker
    from captune.tuner.training.job import Job

    orders = plan()  # here, as a worker on another node has that node's variables

    class FormulaTrialWorker(TrialWorker):
        def settle(self, threads: int, backend: str, gpus: float) -> None:
            if orders.get("broken"):
                raise RuntimeError("no driver for this device")
            if "cut_off" in orders:
                from captune.cluster.nodes.cut_off import end_without_head

                end_without_head(self._node, orders["cut_off"])
            if "start" in orders:
                with Path(f"{orders['log']}.starts").open("a") as file:
                    file.write(f"{self._node}\n")
                time.sleep(orders["start"])

        def epochs_of(self, job: Job, checkpoints: CheckpointWriter) -> Iterator[Epoch]:
            fault = orders["faults"].get(str(job.origin))
            checkpoint = checkpoints.resume()
            identity = job.identity(self.data.manifest.fingerprint)
            if checkpoint is not None:
                yield from checkpoint.reports_after(job.reported)
            state = {"state": np.zeros(orders.get("checkpoint_bytes", 8), np.uint8)}
            first = (checkpoint.epoch if checkpoint else 0) + 1
            for epoch in range(first, EPOCHS + 1):
                time.sleep(orders["seconds"])
                while epoch > first and "hold" in orders and not Path(orders["hold"]).exists():
                    time.sleep(0.1)
                value = score(identity, epoch)
                report = {"loss": 1 / epoch, "mean_f1": value} | (
                    go_wrong(fault, orders["log"]) if fault and epoch == 2 else {}
                )
                if orders["log"]:
                    with Path(orders["log"]).open("a") as file:
                        file.write(f"{job.origin} {epoch}\n")
                reported = Epoch(
                    epoch=epoch, micro_f1=value, macro_f1=value, map=value, ece=0.1, rule=DecisionRule(0.5),
                    train_seconds=orders["seconds"], evaluate_seconds=0.0, **report,
                )  # fmt: skip
                yield reported
                checkpoints.checkpoint(reported, partial(Checkpoint, arrays=state))
                if checkpoints.leaving:
                    return

    return FormulaTrialWorker


def main(data: str, where: str, trials: int, address: str | None = None) -> Summary:
    from captune.cluster.object_storage.addresses import is_url
    from captune.cluster.object_storage.remote_folder import RemoteFolder
    from captune.tuner.ray_tune.search import run_search
    from captune.tuner.run.locations import open_data, searching
    from captune.tuner.run.settings import create

    prepared, config = open_data(data, verify=True), settings(trials)
    new = not (RemoteFolder(where).exists() if is_url(where) else RunFolder(Path(where)).settings.exists())
    with searching(where, new=new) as (folder, mirror):
        if new:
            create(folder, config, prepared, source=data)
        return run_search(
            folder,
            config,
            prepared,
            address=address,
            show=lambda progress: print(progress, file=sys.stderr, flush=True) if progress.waits else None,
            say=lambda text: print(text, file=sys.stderr, flush=True),
            worker=worker(),
            mirror=mirror,
        )


def command() -> None:
    """The command itself, with these trials in place of networks."""
    from captune.tuner.command.main import main as run_command
    from captune.tuner.ray_tune import search

    search.run_search = partial(search.run_search, worker=worker())
    sys.argv = sys.argv[1:]
    run_command()


if __name__ == "__main__":
    if sys.argv[1] == "captune":
        command()
    try:
        print(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), *sys.argv[4:]).model_dump_json())
    except (Error, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(getattr(error, "exit_status", 1))
