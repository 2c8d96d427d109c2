"""A configuration without one of its parts at a time, as an ablation study trains it."""

from __future__ import annotations

from collections.abc import Iterator

from captune.model.config import AugmentConfig, TrialConfig, restrict
from captune.model.flat import replace


def ablations(config: TrialConfig) -> dict[str, TrialConfig]:
    """The configuration without each part that it has; nothing else of it changes, but for what the part held up.

    image.head and fusion become the simplest there is, pooled and concatenation.
    """
    return dict(_ablations(config))


def note_on(variant: TrialConfig, whole: TrialConfig) -> str:
    """What of a variant is not as in the whole network beside the part that it lacks; "" for nothing."""
    towers = ((whole.model.image, variant.model.image), (whole.model.text, variant.model.text))
    thawed = any(one is not None and other is not None and one.frozen and not other.frozen for one, other in towers)
    return "the tower, else frozen, is trained from random weights at the rate of the rest" if thawed else ""


def _ablations(config: TrialConfig) -> Iterator[tuple[str, TrialConfig]]:
    model, train = config.model, config.train
    image, text = model.image, model.text
    if image is not None and text is not None:
        of_two = {"own_losses": 0.0, "alignment": 0.0}
        yield "captions", TrialConfig(model=restrict(model, "image"), train=train.model_copy(update=of_two))
        without = {**of_two, "cached_features": False, "augment": AugmentConfig()}
        yield "pictures", TrialConfig(model=restrict(model, "caption"), train=train.model_copy(update=without))
    if image is not None and train.augment.active:
        yield "augmentation", TrialConfig(model=model, train=train.model_copy(update={"augment": AugmentConfig()}))
    if train.alignment:
        yield "alignment", replace(config, {"train.alignment": 0.0})
    if train.has_teacher:
        yield "teacher", replace(config, {"train.teacher": "none"})
    if image is not None and image.weights != "none":
        at_random = {"image.weights": "none", "image.frozen": False, "train.cached_features": False}
        yield "image.weights", replace(config, at_random)
    if text is not None and text.begins_with_weights:
        cached = train.cached_features and image is not None  # of pictures they are as they were
        at_random = {"text.pretrained": False, "text.frozen": False, "train.cached_features": cached}
        yield "text.weights", replace(config, at_random)
    if text is not None and text.wide:
        yield "text.wide", replace(config, {"text.wide": False})
    if image is not None and image.head != "pooled":
        yield "image.head", replace(config, {"image.head": "pooled"})
    if image is not None and text is not None and model.fusion != "concatenation":
        yield (
            "fusion",
            replace(config, {"fusion": "concatenation", "image.head": "pooled", "train.own_losses": 0.0}),
        )
