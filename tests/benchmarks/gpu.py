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

from captune.model.config import TrialConfig, replace, restrict
from captune.model.presets import PAPER, PRESETS
from captune.tuner.training import runtime

NOMINAL = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L4": 121e12}  # FLOP/s in bfloat16, dense, by data sheet
SMALL = not runtime.gpu_facts()
PICTURES = 64 if SMALL else 2048
LARGEST, SHARED = (16, 8) if SMALL else (256, 64)  # batch of the parts and of input; that of trials side by side
STEPS = 3 if SMALL else 48
AT_LEAST = 0.3 if SMALL else 1.5  # seconds of each measurement
NO_AUGMENTATION = dict.fromkeys(("rotation", "shift", "shear", "zoom"), 0.0) | {"flip": False}


@dataclass(frozen=True)
class Case:
    """One way to train: `parts` are those that the network reads."""

    batch: int
    precision: str = "bfloat16"
    augmented: bool = True
    parts: str = "both"

    @property
    def name(self) -> str:
        return ", ".join(
            [
                {"both": "whole network", "image": "pictures alone", "caption": "captions alone"}[self.parts],
                self.precision,
                *([] if self.augmented or self.parts == "caption" else ["no augmentation"]),
            ]
        )

    def config(self) -> TrialConfig:
        small = {"image.side": 64, "text.encoder": "bilstm", "text.embedding": 32, "text.units": 32}
        config = replace(PRESETS["compact"], small) if SMALL else replace(PAPER, {"image.weights": "none"})
        augment = PAPER.train.augment.model_dump() if self.augmented else NO_AUGMENTATION
        config = replace(
            config, {"train.batch_size": self.batch} | {f"train.augment.{k}": v for k, v in augment.items()}
        )
        return config.model_copy(update={"model": restrict(config.model, self.parts)})  # type: ignore[arg-type]


CASES = (
    [Case(8), Case(16), Case(16, "float32"), Case(16, parts="caption")]
    if SMALL
    else [
        Case(256),
        Case(32),
        Case(SHARED),
        Case(256, parts="caption"),
        Case(32, parts="caption"),
        Case(128),
        Case(256, augmented=False),
        Case(128, "float32"),
        Case(512),
    ]
)  # in the order of what they tell: those at the end are left out first


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


def training_of(case: Case, steps: int) -> Any:
    from captune.model.training import Training

    source = Drawn(case, steps)
    counts = source.labels.sum(axis=0).astype(int).tolist()
    return Training(case.config(), source, counts, seed=0, bfloat16=case.precision == "bfloat16")


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

        self.case = case
        training = training_of(case, STEPS)
        network = training._trained
        groups = (network.trainable_variables, network.non_trainable_variables, network.optimizer.variables)
        self.state = tuple([v.value for v in group] for group in (*groups, network.metrics_variables))
        source = Drawn(case, STEPS)
        self.batches = [jax.device_put(source.batch(1, index)) for index in range(2)]
        lowered = jax.jit(network.train_step, donate_argnums=0).lower(self.state, self.batches[0])
        self.compiled: Future[Any] = pool.submit(lowered.compile)
        self.calls = 0

    def __call__(self) -> Any:
        self.calls += 1
        logs, self.state = self.compiled.result()(self.state, self.batches[self.calls % 2])
        return logs


def flops_a_picture() -> float:
    """Of a training step, three times those of the forward pass of one picture as XLA counts them."""
    import jax

    network = training_of(Case(1), 1).network
    groups = (network.trainable_variables, network.non_trainable_variables)
    weights = [[variable.value for variable in group] for group in groups]
    inputs, _ = Drawn(Case(1), 1).batch(1, 0)
    analysis = jax.jit(network.stateless_call).lower(*weights, inputs).cost_analysis()
    return 3 * float(analysis["flops"])


