"""Predicted milliseconds of random configurations beside what their exported files take.

Arguments: how many of the presets compact and captions each (10); onnx, unless said, or litert; what
their weights are stored as (float32).
"""

import math
import random
import statistics
import sys

from captune.model.config import ModelConfig, Storage
from captune.tuner.space.config import read_search
from captune.tuner.winner.formats.declarations import FORMATS
from captune.tuner.winner.latency import milliseconds_of
from captune.tuner.winner.speed import speed_of_this_machine

SIDES = (48, 64, 96)


def drawn(preset: str, count: int) -> list[ModelConfig]:
    space = read_search(None, preset=preset, default_preset=preset, overrides={"trials": 1}).build_space()
    draw, configs = random.Random(1), []
    for _ in range(count):
        config = space.draw(draw).model
        if config.image is not None:
            config = config.model_copy(update={"image": config.image.model_copy(update={"side": draw.choice(SIDES)})})
        configs.append(config)
    return configs


def main(count: int, runtime: str = "onnx", storage: Storage = "float32") -> None:
    form = FORMATS[runtime]
    speed = speed_of_this_machine(form, print)
    configs = [
        (preset, config.stored_as(storage)) for preset in ("compact", "captions") for config in drawn(preset, count)
    ]
    factors = []
    print(f"{'preset':10} {'measured, ms':>12} {'predicted':>10}")
    for (preset, config), measured in zip(
        configs, milliseconds_of([config for _, config in configs], form), strict=True
    ):
        predicted = speed.milliseconds(config)
        factors.append(math.exp(abs(math.log(predicted / measured))))
        print(f"{preset:10} {measured:12.3f} {predicted:10.3f} {predicted / measured - 1:+8.0%}")
    nine_tenths = sorted(factors)[math.ceil(0.9 * len(factors)) - 1]
    median = statistics.median(factors)
    print(
        f"wrong by a factor of {median:.2f} in the median, {nine_tenths:.2f} at nine tenths, {max(factors):.2f} at most"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 10, *sys.argv[2:])  # type: ignore[arg-type]
