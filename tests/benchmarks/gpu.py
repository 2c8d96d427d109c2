"""Training steps on a GPU beside what its arithmetic allows, memory fences, and two trials on one GPU.

    python tests/benchmarks/gpu.py [SECONDS]

Preset paper (ResNet50 and a bidirectional LSTM, random weights) by captune's own training on JAX, on pictures of
random blocks; needs JAX, Keras, NumPy, pydantic and safetensors, no data and no network. Takes SECONDS (345) at most
and says what it left out for that. "step" is the compiled step on pictures that lie on the device; "epoch" is
`Training.epoch`, which gathers each batch from the host's memory and sends it. Without a GPU all of it runs small:
preset compact at 64 pixels, batches of 8 and 16. Prints tables, and last one line of JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from captune.errors import one_line
from captune.model.config import AugmentConfig, TrialConfig, restrict
from captune.model.flat import replace
from captune.model.presets import PAPER, PRESETS
from captune.tuner.training import runtime

NOMINAL = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L4": 121e12}  # FLOP/s in bfloat16, dense, by data sheet
SMALL = not runtime.gpu_facts()
PICTURES = 64 if SMALL else 2048
LARGEST, SHARED = (16, 8) if SMALL else (256, 64)  # batch of the parts and of input; that of trials side by side
STEPS = 3 if SMALL else 48
AT_LEAST = 0.3 if SMALL else 1.5  # seconds of each measurement
NETWORKS = {"both": "whole network", "image": "pictures alone", "caption": "captions alone"}


@dataclass(frozen=True)
class Case:
    """One way to train: `parts` are those that the network reads."""

    batch: int
    precision: str = "bfloat16"
    augmented: bool = True
    parts: str = "both"

    @property
    def name(self) -> str:
        plain = "" if self.augmented or self.parts == "caption" else ", no augmentation"
        return f"{NETWORKS[self.parts]}, {self.precision}{plain}"

    def __str__(self) -> str:
        return f"{self.name}, batch {self.batch}"

    def config(self) -> TrialConfig:
        small = {"image.side": 64, "text.encoder": "bilstm", "text.embedding": 32, "text.units": 32}
        config = replace(PRESETS["compact"], small) if SMALL else replace(PAPER, {"image.weights": "none"})
        augment = PAPER.train.augment if self.augmented else AugmentConfig()
        return TrialConfig(
            model=restrict(config.model, self.parts),  # type: ignore[arg-type]
            train=config.train.model_copy(update={"batch_size": self.batch, "augment": augment}),
        )


CASES = (  # in the order of what they tell: those at the end are left out first
    [Case(8), Case(16), Case(16, "float32"), Case(16, parts="caption")]
    if SMALL
    else [
        *(Case(batch) for batch in (256, 32, SHARED)),
        *(Case(batch, parts="caption") for batch in (256, 32)),
        *(Case(128), Case(256, augmented=False), Case(128, "float32"), Case(512)),
    ]
)


class Drawn:
    """Shuffled batches of pictures of random blocks, captions of 5 to 20 tokens and random labels, in memory."""

    def __init__(self, case: Case, steps: int) -> None:
        generator = np.random.default_rng(0)
        self.model, self.case, self.steps = case.config().model, case, steps
        count = max(PICTURES, case.batch)
        if self.model.image is not None:
            blocks = generator.integers(0, 256, (count, 14, 14, 3), dtype=np.uint8)
            times = -(-self.model.image.side // 14)
            side = slice(self.model.image.side)
            self.pictures = np.ascontiguousarray(blocks.repeat(times, 1).repeat(times, 2)[:, side, side])
        if self.model.text is not None:
            width = self.model.text.max_tokens
            tokens = generator.integers(2, self.model.text.vocabulary_size, (count, width), dtype=np.int32)
            lengths = generator.integers(5, 21, (count, 1))
            self.tokens = np.where(np.arange(width) < lengths, tokens, 0).astype(np.int32)
        self.labels = (generator.random((count, self.model.num_labels)) < 0.15).astype(np.float32)

    def __len__(self) -> int:
        return self.steps

    def batch(self, number: int, index: int) -> tuple[dict[str, NDArray[Any]], NDArray[np.float32]]:
        rows = np.random.default_rng((number, index)).choice(len(self.labels), self.case.batch, replace=False)
        inputs: dict[str, NDArray[Any]] = {}
        if self.model.image is not None:
            inputs["image"] = self.pictures[rows]
        if self.model.text is not None:
            inputs["caption"] = self.tokens[rows]
        return inputs, self.labels[rows]


def training_of(case: Case, steps: int = STEPS) -> Any:
    from captune.model.training import Training

    source = Drawn(case, steps)
    counts = source.labels.sum(axis=0).astype(int).tolist()
    return Training(case.config(), source, counts, seed=0, bfloat16=case.precision == "bfloat16")


def values_of(*groups: list[Any]) -> list[list[Any]]:
    return [[variable.value for variable in group] for group in groups]


def seconds_each(call: Callable[[], Any]) -> float:
    """Seconds of one of several calls, whose work on the device is waited for at their end."""
    import jax

    jax.block_until_ready(call())
    rounds, passed = 2, 0.0
    while passed < AT_LEAST:
        rounds = min(rounds * 2, 1 + int(rounds * AT_LEAST / passed)) if passed else rounds
        started = time.perf_counter()
        for _ in range(rounds):
            result = call()
        jax.block_until_ready(result)
        passed = time.perf_counter() - started
    return passed / rounds


class Step:
    """The training step of a case, compiled in the background, and its state on the device."""

    def __init__(self, case: Case, pool: ThreadPoolExecutor) -> None:
        import jax

        self.case, self.calls = case, 0
        network = training_of(case)._trained
        groups = (network.trainable_variables, network.non_trainable_variables, network.optimizer.variables)
        self.state = tuple(values_of(*groups, network.metrics_variables))
        source = Drawn(case, STEPS)
        self.batches = [jax.device_put(source.batch(1, index)) for index in range(2)]
        lowered = jax.jit(network.train_step, donate_argnums=0).lower(self.state, self.batches[0])
        self.compiled: Future[Any] = pool.submit(lowered.compile)

    def __call__(self) -> Any:
        self.calls += 1
        logs, self.state = self.compiled.result()(self.state, self.batches[self.calls % 2])
        return logs

    def row(self) -> dict[str, Any]:
        seconds = seconds_each(self)
        program = self.compiled.result()
        memory, cost = program.memory_analysis(), program.cost_analysis() or {}
        self.state = self.batches = ()  # frees the device's memory for the next
        return {
            **rate(f"step, {self.case.name}", self.case.batch, seconds),
            "GiB": (memory.temp_size_in_bytes + memory.argument_size_in_bytes) / 2**30,
            "GB_moved": cost.get("bytes accessed", 0.0) / 1e9,
        }


def rate(what: str, batch: int, seconds: float) -> dict[str, Any]:
    return {"kind": "rate", "what": what, "batch": batch, "milliseconds": 1e3 * seconds, "rate": batch / seconds}


def count_flops() -> None:
    """Prints those of a training step: three times those of the forward pass of one picture, as XLA counts them.

    For a process of its own that sees no GPU: there XLA counts no convolution that cuDNN computes.
    """
    runtime.settle(os.cpu_count() or 1, "jax")
    import jax

    network = training_of(Case(1), 1).network
    weights = values_of(network.trainable_variables, network.non_trainable_variables)
    lowered = jax.jit(network.stateless_call).lower(*weights, Drawn(Case(1), 1).batch(1, 0)[0])
    print(3 * float(lowered.cost_analysis()["flops"]))


def flops_a_picture() -> float:
    """What `count_flops` prints; NaN where it cannot be counted."""
    command, environment = [sys.executable, __file__, "--flops"], os.environ | {"JAX_PLATFORMS": "cpu"}
    counted = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
    return float("nan") if counted.returncode else float(counted.stdout)


def limits(work: float) -> Iterator[dict[str, Any]]:
    """What the device does at most, each measured: products of matrices, copies, transfers to it, gathers before.

    Args:
        work: operations of a training step for one picture.
    """
    import jax
    import jax.numpy as jnp

    def limit(what: str, value: object, nominal: float | None = None) -> dict[str, Any]:
        return {"kind": "limit", "what": what, "value": value, "nominal": nominal}

    side = 512 if SMALL else 8192
    matrix = jax.random.normal(jax.random.key(0), (side, side), jnp.bfloat16)
    product = jax.jit(lambda x: x @ x)
    flops = 2 * side**3 / seconds_each(lambda: product(matrix))
    name = jax.devices()[0].device_kind
    nominal = next((flops for part, flops in NOMINAL.items() if part in name), None)
    yield limit("device", name)
    yield limit("GFLOP a picture, training (3 x forward)", work / 1e9)
    yield limit("TFLOP/s, product of bfloat16 matrices", flops / 1e12, nominal and nominal / 1e12)
    yield limit("pictures/s that arithmetic allows", flops / work, nominal and nominal / work)
    values = jnp.ones(2**22 if SMALL else 2**28, jnp.float32)
    copy = jax.jit(lambda x: x + 1)
    moved = 2 * values.nbytes / seconds_each(lambda: copy(values))
    yield limit("GB/s, copy on the device (read + written)", moved / 1e9)
    source = Drawn(Case(LARGEST), 2)
    batch = source.batch(1, 0)
    for verb, call in (
        ("gathered on the host", lambda: (source.batch(1, 0), 0)[1]),
        ("sent to the device", lambda: jax.device_put(batch)),
    ):
        yield limit(f"pictures/s, batches of {LARGEST} {verb}", LARGEST / seconds_each(call))


def augmentation() -> dict[str, Any]:
    """The augmentation by itself, compiled, on pictures that lie on the device."""
    import jax

    from captune.model.augment import RandomAffine

    layer = RandomAffine(PAPER.train.augment, seed=0)
    pictures = jax.device_put(Drawn(Case(LARGEST), 1).batch(1, 0)[0]["image"])
    layer(pictures, training=True)
    [state] = values_of(layer.non_trainable_variables)
    changed = jax.jit(lambda state, pictures: layer.stateless_call([], state, pictures, training=True)[0])
    return rate("augmentation alone", LARGEST, seconds_each(lambda: changed(state, pictures)))


def sweep(until: float) -> None:
    """Prints limits, parts and steps as lines of JSON. All steps are compiled first: nothing disturbs a measurement."""
    runtime.settle(os.cpu_count() or 1, "jax")
    import jax
    import keras

    say({"kind": "versions", "jax": jax.__version__, "keras": keras.__version__, "numpy": np.__version__})
    started = time.monotonic()
    with ThreadPoolExecutor(5) as pool:
        work = pool.submit(flops_a_picture)
        steps: list[Step] = []
        for case in CASES:
            if time.monotonic() > started + 0.45 * (until - started):
                left_out(case)
                continue
            steps.append(Step(case, pool))
            print(f"{case} lowered after {time.monotonic() - started:.0f} s", file=sys.stderr)
        ready = []
        for step in steps:
            with reported(step.case):
                step.compiled.result(timeout=max(0.0, until - 45 - time.monotonic()))
                ready.append(step)
        say({"kind": "compiled", "steps": len(ready), "seconds": time.monotonic() - started})
        for row in (*limits(work.result()), augmentation()):
            say(row)
        for step in ready:
            with reported(step.case):
                say(step.row())
        for case in [case for case in CASES[:2] if time.monotonic() < until - 20]:
            with reported(case):
                say(epochs(training_of(case), 2))
        # A program that is still being compiled cannot be stopped otherwise.
        sys.stdout.flush()
        os._exit(0)


@contextlib.contextmanager
def reported(case: Case) -> Iterator[None]:
    """One case that fails, for want of memory or of time say, does not end the others."""
    try:
        yield
    except TimeoutError:
        left_out(f"{case}: not compiled in time")
    except Exception as error:
        left_out(f"{case}: {one_line(error, 200)}")


def epochs(training: Any, count: int) -> dict[str, Any]:
    """Rate of `count` epochs after one that compiles."""
    first = time.perf_counter()
    training.epoch(1)
    started = time.perf_counter()
    for number in range(2, 2 + count):
        training.epoch(number)
    seconds = (time.perf_counter() - started) / count / len(training._train)
    case = training._train.case
    return rate(f"epoch, {case.name}", case.batch, seconds) | {"first": started - first}


def trial(share: float) -> None:
    """One trial on a share of the GPU: trains, tries its fence, then trains once for each line that it is sent."""
    runtime.settle(max(1, (os.cpu_count() or 2) // 2), "jax", share)
    import jax
    import jax.numpy as jnp

    training = training_of(Case(SHARED))
    training.epoch(1)
    stats = jax.local_devices()[0].memory_stats() or {}
    row = {"kind": "fence", "share": share, "fence": runtime.fence(share)}
    row |= {"limit": stats.get("bytes_limit"), "peak": None}
    if not SMALL and row["limit"]:
        row["peak"] = runtime.gpu_peak()

        def fits(count: int) -> bool:
            try:
                jax.block_until_ready(jnp.zeros(count, jnp.uint8))
            except Exception as error:
                if "RESOURCE_EXHAUSTED" not in str(error) and "out of memory" not in str(error).lower():
                    raise
                return False
            return True

        row |= {"within": fits(row["limit"] // 2), "beyond": fits(row["limit"] + 2**30)}
    say(row)
    for line in sys.stdin:
        say(epochs(training, int(line)))


class Trial:
    """A process of its own that is a trial."""

    def __init__(self, share: float) -> None:
        self.process, self.share = child("--trial", share), share

    def row(self) -> dict[str, Any]:
        """The next one that it prints."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"a trial on {self.share:g} of the GPU ended with status {self.process.wait()}")
        return dict(json.loads(line))

    def train(self, epochs: int) -> None:
        assert self.process.stdin is not None
        print(epochs, file=self.process.stdin, flush=True)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