def limits() -> Iterator[dict[str, Any]]:
    """What the device does at most, each measured: products of matrices, copies, transfers to it, gathers before."""
    import jax
    import jax.numpy as jnp

    side = 512 if SMALL else 8192
    matrix = jax.random.normal(jax.random.key(0), (side, side), jnp.bfloat16)
    product = jax.jit(lambda x: x @ x)
    rate = 2 * side**3 / seconds_each(lambda: product(matrix))
    name = jax.devices()[0].device_kind
    nominal = next((flops for part, flops in NOMINAL.items() if part in name), None)
    work = flops_a_picture()
    yield {"what": "device", "value": name, "nominal_flops": nominal}
    yield {"what": "GFLOP a picture, training (3 x forward)", "value": work / 1e9}
    yield {"what": "TFLOP/s, product of bfloat16 matrices", "value": rate / 1e12, "nominal": nominal and nominal / 1e12}
    yield {"what": "pictures/s that arithmetic allows", "value": rate / work, "nominal": nominal and nominal / work}
    values = jnp.ones(2**22 if SMALL else 2**28, jnp.float32)
    copy = jax.jit(lambda x: x + 1)
    moved = 2 * values.nbytes / seconds_each(lambda: copy(values))
    yield {"what": "GB/s, copy on the device (read + written)", "value": moved / 1e9}
    source = Drawn(Case(LARGEST), 2)
    batch = source.batch(1, 0)
    yield {
        "what": f"pictures/s, batches of {LARGEST} gathered on the host",
        "value": LARGEST / seconds_each(lambda: (source.batch(1, 0), 0)[1]),
    }
    yield {
        "what": f"pictures/s, batches of {LARGEST} sent to the device",
        "value": LARGEST / seconds_each(lambda: jax.device_put(batch)),
    }


def augmentation() -> dict[str, Any]:
    """The augmentation by itself, compiled, on pictures that lie on the device."""
    import jax

    from captune.model.augment import RandomAffine

    layer = RandomAffine(PAPER.train.augment, seed=0)
    pictures = jax.device_put(Drawn(Case(LARGEST), 1).batch(1, 0)[0]["image"])
    layer(pictures, training=True)
    state = [variable.value for variable in layer.non_trainable_variables]
    changed = jax.jit(lambda state, pictures: layer.stateless_call([], state, pictures, training=True)[0])
    seconds = seconds_each(lambda: changed(state, pictures))
    return {"what": "augmentation alone", "batch": LARGEST, "milliseconds": 1e3 * seconds, "rate": LARGEST / seconds}


def sweep(until: float) -> None:
    """Prints limits, parts and steps as lines of JSON. All steps are compiled first: nothing disturbs a measurement."""
    runtime.settle(os.cpu_count() or 1, "jax")
    import jax
    import keras

    say({"kind": "versions", "jax": jax.__version__, "keras": keras.__version__, "numpy": np.__version__})
    started = time.monotonic()
    with ThreadPoolExecutor(4) as pool:
        steps: list[Step] = []
        for case in CASES:
            if time.monotonic() > started + 0.45 * (until - started):
                say({"kind": "left out", "what": f"{case.name}, batch {case.batch}"})
                continue
            steps.append(Step(case, pool))
            print(f"{case} lowered after {time.monotonic() - started:.0f} s", file=sys.stderr)
        waited = [step for step in steps if arrived(step, until - 45)]
        for step in steps:
            if step not in waited:
                say({"kind": "left out", "what": f"{step.case.name}, batch {step.case.batch}: not compiled in time"})
        say({"kind": "compiled", "steps": len(waited), "seconds": time.monotonic() - started})
        for row in limits():
            say({"kind": "limit"} | row)
        say({"kind": "rate"} | augmentation())
        for step in waited:
            with reported(step.case):
                seconds = seconds_each(step)
                memory, cost = step.compiled.result().memory_analysis(), step.compiled.result().cost_analysis() or {}
                say(
                    {
                        "kind": "rate",
                        "what": f"step, {step.case.name}",
                        "batch": step.case.batch,
                        "milliseconds": 1e3 * seconds,
                        "rate": step.case.batch / seconds,
                        "GiB": (memory.temp_size_in_bytes + memory.argument_size_in_bytes) / 2**30,
                        "GB_moved": cost.get("bytes accessed", 0.0) / 1e9,
                    }
                )
            step.state = step.batches = ()  # frees the device's memory for the next
        for case in [case for case in CASES[:2] if time.monotonic() < until - 20]:
            with reported(case):
                say(
                    {"kind": "rate", "what": f"epoch, {case.name}", "batch": case.batch}
                    | epochs(training_of(case, STEPS), 2)
                )
        # A program that is still being compiled cannot be stopped otherwise.
        sys.stdout.flush()
        os._exit(0)


def arrived(step: Step, until: float) -> bool:
    """Whether a step is compiled by then."""
    try:
        step.compiled.result(timeout=max(0.0, until - time.monotonic()))
    except TimeoutError:
        return False
    except Exception as error:
        print(f"{step.case}: {str(error)[:500]}", file=sys.stderr)
        return False
    return True


@contextlib.contextmanager
def reported(case: Case) -> Iterator[None]:
    """One case that fails, for want of memory say, does not end the others."""
    try:
        yield
    except Exception as error:
        say({"kind": "left out", "what": f"{case.name}, batch {case.batch}: {' '.join(str(error).split())[:200]}"})


