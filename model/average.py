"""Several networks as one: the mean of their calibrated probabilities. Settings alone, no framework."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

from pydantic import Field, model_validator

from captune.model.config import ImageConfig, Modality, ModelConfig, Settings, Storage, TextConfig


class Member(Settings):
    """One network of an average. scale, shift: sigmoid(scale * logit + shift) is its calibrated probability."""

    model: ModelConfig
    scale: float = Field(1.0, gt=0)
    shift: float = 0.0


class Average(Settings):
    """Networks that read the same rows. What it says of itself is what a ModelConfig says, of all members together."""

    members: tuple[Member, ...] = Field(min_length=2, max_length=100)

    @model_validator(mode="after")
    def _members_go_together(self) -> Self:
        models = list(self.models)
        for what in ("num_labels", "storage", "modality"):
            if len({getattr(model, what) for model in models}) > 1:
                raise ValueError(f"members of an average have one {what}")
        if any(model.text is not None and model.text.encoder == "transformer" for model in models):
            raise ValueError("members of an average read words, not the word pieces of a text tower")
        if len({model.image.side for model in models if model.image is not None}) > 1:
            raise ValueError("members of an average have one image.side")
        return self

    @property
    def models(self) -> Iterator[ModelConfig]:
        """Of the members."""
        return (member.model for member in self.members)

    @property
    def image(self) -> ImageConfig | None:
        """How pictures come in, as the member has it that sees the most of them."""
        images = [model.image for model in self.models if model.image is not None]
        return max(images, key=lambda image: image.seen_side, default=None)

    @property
    def text(self) -> TextConfig | None:
        """How captions come in: as many tokens and words as any member reads."""
        texts = [model.text for model in self.models if model.text is not None]
        if not texts:
            return None
        widest = {name: max(getattr(text, name) for text in texts) for name in ("max_tokens", "vocabulary_size")}
        return texts[0].model_copy(update=widest)

    @property
    def num_labels(self) -> int:
        """Outputs."""
        return self.members[0].model.num_labels

    @property
    def storage(self) -> Storage:
        """What kernels and embeddings are shipped as."""
        return self.members[0].model.storage

    @property
    def modality(self) -> Modality:
        """What is read."""
        return self.members[0].model.modality

    @property
    def has_parts(self) -> bool:
        """Whether picture and caption have logits of their own, in all members."""
        return all(model.has_parts for model in self.models)

    def stored_as(self, storage: Storage) -> Average:
        """The same in another storage."""
        members = [member.model_copy(update={"model": member.model.stored_as(storage)}) for member in self.members]
        return self.model_copy(update={"members": tuple(members)})


Network = ModelConfig | Average
"""All that a bundle can hold."""
