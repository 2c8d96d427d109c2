"""What lies beside a bundle or an export for other languages, and that JavaScript answers by it."""

import base64
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from javascript_reader import read_by_javascript
from PIL import Image
from text_towers import MARKS
from text_towers import vocabulary as vocabulary_of_pieces

from captune.data_prep.squares import stretched
from captune.data_prep.store import PreparedData
from captune.model.config import ModelConfig, TextConfig, TrialConfig
from captune.model.flat import replace
from captune.model.presets import PRESETS
from captune.model.rule import RULES, DecisionRule, RuleKind
from captune.tuner.space.space import bind

SMALL = {"text.units": 8, "text.embedding": 8, "text.max_tokens": 9, "image.width": 4, "image.stages": 2}


@pytest.mark.fuzz
@pytest.mark.parametrize("kind", RULES)
@pytest.mark.parametrize("labels", [1, 18, 90])
def test_javascript_decides_as_the_rule_does(kind: RuleKind, labels: int, tmp_path: Path) -> None:
    draw = np.random.default_rng(settings().max_examples)
    raw = (draw.random((settings().max_examples, labels)) ** draw.integers(1, 9, (1, labels))).astype(np.float32)
    raw[:4] = np.array([0, 1, 0.5, 1e-30], np.float32)[:, None]  # all equal, at both ends
    raw[4, ::2] = raw[4, 0]
    for rule in (DecisionRule(0.35, kind), DecisionRule(0.35, kind, 1.35, -0.7)):
        contents = {
            "rule": rule.specification(labels),
            "labels": [{"id": label} for label in range(labels)],
            "text": None,
            "image": None,
        }
        (tmp_path / "classifier.json").write_text(json.dumps(contents))
        answers = read_by_javascript(tmp_path, folder=tmp_path, raw=raw.tolist())["answers"]
        expected = rule.answers(raw)
        assert [each["labels"] for each in answers] == [np.flatnonzero(row).tolist() for row in expected.labels]
        found = np.array([each["probabilities"] for each in answers], np.float32)
        assert np.abs(found - expected.probabilities).max() <= 1.2e-7  # the last bit of a float32 next to 1


def test_javascript_makes_the_same_squares_of_pixels_as_pillow(tmp_path: Path) -> None:
    draw = random.Random(3)
    sizes = [(draw.randint(1, 90), draw.randint(1, 90), draw.randint(1, 64)) for _ in range(60)]
    sizes += [(40, 71, 9), (40, 72, 9), (9, 300, 9), (300, 9, 9), (1, 1, 1), (64, 64, 64), (1, 200, 32)]
    pictures = [
        np.random.default_rng(place).integers(0, 256, (height, width, 3)).astype(np.uint8)
        for place, (width, height, _) in enumerate(sizes)
    ]
    requests = [
        {"pixels": base64.b64encode(pixels.tobytes()).decode(), "width": width, "height": height, "side": side}
        for pixels, (width, height, side) in zip(pictures, sizes, strict=True)
    ]
    squares = read_by_javascript(tmp_path, squares=requests)["squares"]
    for square, pixels, (_, _, side) in zip(squares, pictures, sizes, strict=True):
        assert base64.b64decode(square) == stretched(Image.fromarray(pixels), side).tobytes(), (pixels.shape, side)


def make_bundle(data: PreparedData, modality: str) -> Any:
    """Of a network with random weights, that reads what the modality says, and knows 12 words, or word pieces."""
    from captune.data_prep.captions import Vocabulary
    from captune.data_prep.pieces import Pieces, PieceSettings
    from captune.model.bundle import Bundle
    from captune.model.classifier import build

    config: TrialConfig = bind(replace(PRESETS["compact"], SMALL), data.manifest)
    model = config.model
    if modality == "pieces":
        pytest.importorskip("tokenizers", reason="pip install 'captune[text]'")
        pieces = Pieces(
            tuple(text for text in vocabulary_of_pieces(data.captions) if text not in MARKS), PieceSettings()
        )
        shape = {"layers": 1, "heads": 2, "vocabulary_size": pieces.size, "max_tokens": 9, "embedding": 8, "units": 12}
        model = ModelConfig(text=TextConfig(encoder="transformer", **shape), num_labels=model.num_labels)
    elif modality != "both":
        model = model.model_copy(update={"text" if modality == "image" else "image": None, "fusion": "concatenation"})
    if model.text is not None and modality != "pieces":
        model = model.model_copy(update={"text": model.text.model_copy(update={"vocabulary_size": 14})})
    network = build(model)
    draw = np.random.default_rng(0)
    for weight in network.weights:
        values = draw.normal(0, 0.2, weight.shape)
        weight.assign(np.abs(values) + 1 if "variance" in weight.path else values)
    vocabulary = pieces.to_json() if modality == "pieces" else None
    if vocabulary is None and model.text is not None and data.vocabulary is not None:
        vocabulary = Vocabulary(data.vocabulary.words[:12], data.vocabulary.settings).to_json()
    rule, manifest = DecisionRule(0.0, "expected_f1", 1.3, 0.1), data.manifest
    return Bundle(network, model, rule, manifest.label_ids, manifest.label_names, vocabulary)


