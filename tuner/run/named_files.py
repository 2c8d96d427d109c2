"""The files that a search names: pretrained weights and teachers. Held against the data, and against what they were."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from captune.data_prep.pieces import cut_pieces
from captune.data_prep.records import DataError
from captune.data_prep.store import PreparedData
from captune.model.backbones import WeightsError, weights_path
from captune.model.bundle_manifest import BundleError
from captune.model.layout import MANIFEST
from captune.model.text_towers import TowerOnData, TransformerShape
from captune.model.transformer_weights import check_text_tower, check_vision_tower
from captune.model.transformers import WEIGHTS, weights_folder
from captune.model.vision_towers import VisionShape
from captune.reading import UnreadableError, sha256
from captune.tuner.space.space import Space
from captune.tuner.space.yaml_file import ConfigError
from captune.tuner.training.teacher import check_teacher


def check_files(space: Space, data: PreparedData) -> None:
    """Raises ConfigError for a file that a trial may ask for and that is not here, or not what it should be."""
    try:
        for name in _backbone_weights(space):
            weights_path(name)
        for name in _vision_weights(space):
            check_vision_tower(weights_folder(name, "vision"), vision_shape(name))
        for name in text_weights(space) if data.has_captions else ():
            check_text_tower(weights_folder(name, "text"), tower_on(data, name).shape)
        for name in _teachers(space):
            check_teacher(name, data)
    except (WeightsError, BundleError, DataError) as error:
        raise ConfigError(str(error)) from None


def digests(space: Space) -> dict[str, str]:
    """SHA-256 by setting and name of each file that a trial may ask for and that is here."""
    found = {}
    for name in _backbone_weights(space):
        with suppress(WeightsError, UnreadableError):
            found[f"image.weights {name}"] = sha256(weights_path(name))
    for name in _vision_weights(space):
        with suppress(WeightsError, UnreadableError):
            found[f"image.weights {name}"] = sha256(weights_folder(name, "vision") / WEIGHTS)
    for name in text_weights(space):
        with suppress(WeightsError, UnreadableError):
            found[f"text.weights {name}"] = sha256(weights_folder(name, "text") / WEIGHTS)
    for name in _teachers(space):
        with suppress(UnreadableError):
            found[f"train.teacher {name}"] = sha256(Path(name) / MANIFEST)  # which has the sums of the others
    return found


def text_weights(space: Space) -> set[str]:
    """Names of all folders of text towers that a trial may ask for."""
    text = space.base.model.text
    reads = _names(space, "text.encoder", None if text is None else text.encoder)
    return _names(space, "text.weights", None if text is None else text.weights) if "transformer" in reads else set()


def tower_on(data: PreparedData, weights: str) -> TowerOnData:
    """What `text.weights` names on the data. Raises WeightsError, DataError."""
    folder = weights_folder(weights, "text")
    shape, cut = TransformerShape.read(folder), cut_pieces(data, folder)
    return TowerOnData(shape, cut.pieces.size, cut.longest)


def vision_shape(weights: str) -> VisionShape:
    """Of what `image.weights` of a transformer names. Raises WeightsError."""
    return VisionShape.read(weights_folder(weights, "vision"))


def _backbone_weights(space: Space) -> set[str]:
    return _image_weights(space, of_transformer=False)


def _vision_weights(space: Space) -> set[str]:
    return _image_weights(space, of_transformer=True)


def _image_weights(space: Space, *, of_transformer: bool) -> set[str]:
    """Names of all weights that a transformer may ask for, or that another backbone may."""
    image = space.base.model.image
    if image is None:
        return set()
    found = set[str]()
    for backbone in _names(space, "image.backbone", image.backbone):
        if (backbone == "transformer") == of_transformer:
            found |= _names(space, "image.weights", image.weights, beside=("image.backbone", backbone))
    return found - {"imagenet"}


def _teachers(space: Space) -> set[str]:
    return _names(space, "train.teacher", space.base.train.teacher)


def _names(space: Space, setting: str, base: str | None, beside: tuple[str, str] | None = None) -> set[str]:
    """All values that a setting may have, but none. beside: another one, by name, and its value."""
    dimension = space.dimensions.get(setting)
    found = {base} if base is not None else set()
    if dimension is not None:
        of_other = [condition for condition in dimension.when if beside is not None and condition.name == beside[0]]
        if beside is None or all(beside[1] in condition.values for condition in of_other):
            # The base's own counts where the dimension may be closed all the same.
            found = {*(found if len(of_other) < len(dimension.when) else ()), *map(str, dimension.values())}
    return found - {"none"}
