"""Which settings have an effect beside the others, and which configurations are therefore one."""

from __future__ import annotations

import hashlib

from captune.model.config import AugmentConfig, TrialConfig
from captune.model.flat import Flat, flatten, unflatten

_COMPACT_ONLY = {"image.stem", "image.width", "image.stages", "image.blocks", "image.last_halving"}
_TRANSFORMER_ONLY = {f"image.{name}" for name in ("layers", "heads", "patch", "channels", "hidden")}
_OF_TWO = {"fusion", "modality_dropout"}
_OF_THE_WHOLE = {"image.pooling", "image.units", "head_units"}
_AUGMENTATION = {f"train.augment.{name}" for name in AugmentConfig.model_fields}
_PRETRAINED_ONLY = {"train.tower_rate", "train.thaw"}
_TOWER_ONLY = {f"text.{name}" for name in ("weights", "pretrained", "frozen", "layers", "heads", "family", "pooling")}
_TEACHER = {"train.teacher", "train.teacher_share"}
_DECAY = {"train.optimizer", "train.weight_decay"}


def idle(config: TrialConfig) -> set[str]:
    """Dotted names of settings that may be anything beside the others, such as the kernel of an encoder without one."""
    image, text, train = config.model.image, config.model.text, config.train
    names: set[str] = set()
    tower = text is not None and text.encoder == "transformer"
    tuned = image is not None and not image.frozen and image.weights != "none"
    if not tuned and not (text is not None and text.begins_with_weights and not text.frozen):
        names |= _PRETRAINED_ONLY
    if image is None:
        names |= _AUGMENTATION
    else:
        names |= set() if image.backbone == "compact" else _COMPACT_ONLY
        # Of a transformer its folder says all but the layers.
        names |= _TRANSFORMER_ONLY - ({"image.layers"} if image.backbone == "transformer" else set())
        if image.scaling_of_backbone in (None, "included"):
            names.add("image.scaling")
        if image.head == "pooled":
            names.add("image.position_units")
        elif text is None:  # the logits come from positions alone
            names |= _OF_THE_WHOLE
    if text is None:
        names.add("train.group_by_length")
    else:
        names |= set() if text.encoder == "convolution" else {"text.kernel"}
        names |= {"text.units"} if text.encoder in ("average", "transformer") else set()
        names |= {"text.embedding", "text.heads", "text.family"} if tower else _TOWER_ONLY
        names |= {"text.embedding_dropout"} if text.keeps_tower else set()
        names |= set() if text.wide else {"text.wide_buckets"}
    if image is None or text is None:
        names |= _OF_TWO
    if not config.model.has_parts:
        names.add("train.own_losses")
    if train.teacher == "none":
        names.add("train.teacher_share")
    elif not train.has_teacher:
        names.add("train.teacher")
    if train.loss == "binary_crossentropy":
        names.add("train.gamma")
    if train.optimizer == "adam":
        names.add("train.weight_decay")
    if train.weight_decay == 0:  # AdamW without it is Adam
        names.add("train.optimizer")
    return names


def idle_in(config: Flat) -> set[str]:
    """The same of a record's configuration; none where another captune had settings that this one does not know."""
    try:
        return idle(unflatten(config))
    except ValueError:
        return set()


def key_of(config: TrialConfig) -> bytes:
    """Stands for a network and its training among those seen before, in a hundredth of its memory."""
    names = idle(config)
    for both in (_DECAY, _TEACHER):  # where one does nothing there is no decay, or no teacher, at all
        names |= both if names & both else set()
    values = sorted((name, value) for name, value in flatten(config).items() if name not in names)
    return hashlib.blake2b(repr(values).encode(), digest_size=16).digest()
