"""Configurations that are known to work: where a search starts."""

from __future__ import annotations

from captune.model.config import AugmentConfig, ImageConfig, ModelConfig, TextConfig, TrainConfig, TrialConfig

PAPER = TrialConfig(
    model=ModelConfig(
        image=ImageConfig(backbone="ResNet50", weights="imagenet", scaling="unit", side=224, units=128),
        text=TextConfig(encoder="bilstm", vocabulary_size=10_000, max_tokens=64, embedding=195, units=128, dense=128),
        num_labels=18,
    ),
    train=TrainConfig(
        epochs=10,
        batch_size=32,
        optimizer="adam",
        learning_rate=1e-4,
        augment=AugmentConfig(rotation=20, shift=0.2, shear=0.2, zoom=0.2, flip=True),
    ),
)

_TEXT = TextConfig(
    encoder="convolution",
    vocabulary_size=10_000,
    max_tokens=16,
    embedding=128,
    units=384,
    kernel=2,
    dense=0,
    embedding_dropout=0.3,
    dropout=0.5,
)

CAPTIONS = TrialConfig(
    model=ModelConfig(text=_TEXT.model_copy(update={"dense": 128})),
    train=TrainConfig(
        epochs=6,
        batch_size=128,
        group_by_length=True,
        optimizer="adam",
        learning_rate=4e-3,
        schedule="cosine",
        warmup=0.1,
        label_smoothing=0.05,
        prior_start=True,
    ),
)

COMPACT = TrialConfig(
    model=ModelConfig(
        image=ImageConfig(
            backbone="compact",
            pooling="both",
            units=0,
            head="positions",
            dropout=0.2,
            stem=8,
            width=32,
            stages=3,
            blocks=1,
            last_halving=False,
        ),
        text=_TEXT,
        fusion="summed",
        head_units=256,
        head_dropout=0.0,
    ),
    train=CAPTIONS.train.model_copy(
        update={
            "epochs": 10,
            "batch_size": 64,
            "optimizer": "adamw",
            "learning_rate": 6e-3,
            "weight_decay": 0.05,
            "own_losses": 0.3,
            "augment": AugmentConfig(shift=0.04, flip=True),
        }
    ),
)

PHOTOS = TrialConfig(
    model=ModelConfig(
        image=ImageConfig(
            backbone="EfficientNetLite2",
            weights="EfficientNetLite2.safetensors",
            cut="last_map",
            frozen=True,
            min_side=288,
            head="positions",
            position_units=768,
            dropout=0.2,
        ),
        text=_TEXT.model_copy(update={"embedding": 64, "kernel": 3, "dropout": 0.3}),
        fusion="summed",
        head_dropout=0.2,
    ),
    train=CAPTIONS.train.model_copy(
        update={
            "epochs": 12,
            "batch_size": 64,
            "learning_rate": 1.2e-3,
            "own_losses": 0.25,
            "augment": AugmentConfig(flip=True),
            "cached_features": True,
        }
    ),
)

FULL = TrialConfig(
    model=ModelConfig(
        image=ImageConfig(
            backbone="EfficientNetV2B0",
            weights="imagenet",
            side=224,
            units=256,
            head="positions",
            position_units=512,
            dropout=0.2,
        ),
        text=_TEXT,
        fusion="summed",
        head_units=256,
        head_dropout=0.3,
    ),
    train=TrainConfig(
        epochs=10,
        batch_size=64,
        optimizer="adamw",
        learning_rate=3e-4,
        schedule="cosine",
        warmup=0.1,
        weight_decay=0.01,
        ema=0.999,
        clip_norm=1.0,
        tower_rate=0.1,
        own_losses=0.3,
        prior_start=True,
        augment=AugmentConfig(rotation=10, shift=0.1, zoom=0.1, flip=True),
    ),
)

PRESETS: dict[str, TrialConfig] = {
    "paper": PAPER,
    "captions": CAPTIONS,
    "compact": COMPACT,
    "photos": PHOTOS,
    "full": FULL,
}
"""paper: the network that captune grew from; captions: text alone; compact: for CPUs; photos: photographs on CPUs, by a
frozen backbone; full: for GPUs."""
