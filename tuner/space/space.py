"""A search space: dimensions around a preset, bound to one prepared data set."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from random import Random
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from captune.data_prep.captions import FIRST_WORD
from captune.errors import among, in_words
from captune.model.config import ImageConfig, Modality, ModelConfig, TextConfig, TrialConfig, complaint, restrict
from captune.model.flat import Flat, flatten, replace, unflatten
from captune.tuner.space.declarations import configuration_settings
from captune.tuner.space.dimensions import Choice, Dimension, Scalar, SpaceError, is_open
from captune.tuner.space.units import shortened

if TYPE_CHECKING:
    import optuna

    from captune.data_prep.manifest import Manifest
    from captune.model.text_towers import TowerOnData
    from captune.model.vision_towers import VisionShape

OF_THE_DATA = ("image.side", "num_labels")
_OF_IMAGE = ("image.max_side", "image.min_side", "image.layers")
FITTED = (*OF_THE_DATA, *_OF_IMAGE, "text.vocabulary_size", "text.max_tokens", "text.layers")
"""What `bind` takes from the data, or makes no more than the data or a tower has."""
_NO_LIMIT = 2**20
_UNLIMITED_AT_0 = ("image.max_side", "train.clip_norm")
NEEDS_WEIGHTS = {
    "text": "text.encoder transformer needs text.weights: a folder of a pretrained tower",
    "vision": "image.backbone transformer needs image.weights: the folder of a CLIP model",
}


@dataclass(frozen=True)
class Space:
    """Dimensions by dotted name around the configuration `base`, which is trial 0."""

    base: TrialConfig
    dimensions: Mapping[str, Dimension] = field(default_factory=dict)

    @classmethod
    def around(
        cls,
        preset: TrialConfig,
        *,
        fixed: Mapping[str, Any],
        dimensions: Mapping[str, Dimension],
        modality: Modality,
    ) -> Space:
        """A checked space. Dimensions and fixed values of an encoder that `modality` leaves out are left out too.

        Raises:
            SpaceError: an unknown name, a value that its field refuses, a condition on something undrawn.
        """
        settings = flatten(preset)
        for group, names in (("fixed", fixed), ("space", dimensions)):
            for name in names:
                if name not in settings and name in configuration_settings():
                    reads = "captions" if preset.model.image is None else "pictures"
                    raise SpaceError(f"the preset reads {reads} alone; leave it out, or name another", group, name)
                if name not in settings:
                    raise SpaceError(f"unknown name; {among(name, settings)}", group, name)
                if name in OF_THE_DATA:
                    raise SpaceError("it comes from the prepared data; leave it out", group, name)
        try:
            restricted = restrict(preset.model, modality)
        except ValueError:
            reads = preset.model.modality
            raise SpaceError(
                f"{modality} was asked for, but the preset reads {reads}; name another", "modality"
            ) from None
        train = preset.train
        if restricted.image is None and preset.model.image is not None:  # whose features they were
            train = train.model_copy(update={"cached_features": False})
        base = TrialConfig(model=restricted, train=train)
        present = flatten(base)
        base = _replaced(base, {k: v for k, v in fixed.items() if k in present}, "fixed")
        space = cls(base, {name: d for name, d in dimensions.items() if name in present})
        space._check()
        return space

    def suggest(self, trial: optuna.Trial) -> TrialConfig:
        """The configuration that `trial` draws.

        Raises:
            pydantic.ValidationError: values that are each allowed but impossible together.
        """
        return self._build(lambda name, dimension: dimension.suggest(trial, name))

    def at(self, values: Mapping[str, Any]) -> TrialConfig:
        """The configuration with these values of the dimensions; those of closed dimensions do not count.

        Raises:
            KeyError: an open dimension has no value.
            pydantic.ValidationError: values that are each allowed but impossible together.
        """
        return self._build(lambda name, _: values[name])

    def draw(self, random: Random) -> TrialConfig:
        """A configuration drawn evenly, without a study. Raises pydantic.ValidationError as `at` does."""
        return self._build(lambda _, dimension: dimension.draw(random))

    def combinations(self, options: Mapping[str, Sequence[Scalar]]) -> Iterator[Flat]:
        """Every way to draw from these options of each dimension, as values of the dimensions that are then open."""

        def ways(names: list[str], values: Flat, way: Flat) -> Iterator[Flat]:
            if not names:
                yield way
                return
            name, *others = names
            if not is_open(self.dimensions[name], values):
                yield from ways(others, values, way)
                return
            for option in options[name]:
                yield from ways(others, {**values, name: option}, {**way, name: option})

        return ways(list(self.dimensions), self._values, {})

    def parameters(self, config: TrialConfig) -> Flat:
        """The inverse of `suggest`: the values a trial must be given to draw `config`, or what is nearest to it."""
        return self.nearest(flatten(config))

    def nearest(self, settings: Mapping[str, Any]) -> Flat:
        """The same of settings by dotted name; one that is not among them is as in the base."""
        values, parameters = {**self._values, **settings}, dict[str, Any]()
        for name, dimension in self.dimensions.items():
            if is_open(dimension, values):
                value = values[name]
                if name in _UNLIMITED_AT_0 and value == 0 and not dimension.holds(value):
                    value = _NO_LIMIT
                values[name] = parameters[name] = dimension.nearest(value)
        return parameters

    @cached_property
    def _values(self) -> Flat:
        return flatten(self.base)

    def _build(self, value_of: Callable[[str, Dimension], Scalar]) -> TrialConfig:
        values = self._values.copy()
        for name, dimension in self.dimensions.items():
            if is_open(dimension, values):
                values[name] = value_of(name, dimension)
        return unflatten(values)

    def _check(self) -> None:
        values = flatten(self.base)
        seen: set[str] = set()
        for name, dimension in self.dimensions.items():
            for condition in dimension.when:
                if condition.name not in values:
                    reason = f"unknown name {condition.name}; {among(str(condition.name), values)}"
                    raise SpaceError(reason, "space", name, "when")
                if condition.name in self.dimensions and condition.name not in seen:
                    raise SpaceError(f"{condition.name} must stand before {name}", "space", name, "when")
            seen.add(name)
            ends = dimension.options if isinstance(dimension, Choice) else (dimension.low, dimension.high)
            for value in ends:
                check_value(self.base, name, value, "space", name)


def bind(
    config: TrialConfig,
    manifest: Manifest,
    tower: Callable[[str], TowerOnData] | None = None,
    vision: Callable[[str], VisionShape] | None = None,
) -> TrialConfig:
    """The configuration on one prepared data set: its labels, its side, no token beyond its vocabulary.

    Args:
        tower: what `text.weights` names on the data.
        vision: what `image.weights` names.

    Raises:
        SpaceError: it reads pictures or captions that the data does not have, or a transformer without weights.
    """
    image, text = config.model.image, config.model.text
    if image is not None:
        if manifest.side is None:
            raise SpaceError("the data has no pictures; search it with --modality caption or --preset captions")
        side = manifest.side
        # One network, however both sides come to what it sees: one of them says it, and none where nothing is resized.
        seen = image.model_copy(update={"side": side}).seen_side
        sides = {"max_side": seen if seen < side else 0, "min_side": seen if seen > side else 0}
        image = ImageConfig(**{**dict(image), "side": side, **sides})
        if image.backbone == "transformer":
            if vision is None or image.weights == "none":
                raise SpaceError(NEEDS_WEIGHTS["vision"])
            image = vision(image.weights).bound(image)
    if text is not None:
        if manifest.vocabulary_size is None or manifest.max_tokens is None:
            raise SpaceError("the data has no captions; search it with --modality image")
        words, tokens = manifest.vocabulary_size, manifest.max_tokens
        if words == FIRST_WORD:
            way_out = (
                "prepare it again, with captions"
                if manifest.side is None
                else "search its pictures with --modality image"
            )
            raise SpaceError(f"no caption of the data has a word that was kept; {way_out}")
        if text.encoder == "transformer":
            if tower is None or text.weights == "none":
                raise SpaceError(NEEDS_WEIGHTS["text"])
            text = tower(text.weights).bound(text)
        else:
            sizes = {"vocabulary_size": min(text.vocabulary_size, words), "max_tokens": min(text.max_tokens, tokens)}
            text = TextConfig(**{**dict(text), **sizes})
    # Part by part: thousands of drawn configurations are bound before a search.
    model = ModelConfig(**{**dict(config.model), "image": image, "text": text, "num_labels": len(manifest.label_ids)})
    return TrialConfig(model=model, train=config.train)


def _replaced(base: TrialConfig, changes: Mapping[str, Any], group: str) -> TrialConfig:
    for name, value in changes.items():
        check_value(base, name, value, group, name)
    try:
        return replace(base, changes)
    except ValidationError as error:
        raise SpaceError(complaint(error), group) from None


def check_value(base: TrialConfig, name: str, value: Any, *location: str) -> None:
    """Refuses a value that its own field refuses; what is impossible only together shows when it is drawn."""
    try:
        replace(base, {name: value})
    except ValidationError as error:
        path = tuple(name.split("."))
        for detail in error.errors():
            if tuple(str(step) for step in detail["loc"])[-len(path) :] == path:
                message = in_words(detail["msg"])
                raise SpaceError(f"{message}, got {shortened(value)}", *location) from None