def trials_on(*shares: float) -> Iterator[dict[str, Any]]:
    """Trials on shares of the GPU; of two the rate of the first alone and of both together."""
    trials = [Trial(share) for share in shares]
    count = 1 if SMALL else 6
    try:
        yield from (each.row() for each in trials)
        if len(trials) < 2:
            return
        trials[0].train(count)
        alone = trials[0].row()["rate"]
        for each in trials:
            each.train(count)
        both = sum(each.row()["rate"] for each in trials)
        yield {"kind": "together", "batch": SHARED, "alone": alone, "both": both, "ratio": both / alone}
    finally:
        for each in trials:
            each.end()


def child(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def say(row: dict[str, Any]) -> None:
    print(json.dumps(row), flush=True)


def left_out(what: object) -> None:
    say({"kind": "left out", "what": str(what)})


def table(titles: list[str], rows: list[list[Any]]) -> None:
    """Markdown."""
    for cells in (titles, ["---"] * len(titles), *rows):
        numbers = {place: f"{c:,.4g}" if c < 100 else f"{c:,.0f}" for place, c in enumerate(cells) if type(c) is float}
        print("| " + " | ".join(numbers.get(place, str(cell)) for place, cell in enumerate(cells)) + " |")
    print(flush=True)


def main(seconds: float) -> None:
    started = time.monotonic()
    rows: list[dict[str, Any]] = []

    def take(row: dict[str, Any]) -> None:
        rows.append(row)
        print(json.dumps(row), file=sys.stderr, flush=True)

    def of(kind: str) -> list[dict[str, Any]]:
        return [row for row in rows if row["kind"] == kind]

    with tempfile.TemporaryDirectory(prefix="captune-bench-") as folder:
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", folder)  # trials take over what the sweep compiled
        process = child("--sweep", started + 0.7 * seconds)
        for line in process.stdout or ():
            take(json.loads(line))
        if process.wait():
            take({"kind": "left out", "what": f"the sweep ended with status {process.returncode}"})
        for shares, needs in (((0.5, 0.5), 60), ((0.25,), 30)):
            left = seconds - (time.monotonic() - started)
            try:
                if left < needs and not SMALL:
                    raise RuntimeError(f"trials on {shares} of the GPU: {left:.0f} s are left")
                for row in trials_on(*shares):
                    take(row)
            except RuntimeError as error:
                take({"kind": "left out", "what": str(error)})

    table(["limit", "measured", "nominal"], [[r["what"], r["value"], r["nominal"] or ""] for r in of("limit")])
    columns = ("what", "batch", "milliseconds", "rate", "GiB", "GB_moved")
    table(
        ["what", "batch", "ms a step", "pictures/s", "GiB", "GB moved"],
        [[r.get(column, "") for column in columns] for r in of("rate")],
    )
    table(
        ["share of the GPU", "fence GiB", "limit GiB", "peak of training GiB", "half of it fits", "1 GiB more fits"],
        [
            [
                r["share"],
                *(r[k] / 2**30 if r[k] else "none" for k in ("fence", "limit", "peak")),
                *(r.get(k, "") for k in ("within", "beyond")),
            ]
            for r in of("fence")
        ],
    )
    table(
        ["two trials, batch", "one alone, pictures/s", "both together", "ratio"],
        [[r["batch"], r["alone"], r["both"], r["ratio"]] for r in of("together")],
    )
    for row in of("left out"):
        print(f"left out: {row['what']}")
    print(json.dumps({"seconds": time.monotonic() - started, "rows": rows}))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["--flops"]:
            count_flops()
        case ["--sweep", until]:
            sweep(float(until))
        case ["--trial", share]:
            trial(float(share))
        case arguments:
            main(float(arguments[0]) if arguments else 345)
