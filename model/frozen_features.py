"""What frozen towers give, told from the configuration: what it follows from, its shape, its bytes."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from captune.model.config import ImageConfig, Storage, TextConfig, TrialConfig
from captune.model.layout import encoded_features, features_shape
from captune.model.towers import Cut

BYTES_PER_VALUE = 2
"""They are kept as float16: of eleven significant bits, more than eight-bit pixels have."""


def needed(config: TrialConfig) -> tuple[FrozenFeatures | CaptionFeatures, ...]:
    """All that is computed before a configuration trains."""
    captions = CaptionFeatures.needed(config)
    return (*FrozenFeatures.needed(config), *([] if captions is None else [captions]))


@dataclass(frozen=True)
class FrozenFeatures:
    """All that features of pictures follow from but these, the weights' bytes and the framework. shape: of one's.

    pooling: over the positions; "none" where each is kept. mirrored: of pictures that are mirrored left to right.
    layers, heads: of a transformer.
    """

    backbone: str
    weights: str
    cut: Cut
    scaling: str
    side: int
    pooling: str
    storage: Storage
    shape: tuple[int, ...]
    mirrored: bool = False
    layers: int | None = None
    heads: int | None = None

    @classmethod
    def of(cls, image: ImageConfig, storage: Storage, *, mirrored: bool = False) -> FrozenFeatures:
        """Those that a network trains on whose backbone is frozen and shipped in `storage`."""
        return cls(
            image.backbone,
            image.weights,
            image.cut,
            "backbone" if image.scaling_of_backbone == "included" else image.scaling,
            image.seen_side,
            image.pooling if image.head == "pooled" else "none",
            storage,
            features_shape(image),
            mirrored,
            *((image.layers, image.heads) if image.backbone == "transformer" else ()),
        )

    @classmethod
    def needed(cls, config: TrialConfig) -> tuple[FrozenFeatures, ...]:
        """What has to be computed before a configuration trains: nothing, those of pictures, or of both ways round."""
        image = config.model.image
        if image is None or not config.train.cached_features:
            return ()
        ways = (False, True) if config.train.augment.flip else (False,)
        return tuple(cls.of(image, config.model.storage, mirrored=mirrored) for mirrored in ways)

    def bytes_of(self, pictures: int) -> int:
        """Bytes of those of so many pictures."""
        return BYTES_PER_VALUE * pictures * math.prod(self.shape)

    @property
    def name(self) -> str:
        """Of the tower, for people."""
        return self.backbone

    def identity(self) -> dict[str, object]:
        """For a key; the name of a file or folder of weights stands for its content."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class CaptionFeatures:
    """All that features of captions follow from but these, the files of the tower and the framework."""

    weights: str
    layers: int
    heads: int
    vocabulary_size: int
    max_tokens: int
    pooling: str
    storage: Storage
    shape: tuple[int, ...]

    @classmethod
    def of(cls, text: TextConfig, storage: Storage) -> CaptionFeatures:
        """Those that a network trains on whose text tower is frozen and shipped in `storage`."""
        sizes = (text.layers, text.heads, text.vocabulary_size, text.max_tokens)
        return cls(text.weights, *sizes, text.pooling, storage, (encoded_features(text),))

    @classmethod
    def needed(cls, config: TrialConfig) -> CaptionFeatures | None:
        """What has to be computed before a configuration trains."""
        text = config.model.text
        cached = config.train.cached_features and text is not None and text.keeps_tower
        return cls.of(text, config.model.storage) if cached and text is not None else None

    def bytes_of(self, captions: int) -> int:
        """Bytes of those of so many captions."""
        return BYTES_PER_VALUE * captions * math.prod(self.shape)

    @property
    def name(self) -> str:
        """Of the tower, for people."""
        return "transformer"

    def identity(self) -> dict[str, object]:
        """For a key; the name of the folder stands for its content."""
        return asdict(self)
