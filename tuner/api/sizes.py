"""Bytes of a configuration, before anything is built."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from captune.model.config import Storage
from captune.model.presets import PRESETS
from captune.model.size import DEFAULT_BUDGET, Budget, Measure, Size, refusal, show_bytes, would_fit
from captune.model.size import size as count
from captune.model.text_towers import shaped as text_shaped
from captune.model.vision_towers import shaped as vision_shaped
from captune.tuner.api.caller import left_as_it_was
from captune.tuner.space.config import check_overrides, check_preset, read_trial_config


@dataclass(frozen=True)
class SizeReport:
    """What a network takes, and whether it fits.

    refusal: why it does not fit, in one line; None where it does. would_fit: changes of one setting that would make it
    fit.

    Example:
        >>> report = captune.size("paper", budget="75MiB")
        >>> report.fits, report.margin_bytes
        (False, -26033928)
    """

    size: Size
    budget: Budget
    refusal: str | None
    would_fit: tuple[str, ...]
    vocabulary: int | None  # of captions, where they are read; a search has that of its data where it is smaller

    @property
    def fits(self) -> bool:
        """Whether the budget holds it."""
        return self.refusal is None

    @property
    def margin_bytes(self) -> int:
        """What is left of the budget; below zero it is over."""
        return self.budget.limit - self.budget.bytes_of(self.size)

    def __str__(self) -> str:
        size, words = self.size, self.vocabulary
        vocabulary = "vocabulary" if words is None else f"a vocabulary of {words:,} (or fewer in the data)"
        return "\n".join(
            [
                f"parameters     {size.parameters:,} ({size.trainable:,} trainable, {size.frozen:,} frozen)",
                *(f"{part:14} {show_bytes(share)}" for part, share in size.parts.items()),
                f"weights        {show_bytes(size.weights_bytes)} as {size.storage}",
                f"bundle         {show_bytes(size.bundle_bytes)} at most, with {vocabulary} and container",
                f"budget         {self.budget}: {'fits' if self.fits else 'does not fit'}",
            ]
        )


@left_as_it_was()
def size(
    preset: str | None = None,
    *,
    config: str | Path | None = None,
    budget: str | int = DEFAULT_BUDGET,
    measure: Measure = "weights",
    storage: Storage | None = None,
) -> SizeReport:
    """Bytes of a preset or of a configuration in a YAML file, from shapes alone.

    Args:
        preset: paper (if neither is named), captions, compact, photos or full.
        config: a YAML file: `preset`, and dotted names that change it.
        budget: bytes, or a text like "100MiB" (2**20) or "100MB" (10**6).
        measure: what the budget counts: "weights" or the whole "bundle".
        storage: "float32", "float16", "int8" or "int4"; that of the configuration if None.

    Raises:
        ConfigError: an unknown preset, a file that cannot be read, a value that cannot be.
        WeightsError: a transformer whose folder is not there.

    Example:
        >>> report = captune.size("paper")
        >>> report.size.parameters, report.size.weights_bytes, report.fits
        (26169282, 104677128, True)
        >>> print(captune.size("paper", storage="float16"))
        parameters     26,169,282 (26,116,162 trainable, 53,120 frozen)
        image encoder  45.74 MiB (47.97 MB)
        text encoder   4.42 MiB (4.63 MB)
        head           0.01 MiB (0.01 MB)
        weights        50.17 MiB (52.61 MB) as float16
        bundle         50.31 MiB (52.76 MB) at most, with a vocabulary of 10,000 (or fewer in the data) and container
        budget         100.00 MiB (104.86 MB) of weights: fits
    """
    given = check_overrides({"budget": budget, "measure": measure, "storage": storage})
    if config is not None:
        model = read_trial_config(Path(config)).model
    else:
        check_preset(preset or "paper")
        model = PRESETS[preset or "paper"].model
    if model.text is not None and model.text.encoder == "transformer" and model.text.weights != "none":
        model = model.model_copy(update={"text": text_shaped(model.text)})
    if model.image is not None and model.image.backbone == "transformer" and model.image.weights != "none":
        model = model.model_copy(update={"image": vision_shaped(model.image)})
    if storage is not None:
        model = model.model_copy(update={"storage": storage})
    held, found = Budget(given["budget"], measure), count(model)
    why = refusal(found, held)
    changes = tuple(would_fit(model, held)) if why is not None else ()
    return SizeReport(found, held, why, changes, None if model.text is None else model.text.vocabulary_size)
