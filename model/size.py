"""Bytes of a network, from its configuration alone: integers, no framework, microseconds.

`weights_bytes` counts every variable once, frozen ones and batch-norm statistics too, times the bytes of its storage
type: what the budget is held against. `bundle_bytes` is an upper estimate of the folder that is shipped.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise

from model.backbones import BACKBONES
from model.config import ImageConfig, ModelConfig, TextConfig

MiB = 2**20  # what Keras prints as "MB"
MB = 10**6  # as file sizes are sold
DEFAULT_BUDGET = 100 * MiB
FLOAT32_BYTES = 4

_UNITS = {"B": 1, "kB": 10**3, "KB": 10**3, "MB": MB, "GB": 10**9, "KiB": 2**10, "MiB": MiB, "GiB": 2**30}
_BYTES = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)")
# A tensor's entry in a safetensors header: name, type, shape and offsets as JSON.
_HEADER_BYTES_PER_TENSOR = 140
_BYTES_PER_WORD = 10
_METADATA_BYTES = 8_000
_METADATA_BYTES_PER_LABEL = 64


@dataclass(frozen=True)
class Weights:
    """Variables of one part of the network: values, those of them that are never trained, tensors."""

    part: str  # "image encoder", "text encoder", "fusion", "head"
    parameters: int
    frozen: int = 0
    tensors: int = 2


@dataclass(frozen=True)
class Size:
    """Totals over all parts. Parameters are counts, the rest bytes."""

    parameters: int
    frozen: int
    weights_bytes: int
    bundle_bytes: int
    parts: dict[str, int]  # bytes of the weights of each part

    @property
    def trainable(self) -> int:
        """Parameters that training changes."""
        return self.parameters - self.frozen


def size(config: ModelConfig) -> Size:
    """Exact count of variables and their float32 bytes, and the bundle they make."""
    weights = list(_weights(config))
    parameters = sum(w.parameters for w in weights)
    parts: dict[str, int] = {}
    for w in weights:
        parts[w.part] = parts.get(w.part, 0) + w.parameters * FLOAT32_BYTES
    words = config.text.vocabulary_size if config.text is not None else 0
    container = (
        sum(w.tensors for w in weights) * _HEADER_BYTES_PER_TENSOR
        + words * _BYTES_PER_WORD
        + config.num_labels * _METADATA_BYTES_PER_LABEL
        + _METADATA_BYTES
    )
    return Size(
        parameters=parameters,
        frozen=sum(w.frozen for w in weights),
        weights_bytes=parameters * FLOAT32_BYTES,
        bundle_bytes=parameters * FLOAT32_BYTES + container,
        parts=parts,
    )


def parse_bytes(text: str) -> int:
    """A number with its unit, such as 100MiB, 100MB or 104857600B, as bytes.

    Raises:
        ValueError: no unit, an unknown unit, or nothing left after rounding down to whole bytes.
    """
    match = _BYTES.fullmatch(text.strip())
    if match is None or match[2] not in _UNITS:
        number = match[1] if match else "100"
        raise ValueError(
            f"a size needs a number and a unit, got {text!r}; "
            f"write {number}MiB (2**20 bytes each) or {number}MB (10**6 bytes each)"
        )
    count = int(Decimal(match[1]) * _UNITS[match[2]])
    if not 0 < count < 2**60:
        raise ValueError(f"a size must be above 0 and below 1 EiB, got {text!r}; the default is 100MiB")
    return count


def show_bytes(count: int) -> str:
    """Bytes in both units, for messages: '99.83 MiB (104.68 MB)'."""
    return f"{count / MiB:.2f} MiB ({count / MB:.2f} MB)"


def refusal(found: Size, budget: int) -> str | None:
    """Why a network is over the budget, by parts and with the way out; None where it fits."""
    if found.weights_bytes <= budget:
        return None
    parts = ", ".join(f"{part} {count / MiB:.2f}" for part, count in found.parts.items())
    return (
        f"needs {show_bytes(found.weights_bytes)} of float32 weights, the budget is {show_bytes(budget)} "
        f"(MiB by part: {parts}); a smaller backbone, vocabulary or embedding would fit, or a larger --budget"
    )


def _weights(config: ModelConfig) -> Iterator[Weights]:
    features: list[int] = []
    if config.image is not None:
        yield from _image_weights(config.image)
        features.append(config.image.units or _pooled(config.image))
    if config.text is not None:
        yield from _text_weights(config.text)
        features.append(config.text.dense or _encoded(config.text))
    width = sum(features)
    if len(features) == 2 and config.fusion == "gated":
        yield _dense("fusion", width, width)
    if config.head_units:
        yield _dense("head", width, config.head_units)
        width = config.head_units
    yield _dense("head", width, config.num_labels)


def _image_weights(config: ImageConfig) -> Iterator[Weights]:
    part = "image encoder"
    if config.backbone == "compact":
        backbone = _total(part, _compact_weights(config))
    else:
        figures = BACKBONES[config.backbone]
        backbone = Weights(part, figures.parameters, figures.statistics, figures.tensors)
    if config.frozen:
        backbone = Weights(part, backbone.parameters, backbone.parameters, backbone.tensors)
    yield backbone
    if config.units:
        yield _dense(part, _pooled(config), config.units)


def _compact_weights(config: ImageConfig) -> Iterator[Weights]:
    # 3 x 3 convolution without bias; batch norm: scale and shift, moving mean and variance.
    widths = [config.width * 2**stage for stage in range(1, config.stages + 1) for _ in range(config.blocks)]
    for given, channels in pairwise([3, config.width, *widths]):
        yield Weights("", 9 * given * channels + 4 * channels, 2 * channels, 5)


def _text_weights(config: TextConfig) -> Iterator[Weights]:
    part = "text encoder"
    yield Weights(part, config.vocabulary_size * config.embedding, tensors=1)
    given, units = config.embedding, config.units
    match config.encoder:
        case "bilstm" | "lstm":
            directions = 2 if config.encoder == "bilstm" else 1
            # Four gates; a kernel for inputs, one for states, a bias.
            yield Weights(part, directions * 4 * units * (given + units + 1), tensors=3 * directions)
        case "gru":
            # Three gates; Keras's GRU (reset after) keeps two biases.
            yield Weights(part, 3 * units * (given + units + 2), tensors=3)
        case "convolution":
            yield Weights(part, units * (config.kernel * given + 1))
        case "average":
            pass
    if config.dense:
        yield _dense(part, _encoded(config), config.dense)


def _pooled(config: ImageConfig) -> int:
    """Features after pooling."""
    if config.backbone == "compact":
        channels = config.width * 2**config.stages
    else:
        channels = BACKBONES[config.backbone].features
    return channels * (2 if config.pooling == "both" else 1)


def _encoded(config: TextConfig) -> int:
    """Features that the text encoder itself gives."""
    match config.encoder:
        case "bilstm":
            return 2 * config.units
        case "average":
            return config.embedding
        case _:
            return config.units


def _dense(part: str, given: int, units: int) -> Weights:
    return Weights(part, (given + 1) * units)


def _total(part: str, weights: Iterable[Weights]) -> Weights:
    counts = [(w.parameters, w.frozen, w.tensors) for w in weights]
    return Weights(part, *map(sum, zip(*counts, strict=True)))
