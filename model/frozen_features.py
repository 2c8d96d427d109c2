"""What a frozen backbone gives of pictures, told from the configuration: what it follows from, its shape, its bytes."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from captune.model.backbones import BACKBONES
from captune.model.config import ImageConfig, Storage, TrialConfig
from captune.model.layout import features_shape
from captune.model.towers import Cut

BYTES_PER_VALUE = 2
"""They are kept as float16: of eleven significant bits, more than eight-bit pixels have."""


@dataclass(frozen=True)
class FrozenFeatures:
    """All that features follow from but the pictures, the weights' bytes and the framework. shape: of one picture's.

    pooling: over the positions; "none" where each is kept. mirrored: of pictures that are mirrored left to right.
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

    @classmethod
    def of(cls, image: ImageConfig, storage: Storage, *, mirrored: bool = False) -> FrozenFeatures:
        """Those that a network trains on whose backbone is frozen and shipped in `storage`."""
        return cls(
            image.backbone,
            image.weights,
            image.cut,
            "backbone" if BACKBONES[image.backbone].scaling == "included" else image.scaling,
            image.seen_side,
            image.pooling if image.head == "pooled" else "none",
            storage,
            features_shape(image),
            mirrored,
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

    def identity(self) -> dict[str, object]:
        """For a key; a name of a file of weights stands for its content."""
        return asdict(self)