@pytest.fixture(scope="module", params=["both", "image", "caption", "pieces"])
def written(request: pytest.FixtureRequest, data: PreparedData, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A bundle, and what lies beside it."""
    from captune.tuner.winner.portable import write_portable

    bundle, folder = make_bundle(data, request.param), tmp_path_factory.mktemp("portable") / "bundle.portable"
    write_portable(folder, bundle, data)
    return bundle, folder


def golden_rows(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "golden.json").read_text(encoding="utf-8"))["rows"]


@pytest.mark.slow
def test_folder_holds_what_is_read_and_no_more(written: Any) -> None:
    bundle, folder = written
    names = {"FORMAT.md", "captune.mjs", "classifier.json", "golden.json"}
    assert {path.name for path in folder.iterdir()} == names | ({"words.json"} if bundle.config.text else set())
    contents = json.loads((folder / "classifier.json").read_text())
    assert [each["id"] for each in contents["labels"]] == list(bundle.label_ids)
    assert (contents["image"] is None, contents["text"] is None) == (
        bundle.config.image is None,
        bundle.config.text is None,
    )


@pytest.mark.slow
def test_golden_rows_are_what_the_bundle_answers(written: Any) -> None:
    from captune.tuner.winner.portable import GOLDEN_ROWS, golden_picture
    from captune.tuner.winner.predict import labels, probabilities

    bundle, folder = written
    rows = golden_rows(folder)
    assert len(rows) == GOLDEN_ROWS
    image = bundle.config.image
    pictures = None if image is None else [golden_picture(row, image.side) for row in range(GOLDEN_ROWS)]
    raw = probabilities(bundle, [row["caption"] for row in rows] if bundle.config.text else None, pictures)
    assert np.abs(np.array([row["raw"] for row in rows]) - raw).max() < 1e-6
    assert np.abs(np.array([row["probabilities"] for row in rows]) - bundle.rule.calibrated(raw)).max() < 1e-6
    assert [tuple(row["labels"]) for row in rows] == labels(bundle, raw)
    assert len({tuple(row["raw"]) for row in rows}) > GOLDEN_ROWS / 2, "rows that tell networks apart"


@pytest.mark.slow
def test_javascript_reads_golden_rows_as_they_are(written: Any, tmp_path: Path) -> None:
    bundle, folder = written
    rows = golden_rows(folder)
    captions = [row["caption"] for row in rows] if bundle.config.text else None
    found = read_by_javascript(tmp_path, folder=folder, captions=captions, raw=[row["raw"] for row in rows])
    assert [each["labels"] for each in found["answers"]] == [row["labels"] for row in rows]
    if captions is not None:
        width = bundle.config.text.max_tokens
        assert found["ids"] == [row["ids"] + [0] * (width - len(row["ids"])) for row in rows]


@pytest.mark.slow
def test_javascript_answers_golden_rows_with_the_exported_file(written: Any, tmp_path: Path) -> None:
    from captune.tuner.winner.formats.declarations import FORMATS
    from captune.tuner.winner.portable import GOLDEN_ROWS, golden_picture

    form = FORMATS["onnx"]
    for package in form.packages:
        pytest.importorskip(package, reason=f"no {package} here; pip install 'captune[{form.extra}]'")
    bundle, folder = written
    form.functions().write(bundle.network, tmp_path / "x.onnx", "float32")
    rows, request = golden_rows(folder), {}
    if bundle.config.text is not None:
        request["captions"] = [row["caption"] for row in rows]
    if bundle.config.image is not None:
        pictures = b"".join(golden_picture(row, bundle.config.image.side).tobytes() for row in range(GOLDEN_ROWS))
        (tmp_path / "pictures").write_bytes(pictures)
        request["pictures"] = tmp_path / "pictures"
    found = read_by_javascript(tmp_path, folder=folder, model=tmp_path / "x.onnx", batch=64, **request)["answers"]
    for name in ("raw", "probabilities"):
        assert np.abs(np.array([each[name] for each in found]) - [row[name] for row in rows]).max() <= 1e-5
    assert [each["labels"] for each in found] == [row["labels"] for row in rows]


@pytest.mark.slow
def test_program_without_a_stemmer_is_right_but_in_rows_that_say_so(data: PreparedData, tmp_path: Path) -> None:
    from captune.tuner.winner.portable import write_portable

    bundle, folder = make_bundle(data, "caption"), tmp_path / "bundle.portable"
    write_portable(folder, bundle, data)
    rows = golden_rows(folder)
    words = folder / "words.json"
    words.write_text(json.dumps({**json.loads(words.read_text()), "words": []}))  # leaves the table alone
    found = read_by_javascript(tmp_path, folder=folder, captions=[row["caption"] for row in rows])["ids"]
    width = bundle.config.text.max_tokens
    differ = [ids != row["ids"] + [0] * (width - len(row["ids"])) for ids, row in zip(found, rows, strict=True)]
    assert differ == [row["stemmed"] for row in rows]
    assert 0 < sum(differ) < len(rows)


@pytest.mark.slow
def test_no_caption_of_the_data_is_shipped(data: PreparedData, tmp_path: Path) -> None:
    from captune.tuner.winner.portable import write_portable

    folder = tmp_path / "bundle.portable"
    write_portable(folder, make_bundle(data, "both"), data)
    shipped = "".join(path.read_text(encoding="utf-8") for path in folder.iterdir())
    long = [caption for caption in data.captions if len(caption.split()) > 3]
    assert long and not [text for text in (*long, *data.image_ids) if text in shipped]


@pytest.mark.slow
def test_captions_are_the_same_ones_each_time_and_also_without_words() -> None:
    from captune.tuner.winner.portable import GOLDEN_ROWS, golden_captions

    assert golden_captions(["dog", "cat"]) == golden_captions(["cat", "dog"])
    assert len(golden_captions([])) == GOLDEN_ROWS


@pytest.mark.slow
def test_format_names_every_field(written: Any) -> None:
    """A field that nobody explains is one that a stranger has to guess."""
    _, folder = written
    contents = json.loads((folder / "classifier.json").read_text())
    text = (folder / "FORMAT.md").read_text(encoding="utf-8")
    fields = {*contents["rule"], *(contents["text"] or {}), *(contents["image"] or {}), *golden_rows(folder)[0]}
    assert not [name for name in fields if f"`{name}`" not in text]
