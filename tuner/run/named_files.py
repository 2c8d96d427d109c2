"""The files that a search names: pretrained weights and teachers. Held against the data, and against what they were."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import cast

from captune.data_prep.pieces import cut_pieces, vocabulary_files
from captune.data_prep.records import DataError
from captune.data_prep.store import PreparedData
from captune.model.backbones import WeightsError, weights_path
from captune.model.bundle_manifest import BundleError
from captune.model.layout import MANIFEST
from captune.model.text_towers import TowerOnData, TransformerShape
from captune.model.towers import TOWERS, Cut
from captune.model.transformer_weights import check_text_tower, check_vision_tower
from captune.model.transformers import CONFIG, WEIGHTS, Part, weights_folder
from captune.model.vision_towers import VisionShape
from captune.reading import UnreadableError, sha256
from captune.tuner.space.space import NEEDS_WEIGHTS, Space
from captune.tuner.space.yaml_file import ConfigError
from captune.tuner.training.teacher import check_teacher


def check_files(space: Space, data: PreparedData) -> None:
    """Raises ConfigError for a file that a trial may ask for and that is not here, or not what it should be."""
    try:
        for name in _backbone_weights(space):
            weights_path(name)
        _check_towers(space)
        for name in _vision_weights(space):
            check_vision_tower(weights_folder(name, "vision"), vision_shape(name))
        for part, drawn in (("vision", _image_weights(space, of_transformer=True)), ("text", _text_weights(space))):
            if "none" in drawn and (part == "vision" or data.has_captions):
                raise ConfigError(NEEDS_WEIGHTS[part])
        for name in text_weights(space) if data.has_captions else ():
            folder = weights_folder(name, "text")
            check_text_tower(folder, tower_on(data, name).shape, 1 + max(cut_pieces(data, folder).rows))
        for name in _teachers(space):
            check_teacher(name, data)
    except (WeightsError, BundleError, DataError) as error:
        raise ConfigError(str(error)) from None


def _check_towers(space: Space) -> None:
    """Raises WeightsError for a file that lacks what one of captune's own towers needs; of others Keras alone knows."""
    image = space.base.model.image
    if image is None:
        return
    for backbone in _names(space, "image.backbone", image.backbone) & TOWERS.keys():
        beside = {"image.backbone": backbone}
        for cut in _names(space, "image.cut", image.cut, beside):
            named = _names(space, "image.weights", image.weights, {**beside, "image.cut": cut})
            for name in named - {"none", "imagenet"}:
                from captune.model.weights_file import check_weights  # with what reads files

                check_weights(TOWERS[backbone], cast("Cut", cut), weights_path(name), backbone)


ABSENT = "absent"


def digests(space: Space) -> dict[str, str]:
    """SHA-256 by setting and name of each file that a trial may ask for and that is here.

    Of a transformer's folder ABSENT for a file that is not in it, also for one that would have captions cut otherwise.
    """
    found = {}
    for name in _backbone_weights(space):
        with suppress(WeightsError, UnreadableError):
            found[f"image.weights {name}"] = sha256(weights_path(name))
    for name in _vision_weights(space):
        found |= _digests_of_folder("vision", name)
    for name in text_weights(space):
        found |= _digests_of_folder("text", name)
    for name in _teachers(space):
        with suppress(UnreadableError):
            found[f"train.teacher {name}"] = sha256(Path(name) / MANIFEST)  # which has the sums of the others
    return found


def _digests_of_folder(part: Part, name: str) -> dict[str, str]:
    """Of the weights in it, under its name, and of the others that count, each under its own beside."""
    setting, found = f"{'text' if part == 'text' else 'image'}.weights {name}", dict[str, str]()
    with suppress(WeightsError):
        folder = weights_folder(name, part)
        for file in (WEIGHTS, CONFIG, *(vocabulary_files(folder) if part == "text" else ())):
            with suppress(UnreadableError):
                there = (folder / file).exists()
                found[setting if file == WEIGHTS else f"{setting}/{file}"] = sha256(folder / file) if there else ABSENT
    return found


def text_weights(space: Space) -> set[str]:
    """Names of all folders of text towers that a trial may ask for."""
    return _text_weights(space) - {"none"}


def tower_on(data: PreparedData, weights: str) -> TowerOnData:
    """What `text.weights` names on the data. Raises WeightsError, DataError."""
    folder = weights_folder(weights, "text")
    shape, cut = TransformerShape.read(folder), cut_pieces(data, folder)
    if shape.family != cut.pieces.settings.family:
        raise WeightsError(
            f"{folder} has the {CONFIG} of {shape.family.upper()} beside a vocabulary of "
            f"{cut.pieces.settings.family.upper()}'s; put the files of one model there"
        )
    return TowerOnData(shape, cut.pieces.size, cut.longest)


def vision_shape(weights: str) -> VisionShape:
    """Of what `image.weights` of a transformer names. Raises WeightsError."""
    return VisionShape.read(weights_folder(weights, "vision"))


def _backbone_weights(space: Space) -> set[str]:
    return _image_weights(space, of_transformer=False) - {"none", "imagenet"}


def _vision_weights(space: Space) -> set[str]:
    return _image_weights(space, of_transformer=True) - {"none"}


def _image_weights(space: Space, *, of_transformer: bool) -> set[str]:
    """Names of all weights that a transformer may ask for, or that another backbone may; "none" is one."""
    image = space.base.model.image
    if image is None:
        return set()
    found = set[str]()
    for backbone in _names(space, "image.backbone", image.backbone):
        if (backbone == "transformer") == of_transformer:
            found |= _names(space, "image.weights", image.weights, {"image.backbone": backbone})
    return found


def _text_weights(space: Space) -> set[str]:
    """The same of a transformer that reads captions."""
    text = space.base.model.text
    if text is None or "transformer" not in _names(space, "text.encoder", text.encoder):
        return set()
    return _names(space, "text.weights", text.weights, {"text.encoder": "transformer"})


def _teachers(space: Space) -> set[str]:
    return _names(space, "train.teacher", space.base.train.teacher) - {"none"}


def _names(space: Space, setting: str, base: str, beside: Mapping[str, str] = MappingProxyType({})) -> set[str]:
    """All values that a setting may have. beside: others by name, with their values."""
    dimension = space.dimensions.get(setting)
    if dimension is None:
        return {base}
    of_other = [condition for condition in dimension.when if condition.name in beside]
    if not all(beside[condition.name] in condition.values for condition in of_other):
        return {base}  # it is closed there
    may_be_closed = len(of_other) < len(dimension.when)
    return {*([base] if may_be_closed else []), *map(str, dimension.values())}