def epochs(training: Any, count: int) -> dict[str, float]:
    """Rate of `count` epochs after one that compiles."""
    first = time.perf_counter()
    training.epoch(1)
    started = time.perf_counter()
    for number in range(2, 2 + count):
        training.epoch(number)
    seconds = (time.perf_counter() - started) / count / len(training._train)
    batch = training._train.case.batch
    return {"milliseconds": 1e3 * seconds, "rate": batch / seconds, "first": started - first}


def trial(share: float) -> None:
    """One trial on a share of the GPU: trains, tries its fence, then trains once for each line that it is sent."""
    runtime.settle(max(1, (os.cpu_count() or 2) // 2), "jax", share)
    import jax
    import jax.numpy as jnp

    training = training_of(Case(SHARED), STEPS)
    training.epoch(1)
    stats = jax.local_devices()[0].memory_stats() or {}
    row = {"share": share, "fence": runtime.fence(share), "limit": stats.get("bytes_limit"), "peak": None}
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
        command = [sys.executable, __file__, "--trial", str(share)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.share = share

    def told(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"a trial on {self.share:g} of the GPU ended with status {self.process.wait()}")
        return dict(json.loads(line))

    def ask(self, count: int) -> None:
        assert self.process.stdin is not None
        print(count, file=self.process.stdin, flush=True)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


def side_by_side() -> Iterator[dict[str, Any]]:
    """Two trials on half of the GPU each, the first one alone and then both."""
    trials = [Trial(0.5), Trial(0.5)]
    count = 1 if SMALL else 6
    try:
        for each in trials:
            yield {"kind": "fence"} | each.told()
        trials[0].ask(count)
        alone = trials[0].told()["rate"]
        for each in trials:
            each.ask(count)
        both = sum(each.told()["rate"] for each in trials)
        yield {"kind": "together", "batch": SHARED, "alone": alone, "both": both, "ratio": both / alone}
    finally:
        for each in trials:
            each.end()


def quarter() -> Iterator[dict[str, Any]]:
    """A trial on a quarter of the GPU."""
    one = Trial(0.25)
    try:
        yield {"kind": "fence"} | one.told()
    finally:
        one.end()


def say(row: dict[str, Any]) -> None:
    print(json.dumps(row), flush=True)


def table(titles: list[str], rows: list[list[Any]]) -> None:
    """Markdown."""
    for cells in (titles, ["---"] * len(titles), *rows):
        print(
            "| "
            + " | ".join(
                f"{cell:,.4g}"
                if isinstance(cell, float) and cell < 100
                else f"{cell:,.0f}"
                if isinstance(cell, float)
                else str(cell)
                for cell in cells
            )
            + " |"
        )
    print(flush=True)


def main(seconds: float) -> None:
    started = time.monotonic()
    rows: list[dict[str, Any]] = []

    def of(kind: str) -> list[dict[str, Any]]:
        return [row for row in rows if row["kind"] == kind]

    with tempfile.TemporaryDirectory(prefix="captune-bench-") as folder:
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", folder)  # trials take over what the sweep compiled
        until = started + 0.7 * seconds
        child = subprocess.Popen([sys.executable, __file__, "--sweep", str(until)], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        for line in child.stdout:
            rows.append(json.loads(line))
            print(line.strip(), file=sys.stderr, flush=True)
        if child.wait():
            rows.append({"kind": "left out", "what": f"the sweep ended with status {child.returncode}"})
        for part, needs in ((side_by_side, 60), (quarter, 30)):
            left = seconds - (time.monotonic() - started)
            if left < needs and not SMALL:
                rows.append({"kind": "left out", "what": f"{part.__name__}: {left:.0f} s are left"})
                continue
            try:
                for row in part():
                    rows.append(row)
                    print(json.dumps(row), file=sys.stderr, flush=True)
            except RuntimeError as error:
                rows.append({"kind": "left out", "what": str(error)})

    table(["limit", "measured", "nominal"], [[r["what"], r["value"], r.get("nominal") or ""] for r in of("limit")])
    table(
        ["what", "batch", "ms a step", "pictures/s", "GiB", "GB moved"],
        [
            [r["what"], r["batch"], r["milliseconds"], r["rate"], r.get("GiB", ""), r.get("GB_moved", "")]
            for r in of("rate")
        ],
    )
    gib = 2**30
    table(
        ["share of the GPU", "fence GiB", "limit GiB", "peak of training GiB", "half of it fits", "1 GiB more fits"],
        [
            [
                r["share"],
                *(r[k] / gib if r[k] else "none" for k in ("fence", "limit", "peak")),
                r.get("within", ""),
                r.get("beyond", ""),
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
        case ["--sweep", until]:
            sweep(float(until))
        case ["--trial", share]:
            trial(float(share))
        case arguments:
            main(float(arguments[0]) if arguments else 345)
