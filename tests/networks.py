"""Networks drawn at random."""

import random
from typing import Any

from captune.model.backbones import BACKBONES
from captune.model.config import ImageConfig, ModelConfig, TextConfig

ENCODERS: list[Any] = ["bilstm", "lstm", "gru", "convolution", "average"]


def random_config(draw: random.Random, backbone: Any, storage: Any) -> ModelConfig:
    """Small widths are drawn often: at 1 to 4 values a channel matrices turn into vectors."""
    width = [1, 2, 3, 4, 5, draw.randint(6, 60)]
    ways = [("none", False)] + [("file", True)] * (backbone not in ("compact", "transformer"))
    source, frozen = draw.choice(ways)
    heads = draw.randint(1, 4)
    image = ImageConfig(
        backbone=backbone,
        weights=source,
        frozen=frozen,
        side=64,
        cut=draw.choice(["final", *(BACKBONES[backbone].cuts if backbone in BACKBONES else ())]),
        pooling=draw.choice(["average", "max", "both"]),
        units=draw.choice([0, *width]),
        head=draw.choice(["pooled", "positions", "queries"]),
        position_units=draw.choice([0, *width]),
        width=draw.randint(4, 12),
        stages=draw.randint(1, 4),
        blocks=draw.randint(1, 3),
        last_halving=draw.choice([True, False]),
        stem=draw.choice([0, 4]),
        layers=draw.randint(1, 3),
        heads=heads,
        patch=draw.choice([7, 16, 32, 64]),
        channels=heads * draw.randint(1, 20),
        hidden=draw.choice(width),
    )
    text = TextConfig(
        encoder=draw.choice(ENCODERS),
        vocabulary_size=draw.choice([3, 4, 5, draw.randint(6, 3000)]),
        embedding=draw.choice(width),
        max_tokens=3,
        units=draw.choice(width),
        kernel=draw.randint(1, 5),
        dense=draw.choice([0, *width]),
        wide=draw.choice([True, False]),
        wide_buckets=draw.choice([0, *width]),
    )
    reads = draw.choice(["both", "both", "image", "caption"])
    return ModelConfig(
        image=image if reads != "caption" else None,
        text=text if reads != "image" else None,
        fusion=draw.choice(["concatenation", "gated", "summed"] if image.head == "pooled" else ["summed"]),
        head_units=draw.choice([0, *width]),
        num_labels=draw.choice(width),
        storage=storage,
    )
