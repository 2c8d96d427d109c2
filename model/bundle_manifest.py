"""What a bundle says of itself, written last and held against its files first; no framework is needed for it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import StrictInt, StrictStr, TypeAdapter, ValidationError

from captune.errors import UsageError, one_line
from captune.model.average import Average, Network
from captune.model.config import ModelConfig, complaint
from captune.model.layout import MANIFEST
from captune.model.rule import DecisionRule
from captune.reading import UnreadableError, json_object, sha256

FORMAT = 3
_OF_AVERAGE = 4  # the format with several members in the place of the one model
_WITH_THRESHOLD = 2  # the format whose rule is a threshold for the network's own probabilities
WEIGHTS = "weights.safetensors"
VOCABULARY = "vocabulary.json"
_INSIDE = ("winner/bundle", "bundle")  # of a run, of its winner's folder
_LABEL_IDS, _LABEL_NAMES = TypeAdapter(tuple[StrictInt, ...]), TypeAdapter(tuple[StrictStr, ...])
_WORDS = TypeAdapter(list[StrictStr])


class BundleError(UsageError):
    """A folder that is no bundle, or one that was changed or cut short."""


@dataclass(frozen=True)
class BundleManifest:
    """The network of a bundle, the rule that turns probabilities into labels, and the labels: ids rise."""

    config: Network
    rule: DecisionRule
    label_ids: tuple[int, ...]
    label_names: tuple[str, ...]

    def __post_init__(self) -> None:
        if not len(self.label_ids) == len(self.label_names) == self.config.num_labels:
            raise ValueError("label_ids and label_names are not as many as the network has outputs")
        if list(self.label_ids) != sorted(set(self.label_ids)) or self.label_ids[0] < 0:
            raise ValueError("label_ids are not rising numbers")

    def write(self, folder: Path) -> None:
        """Makes a folder with all other files in it a bundle."""
        average = isinstance(self.config, Average)
        config = self.config.model_dump()
        # The weights are inside: where they once came from, and which were trained, is history.
        for model in [member["model"] for member in config["members"]] if average else [config]:
            for encoder in filter(None, (model["image"], model["text"])):
                encoder |= {"weights": "none", "frozen": False}
        content: dict[str, Any] = {
            "format": _OF_AVERAGE if average else FORMAT,
            **(config if average else {"model": config}),
            "rule": asdict(self.rule),
            "label_ids": self.label_ids,
            "label_names": self.label_names,
            "sha256": {file.name: sha256(file) for file in sorted(folder.iterdir())},
        }
        content["sha256"][MANIFEST] = _own_sum(content)
        (folder / MANIFEST).write_text(json.dumps(content, indent=1), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> BundleManifest:
        """Of the bundle in a folder, all whose files are as they were written.

        Raises:
            BundleError: no bundle, a newer format, or a file that is not as it was written.
        """
        try:
            content = json_object(path / MANIFEST)
        except UnreadableError as error:
            inside = next((path / place for place in _INSIDE if (path / place / MANIFEST).is_file()), None)
            other = "a folder that refit or export made" if inside is None else inside
            raise BundleError(f"{path} is not a bundle ({one_line(error)}); name {other}") from None
        if content.get("format") not in (_WITH_THRESHOLD, FORMAT, _OF_AVERAGE):
            version = one_line(repr(content.get("format")), 40)
            raise BundleError(
                f"{path} has bundle format {version}, this captune reads formats {_WITH_THRESHOLD} to {_OF_AVERAGE}; "
                "use a matching version"
            )
        sums = content.get("sha256")
        if not isinstance(sums, dict) or sums.get(MANIFEST) != _own_sum(content):
            raise BundleError(f"{path / MANIFEST} is not as it was written (SHA-256 differs); export it again")
        for name in sorted({WEIGHTS, *sums} - {MANIFEST}):
            if name not in (WEIGHTS, VOCABULARY) or not (path / name).is_file():
                raise BundleError(f"{path} is not whole: {one_line(name, 60)} is missing or unknown; export it again")
            if sha256(path / name) != sums.get(name):
                raise BundleError(f"{path / name} is not as it was written (SHA-256 differs); export it again")
        try:
            config = (
                Average.model_validate({"members": content["members"]})
                if content["format"] == _OF_AVERAGE
                else ModelConfig.model_validate(content["model"])
            )
            ids, names = (
                _LABEL_IDS.validate_python(content["label_ids"]),
                _LABEL_NAMES.validate_python(content["label_names"]),
            )
            rule = {"value": content["threshold"]} if content["format"] == _WITH_THRESHOLD else content["rule"]
            manifest = cls(config, DecisionRule(**rule), ids, names)
            if (config.text is None) == (VOCABULARY in sums):
                raise ValueError(f"{VOCABULARY} belongs to a network that reads captions")
            if config.text is not None:
                kind = "pieces" if config.text.encoder == "transformer" else "words"
                words = _WORDS.validate_python(json_object(path / VOCABULARY).get(kind))
                if len(words) > config.text.vocabulary_size - config.text.marks:
                    raise ValueError(f"{VOCABULARY} has more words than the network reads")
        except (ValueError, TypeError, KeyError) as error:
            reason = complaint(error) if isinstance(error, ValidationError) else str(error)
            raise BundleError(f"{path / MANIFEST} cannot be read ({one_line(reason, 200)}); export it again") from None
        return manifest


def _own_sum(content: dict[str, Any]) -> str:
    """Sum of the manifest itself, all but the place where this sum stands."""
    others = {name: value for name, value in content["sha256"].items() if name != MANIFEST}
    return hashlib.sha256(json.dumps({**content, "sha256": others}, sort_keys=True).encode()).hexdigest()
