"""Sizes computed from shapes beside what Keras builds and what lies on disk, over random configurations.

    python tests/benchmarks/size.py [COUNT]

COUNT (200) configurations are drawn over all backbones, cuts, heads, text encoders and fusions, alone and together.
Each is built with Keras once and saved as a bundle in all four storage types. Ends with status 1 where a byte of
weights differs, or where a bundle has more than its predicted bytes, or less by over a hundredth (of tiny ones: 300
bytes).
"""

from __future__ import annotations

import math
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from captune.data_prep.captions import CaptionSettings, Vocabulary
from captune.model.backbones import BACKBONES as FIGURES
from captune.model.config import BackboneName, ImageConfig, ModelConfig, TextConfig
from captune.model.layout import STORAGES
from captune.model.rule import DecisionRule
from captune.model.size import Contents, size
from captune.tuner.training.runtime import settle

BACKBONES: tuple[BackboneName, ...] = BackboneName.__args__  # type: ignore[attr-defined]
TINY = 300


def drawn(draw: random.Random, number: int) -> ModelConfig:
    """Every backbone in its turn; all else by chance."""
    backbone = BACKBONES[number % len(BACKBONES)]
    reads = draw.choice(["both", "both", "both", "image", "caption"])
    fusion = draw.choice(["concatenation", "gated", "summed", "summed"])
    by_position = reads == "image" or fusion == "summed"
    image = ImageConfig(
        backbone=backbone,
        cut=draw.choice(["final", *(FIGURES[backbone].cuts if backbone in FIGURES else ())]),
        side=draw.choice([64, 96]),
        head=draw.choice(["pooled", "positions", "queries"]) if by_position else "pooled",
        position_units=draw.choice([0, draw.randint(1, 512)]),
        pooling=draw.choice(["average", "max", "both"]),
        units=draw.choice([0, draw.randint(1, 512)]),
        width=draw.randint(4, 64),
        stages=draw.randint(1, 4),
        blocks=draw.randint(1, 3),
        layers=draw.randint(1, 4),
        heads=(heads := draw.randint(1, 4)),
        patch=draw.choice([8, 14, 16, 32]),
        channels=heads * draw.randint(1, 48),
        hidden=draw.randint(1, 512),
    )
    text = TextConfig(
        encoder=draw.choice(["bilstm", "lstm", "gru", "convolution", "average"]),
        vocabulary_size=draw.randint(3, 12_000),
        max_tokens=draw.randint(1, 64),
        embedding=draw.randint(1, 256),
        units=draw.randint(1, 384),
        kernel=draw.randint(1, 5),
        dense=draw.choice([0, draw.randint(1, 256)]),
        wide=draw.choice([False, True]),
        wide_buckets=draw.choice([0, draw.randint(1, 4096)]),
    )
    return ModelConfig(
        image=image if reads != "caption" else None,
        text=text if reads != "image" else None,
        fusion=fusion,
        head_units=draw.choice([0, draw.randint(1, 512)]),
        num_labels=draw.randint(1, 90),
    )


def main(count: int) -> int:
    settle(2)
    import keras

    from captune.model.bundle import Bundle, measured_bytes
    from captune.model.classifier import build

    draw = random.Random(0)
    wrong = 0
    below: dict[str, list[float]] = {storage: [] for storage in STORAGES}
    building = 0.0
    for number in range(count):
        config = drawn(draw, number)
        words = [f"word{place}" for place in range(config.text.vocabulary_size - 2)] if config.text else []
        names = [f"label {place}" for place in range(config.num_labels)]
        vocabulary = Vocabulary(tuple(words), CaptionSettings()).to_json() if config.text else None
        keras.utils.clear_session()
        started = time.perf_counter()
        network = build(config, load_weights=False)
        building += time.perf_counter() - started
        total = size(config)
        wrong += (total.parameters, total.frozen) != (
            network.count_params(),
            sum(math.prod(weight.shape) for weight in network.non_trainable_weights),
        )
        for storage in STORAGES:
            config = config.model_copy(update={"storage": storage})
            predicted = size(config, Contents.of(range(config.num_labels), names, words or None))
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "bundle"
                Bundle(
                    network, config, DecisionRule(0.35), tuple(range(config.num_labels)), tuple(names), vocabulary
                ).save(path)
                on_disk = measured_bytes(path)
                weights = (path / "weights.safetensors").stat().st_size
                header = 8 + int.from_bytes((path / "weights.safetensors").open("rb").read(8), "little")
                shutil.rmtree(path)
            spare = predicted.bundle_bytes - on_disk
            wrong += weights - header != predicted.weights_bytes
            wrong += not 0 <= spare <= max(0.01 * predicted.bundle_bytes, TINY)
            below[storage].append(spare / predicted.bundle_bytes)
    print(f"{count} configurations, {wrong} disagreements; {count / building:.1f} built by Keras a second")
    print(f"{'storage':8} {'bundle below its predicted bytes: median':>40} {'most':>9}")
    for storage, shares in below.items():
        print(f"{storage:8} {sorted(shares)[len(shares) // 2]:40.4%} {max(shares):9.4%}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 200))
