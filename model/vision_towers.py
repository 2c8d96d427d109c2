"""CLIP's towers of pictures (vision transformers, Dosovitskiy et al., 2021, arXiv 2010.11929) as figures, see
captune.model.transformers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from captune.model.config import ImageConfig, most_of
from captune.model.transformers import Shape, layer_variables, norm_variables, read_config, weights_folder

_NUMBERS = {
    "layers": ("num_hidden_layers", 1, most_of(ImageConfig, "layers")),
    "width": ("hidden_size", 1, most_of(ImageConfig, "channels")),
    "heads": ("num_attention_heads", 1, most_of(ImageConfig, "heads")),
    "hidden": ("intermediate_size", 1, most_of(ImageConfig, "hidden")),
    "patch": ("patch_size", 1, most_of(ImageConfig, "patch")),
    "side": ("image_size", 1, 2**16),
}
_LEFT_OUT = {"layers": 12, "width": 768, "heads": 12, "hidden": 3072, "patch": 32, "side": 224}


@dataclass(frozen=True)
class VisionShape:
    """Of a whole tower. patch, side: pixels a side of a patch, and of the pictures that it was trained on."""

    layers: int
    width: int
    heads: int
    hidden: int
    patch: int
    side: int

    @classmethod
    def read(cls, folder: Path) -> Self:
        """What the config.json of a folder says. Raises WeightsError, see captune.model.transformers.read_config."""
        _, numbers = read_config(folder, "vision", _NUMBERS, {"clip": _LEFT_OUT})
        return cls(**numbers)

    def bound(self, image: ImageConfig) -> ImageConfig:
        """The encoder with the widths of the tower, and no more layers than it has."""
        fitted = {
            "channels": self.width,
            "hidden": self.hidden,
            "heads": self.heads,
            "patch": self.patch,
            "layers": min(image.layers, self.layers),
        }
        return ImageConfig(**{**dict(image), **fitted})


def shaped(image: ImageConfig) -> ImageConfig:
    """A transformer with the widths of the folder that it names. Raises WeightsError, see there."""
    return VisionShape.read(weights_folder(image.weights, "vision")).bound(image)


def variables(config: ImageConfig) -> Iterator[tuple[str, Shape]]:
    """Names and shapes of all variables of the tower that a configuration has."""
    width, patch = config.channels, config.patch
    yield "image_patches/kernel", (patch, patch, 3, width)
    yield "image_class/embeddings", (1, width)
    yield "image_places/embeddings", (1 + config.patches**2, width)
    yield from norm_variables("image_norm_before", width)
    for layer in range(1, config.layers + 1):
        yield from layer_variables(f"image_{layer}", width, config.hidden)
    yield from norm_variables("image_norm", width)
