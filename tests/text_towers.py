"""Small random text towers in BERT's shape, in folders as the transformers library writes them."""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

MARKS = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def vocabulary(captions: Iterable[str]) -> list[str]:
    """The marks, all letters and digits by themselves and within words, and every other word of the captions."""
    words = sorted({word for caption in captions for word in re.findall(r"\w+", caption.lower())})
    letters = list("abcdefghijklmnopqrstuvwxyz0123456789.,'-!")
    return list(dict.fromkeys([*MARKS, *letters, *(f"##{letter}" for letter in letters), *words[::2]]))


class Drawn:
    """Random tensors by the names that PyTorch gives them. width: of what is normalised."""

    def __init__(self, seed: int, width: int) -> None:
        self._draw, self._width = np.random.default_rng(seed), width

    def normal(self, *dimensions: int) -> Any:
        return self._draw.normal(0, 0.3, dimensions).astype(np.float32)

    def norm(self, name: str) -> dict[str, Any]:
        return {f"{name}.weight": 1 + self.normal(self._width), f"{name}.bias": self.normal(self._width)}

    def dense(self, name: str, inputs: int, outputs: int) -> dict[str, Any]:
        weight = self.normal(outputs, inputs) / np.float32(inputs**0.5)
        return {f"{name}.weight": weight, f"{name}.bias": self.normal(outputs)}


def tensors(shape: dict[str, int], size: int, seed: int = 0) -> dict[str, Any]:
    """All of a BertModel by its names, random. shape: keys of config.json."""
    width, hidden = shape["hidden_size"], shape["intermediate_size"]
    drawn = Drawn(seed, width)
    normal, norm, dense = drawn.normal, drawn.norm, drawn.dense

    values = {
        "embeddings.word_embeddings.weight": normal(size, width),
        "embeddings.position_embeddings.weight": normal(shape["max_position_embeddings"], width),
        "embeddings.token_type_embeddings.weight": normal(2, width),
        "embeddings.position_ids": np.arange(shape["max_position_embeddings"])[None],
        **norm("embeddings.LayerNorm"),
        **dense("pooler.dense", width, width),
    }
    for number in range(shape["num_hidden_layers"]):
        name = f"encoder.layer.{number}"
        for part in ("query", "key", "value"):
            values |= dense(f"{name}.attention.self.{part}", width, width)
        values |= dense(f"{name}.attention.output.dense", width, width)
        values |= norm(f"{name}.attention.output.LayerNorm")
        values |= dense(f"{name}.intermediate.dense", width, hidden)
        values |= dense(f"{name}.output.dense", hidden, width)
        values |= norm(f"{name}.output.LayerNorm")
    return values


def write_tower(
    folder: Path,
    captions: Iterable[str],
    *,
    layers: int = 2,
    heads: int = 2,
    width: int = 8,
    hidden: int = 12,
    seed: int = 0,
) -> Path:
    """A whole folder for these captions, which has the captions' letters and half of their words as pieces."""
    folder.mkdir(parents=True)
    pieces = vocabulary(captions)
    shape = {
        "hidden_size": width,
        "intermediate_size": hidden,
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "max_position_embeddings": 40,
    }
    content = {"model_type": "bert", "hidden_act": "gelu", "layer_norm_eps": 1e-12, **shape}
    (folder / "config.json").write_text(json.dumps(content))
    write_tokenizer(folder, pieces)
    save_file(tensors(shape, len(pieces), seed), folder / "model.safetensors")
    return folder


def write_tokenizer(folder: Path, pieces: Sequence[str], **normalizer: Any) -> None:
    """tokenizer.json with this vocabulary."""
    model = {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##"}
    content = {
        "normalizer": {
            "type": "BertNormalizer",
            "lowercase": True,
            "strip_accents": None,
            "clean_text": True,
            "handle_chinese_chars": True,
            **normalizer,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "model": model | {"max_input_chars_per_word": 100, "vocab": {p: place for place, p in enumerate(pieces)}},
    }
    (folder / "tokenizer.json").write_text(json.dumps(content))
