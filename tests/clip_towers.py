"""Small random towers in CLIP's shape, in folders as the transformers library writes them."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from safetensors.numpy import save_file
from text_towers import Drawn

START, END = "<|startoftext|>", "<|endoftext|>"


def byte_pairs(captions: Iterable[str], joins: int) -> tuple[list[str], list[tuple[str, str]]]:
    """Single letters, within a word and at its end, and so many of the commonest pairs: a vocabulary and its merges."""
    words = Counter(word for caption in captions for word in caption.lower().split())
    cut = {word: [*word[:-1], f"{word[-1]}</w>"] for word in words}
    letters = list("abcdefghijklmnopqrstuvwxyz0123456789.,'-!?")
    vocabulary, merges = [*letters, *(f"{letter}</w>" for letter in letters)], list[tuple[str, str]]()
    for _ in range(joins):
        pairs = Counter[tuple[str, str]]()
        for word, parts in cut.items():
            for pair in pairwise(parts):
                # Of CLIP's, too, no two pairs are joined to the same.
                if {*pair} <= {*vocabulary} and "".join(pair) not in vocabulary:
                    pairs[pair] += words[word]
        if not pairs:
            break
        left, right = best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        vocabulary.append(left + right)
        for parts in cut.values():
            place = 0
            while place < len(parts) - 1:
                if parts[place : place + 2] == [left, right]:
                    parts[place : place + 2] = [left + right]
                place += 1
    return [*vocabulary, START, END], merges


def write_tokenizer(folder: Path, vocabulary: Sequence[str], merges: Sequence[tuple[str, str]]) -> None:
    """tokenizer.json as the fast tokenizer of a CLIP model is saved."""
    pattern = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Removed", "invert": True}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    blanks = {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "}
    content = {
        "version": "1.0",
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, blanks, {"type": "Lowercase"}]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, level]},
        "model": {
            "type": "BPE",
            "unk_token": END,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "</w>",
            "fuse_unk": False,
            "vocab": {text: place for place, text in enumerate(vocabulary)},
            "merges": [f"{left} {right}" for left, right in merges],
        },
    }
    (folder / "tokenizer.json").write_text(json.dumps(content))


def write_files(folder: Path, vocabulary: Sequence[str], merges: Sequence[tuple[str, str]]) -> None:
    """vocab.json and merges.txt, as the slow one is."""
    (folder / "vocab.json").write_text(json.dumps({text: place for place, text in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{left} {right}\n" for left, right in merges))


def tensors(shape: dict[str, int], size: int, seed: int = 0) -> dict[str, Any]:
    """The text tower of a CLIPModel by its names, and some of what stands beside it. shape: keys of config.json."""
    width, hidden = shape["hidden_size"], shape["intermediate_size"]
    drawn = Drawn(seed, width)
    values = {
        "logit_scale": drawn.normal(1),
        "text_projection.weight": drawn.normal(5, width),
        "text_model.embeddings.token_embedding.weight": drawn.normal(size, width),
        "text_model.embeddings.position_embedding.weight": drawn.normal(shape["max_position_embeddings"], width),
        **drawn.norm("text_model.final_layer_norm"),
    }
    return values | _layers(drawn, "text_model", shape["num_hidden_layers"], width, hidden)


VISION = {
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "patch_size": 6,
    "image_size": 20,
}
"""Keys of `vision_config`: nine patches, and a border that is not seen."""


def vision_tensors(shape: dict[str, int], seed: int = 1) -> dict[str, Any]:
    """The tower of pictures of a CLIPModel by its names, and its projection. shape: keys of config.json."""
    width, hidden, patch = shape["hidden_size"], shape["intermediate_size"], shape["patch_size"]
    drawn = Drawn(seed, width)
    values = {
        "visual_projection.weight": drawn.normal(5, width),
        "vision_model.embeddings.class_embedding": drawn.normal(width),
        "vision_model.embeddings.patch_embedding.weight": drawn.normal(width, 3, patch, patch) / patch,
        "vision_model.embeddings.position_embedding.weight": drawn.normal(
            1 + (shape["image_size"] // patch) ** 2, width
        ),
        **drawn.norm("vision_model.pre_layrnorm"),
        **drawn.norm("vision_model.post_layernorm"),
    }
    return values | _layers(drawn, "vision_model", shape["num_hidden_layers"], width, hidden)


def _layers(drawn: Drawn, tower: str, count: int, width: int, hidden: int) -> dict[str, Any]:
    values = dict[str, Any]()
    for number in range(count):
        name = f"{tower}.encoder.layers.{number}"
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            values |= drawn.dense(f"{name}.self_attn.{part}", width, width)
        values |= drawn.norm(f"{name}.layer_norm1") | drawn.norm(f"{name}.layer_norm2")
        values |= drawn.dense(f"{name}.mlp.fc1", width, hidden) | drawn.dense(f"{name}.mlp.fc2", hidden, width)
    return values


def write_clip(
    folder: Path, captions: Iterable[str], *, layers: int = 2, heads: int = 2, width: int = 8, joins: int = 60
) -> Path:
    """A whole folder of a CLIPModel, both towers, whose vocabulary is of these captions."""
    folder.mkdir(parents=True)
    vocabulary, merges = byte_pairs(captions, joins)
    shape = {
        "hidden_size": width,
        "intermediate_size": 12,
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "max_position_embeddings": 40,
    }
    content = {"model_type": "clip", "projection_dim": 5, "text_config": shape, "vision_config": VISION}
    (folder / "config.json").write_text(json.dumps(content))
    write_tokenizer(folder, vocabulary, merges)
    save_file(tensors(shape, len(vocabulary)) | vision_tensors(VISION), folder / "model.safetensors")
    return folder
