"""The bundle: the same network comes back or one line says why not, and nothing in it is ever executed."""

import hashlib
import json
import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import rest_in_soak
from numpy.typing import NDArray

from captune.model.config import ImageConfig, ModelConfig, TextConfig

pytestmark = pytest.mark.slow

IMAGE = ImageConfig(side=32, width=4, stages=2, units=5)
TEXT = TextConfig(vocabulary_size=6, max_tokens=4, embedding=3, units=5, dense=4)
VOCABULARY = json.dumps({"settings": {}, "words": ["dog", "chat noir", "Straße", "犬"]}, ensure_ascii=False)
PIXELS = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
TOKENS = np.array([[2, 3, 5, 0], [1, 4, 2, 2], [0, 0, 0, 0]], np.int32)
FILES = ["bundle.json", "vocabulary.json", "weights.safetensors"]
ABSENT = object()


def bundle(config: ModelConfig, **changes: Any) -> Any:
    import keras

    from captune.model.bundle import Bundle
    from captune.model.classifier import build
    from captune.model.rule import DecisionRule

    keras.utils.clear_session()
    keras.utils.set_random_seed(4)
    network = build(config)
    rng = np.random.default_rng(1)
    for weight in network.weights:  # batch-norm statistics and biases too: a mix-up must show
        drawn = rng.normal(0.5, 0.2, weight.shape)
        weight.assign(abs(drawn) if "variance" in weight.name else drawn)
    values = {
        "network": network,
        "config": config,
        "rule": DecisionRule(0.35, "relative", 1.25, -0.5),
        "label_ids": (1, 2, 13),
        "label_names": ("person", "bicycle", "stop sign"),
        "vocabulary": VOCABULARY if config.text is not None else None,
        **changes,
    }
    return Bundle(**values)


def probabilities(network: Any) -> NDArray[np.float32]:
    inputs = {"image": PIXELS, "caption": TOKENS}
    return np.asarray(network.predict_on_batch({x.name: inputs[x.name] for x in network.inputs}))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of both encoders, convolution over tokens, that no test may change."""
    path = tmp_path_factory.mktemp("bundle") / "whole"
    bundle(ModelConfig(image=IMAGE, text=TEXT, num_labels=3)).save(path)
    return path


@pytest.fixture
def copy(written: Path, tmp_path: Path) -> Path:
    """The same, to be harmed."""
    return Path(shutil.copytree(written, tmp_path / "copy"))


def refused(path: Path) -> str:
    from captune.model.bundle import Bundle
    from captune.model.bundle_manifest import BundleError

    with pytest.raises(BundleError) as caught:
        Bundle.load(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def rewritten(path: Path, *, seal: bool = True, **changes: Any) -> None:
    """The manifest with keys changed, its own sum put right: by someone who means harm, or an older version."""
    from captune.model.bundle_manifest import _own_sum

    manifest = json.loads((path / "bundle.json").read_text()) | changes
    manifest = {key: value for key, value in manifest.items() if value is not ABSENT}
    if seal and isinstance(manifest.get("sha256"), dict):
        manifest["sha256"]["bundle.json"] = _own_sum(manifest)
    (path / "bundle.json").write_text(json.dumps(manifest))


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def resealed(path: Path, name: str) -> None:
    """The manifest with the sum of a changed file put right."""
    sums = json.loads((path / "bundle.json").read_text())["sha256"]
    rewritten(path, sha256={**sums, name: digest(path / name)})


# There and back


def test_bundle_of_a_frozen_backbone_from_a_file_needs_the_file_no_more(tmp_path: Path) -> None:
    import keras

    from captune.model.bundle import Bundle

    source = tmp_path / "mobile.weights.h5"
    keras.applications.MobileNetV3Small(include_top=False, weights=None, input_shape=(32, 32, 3)).save_weights(source)
    image = ImageConfig(backbone="MobileNetV3Small", side=32, weights=str(source), frozen=True, units=4)
    saved = bundle(ModelConfig(image=image, text=TEXT, num_labels=3))
    before = probabilities(saved.network)
    assert np.isfinite(before).all()
    saved.save(tmp_path / "x")
    source.unlink()
    loaded = Bundle.load(tmp_path / "x")
    assert (probabilities(loaded.network) == before).all()
    assert str(tmp_path) not in (tmp_path / "x" / "bundle.json").read_text()


def test_loading_does_not_depend_on_what_the_process_has_built_before(tmp_path: Path) -> None:
    from captune.model.bundle import Bundle
    from captune.model.classifier import build

    config = ModelConfig(image=IMAGE, text=TEXT, fusion="gated", num_labels=3)
    saved = bundle(config)
    saved.save(tmp_path / "x")
    for _ in range(2):
        build(config)
    assert (probabilities(Bundle.load(tmp_path / "x").network) == probabilities(saved.network)).all()


LAYOUT = {
    "compact_stem_convolution/kernel": (3, 3, 3, 4),
    "compact_1_0_convolution/kernel": (3, 3, 4, 8),
    "compact_2_0_convolution/kernel": (3, 3, 8, 16),
    **{
        f"compact_{place}_norm/{vector}": (channels,)
        for place, channels in (("stem", 4), ("1_0", 8), ("2_0", 16))
        for vector in ("gamma", "beta", "moving_mean", "moving_variance")
    },
    "image_dense/kernel": (16, 5),
    "image_dense/bias": (5,),
    "text_embedding/embeddings": (6, 3),
    **{
        f"text_bilstm/{direction}_lstm/lstm_cell/{name}": shape
        for direction in ("forward", "backward")
        for name, shape in (("kernel", (3, 20)), ("recurrent_kernel", (5, 20)), ("bias", (20,)))
    },
    "text_dense/kernel": (10, 4),
    "text_dense/bias": (4,),
    "fusion_gate/kernel": (9, 9),
    "fusion_gate/bias": (9,),
    "head_dense/kernel": (9, 4),
    "head_dense/bias": (4,),
    "logits/kernel": (4, 3),
    "logits/bias": (3,),
}


def test_weights_have_the_same_names_however_many_networks_the_process_has_built() -> None:
    from captune.model.bundle import stored
    from captune.model.classifier import build

    config = bilstm("int8")
    for _ in range(3):  # without clear_session: Keras numbers its layers on
        tensors = stored(build(config), "int8")
        assert {name: tensor.shape for name, tensor in tensors.items() if not name.endswith(".scale")} == LAYOUT
        matrices = {name for name, shape in LAYOUT.items() if len(shape) > 1 and int(np.prod(shape[:-1])) >= 4}
        assert {name.removesuffix(".scale") for name in tensors if name.endswith(".scale")} == matrices
        assert "text_bilstm/forward_lstm/lstm_cell/kernel" not in matrices  # 3 values a channel


def test_tensors_of_a_named_backbone_are_numbered_in_the_second_network_as_in_the_first() -> None:
    from captune.model.bundle import stored
    from captune.model.classifier import build

    config = ModelConfig(image=ImageConfig(backbone="MobileNetV3Small", side=32, units=0), num_labels=3)
    first, second = (
        {name: tensor.shape for name, tensor in stored(build(config), "float32").items()} for _ in range(2)
    )
    assert first == second
    assert list(first)[:206] == [f"image_backbone/{place:03d}" for place in range(206)]
    assert list(first)[206:] == ["logits/kernel", "logits/bias"]


# Storage


def bilstm(storage: Any) -> ModelConfig:
    text = TEXT.model_copy(update={"encoder": "bilstm"})
    return ModelConfig(image=IMAGE, text=text, fusion="gated", head_units=4, num_labels=3, storage=storage)


STORED = [
    *(bilstm(storage) for storage in ("float32", "float16", "int8", "int4")),
    ModelConfig(image=IMAGE.model_copy(update={"blocks": 3, "pooling": "both"}), num_labels=3),
    ModelConfig(image=IMAGE, text=TEXT, num_labels=3),
    *(
        ModelConfig(image=ImageConfig(backbone="MobileNetV3Small", side=32, units=8), num_labels=3, storage=storage)
        for storage in ("float32", "float16", "int8", "int4")
    ),
    *(
        ModelConfig(text=TEXT.model_copy(update={"encoder": encoder, "units": 9}), num_labels=3, storage=storage)
        for encoder in ("bilstm", "lstm", "gru", "convolution", "average")
        for storage in ("float32", "int8", "int4")
    ),
]


@pytest.mark.parametrize("config", rest_in_soak(STORED, *STORED[::5]))
def test_loaded_bundle_is_the_saved_one_after_its_weights_went_through_storage_and_saved_again_the_same_files(
    tmp_path: Path, config: ModelConfig
) -> None:
    from captune.model.bundle import Bundle
    from captune.model.training import put_through

    saved = bundle(config)
    unrounded = [values.tobytes() for values in saved.network.get_weights()]
    saved.save(tmp_path / "x")
    assert [values.tobytes() for values in saved.network.get_weights()] == unrounded
    files = content(tmp_path / "x")
    (tmp_path / "x").rename(tmp_path / "moved")
    loaded = Bundle.load(tmp_path / "moved")
    put_through(saved.network, config.storage)
    rounded = [values.tobytes() for values in saved.network.get_weights()]
    assert (rounded == unrounded) == (config.storage == "float32")
    assert [values.tobytes() for values in loaded.network.get_weights()] == rounded
    assert (probabilities(loaded.network) == probabilities(saved.network)).all()
    assert replace(loaded, network=None) == replace(saved, network=None)
    assert list(files) == [name for name in FILES if name != "vocabulary.json" or config.text is not None]
    loaded.save(tmp_path / "again")
    assert content(tmp_path / "again") == files


@pytest.mark.parametrize("storage", ["int8", "int4"])
def test_scales_that_leave_the_range_of_numbers_are_refused(tmp_path: Path, storage: Any) -> None:
    from safetensors.numpy import load_file, save_file

    bundle(ModelConfig(text=TEXT, num_labels=3, storage=storage)).save(tmp_path / "x")
    tensors = load_file(tmp_path / "x" / "weights.safetensors")
    largest = 3e38 if storage == "int8" else np.inf
    scales = {name: np.full_like(values, largest) for name, values in tensors.items() if name.endswith(".scale")}
    save_file(tensors | scales, tmp_path / "x" / "weights.safetensors")
    resealed(tmp_path / "x", "weights.safetensors")
    assert "no number" in refused(tmp_path / "x")


def test_int4_of_another_shape_is_refused(tmp_path: Path) -> None:
    """Of as many bytes: two scales that changed their places with four packed values."""
    from safetensors.numpy import load_file, save_file

    bundle(ModelConfig(text=TEXT, num_labels=3, storage="int4")).save(tmp_path / "x")
    tensors = load_file(tmp_path / "x" / "weights.safetensors")
    tensors["logits/kernel"] = np.append(tensors["logits/kernel"], np.zeros(2, np.uint8))
    tensors["logits/kernel.scale"] = tensors["logits/kernel.scale"][:, :-1]
    save_file(tensors, tmp_path / "x" / "weights.safetensors")
    resealed(tmp_path / "x", "weights.safetensors")
    assert "logits/kernel is no int4 tensor of (4, 3)" in refused(tmp_path / "x")


@pytest.mark.parametrize("storage", ["float32", "float16", "int8", "int4"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_bundle_with_a_weight_that_is_no_number_is_refused(tmp_path: Path, storage: Any, bad: float) -> None:
    saved = bundle(ModelConfig(text=TEXT, num_labels=3, storage=storage))
    kernel = saved.network.get_layer("logits").kernel
    values = np.asarray(kernel.value)
    kernel.assign(np.where(np.arange(values.size).reshape(values.shape) == 4, bad, values))
    saved.save(tmp_path / "x")
    assert "no number" in refused(tmp_path / "x")


@pytest.mark.parametrize("place", ["winner/bundle", "bundle"])
def test_folder_around_a_bundle_is_no_bundle_and_the_one_in_it_is_named(copy: Path, tmp_path: Path, place: str) -> None:
    run = tmp_path / "run"
    (run / place).parent.mkdir(parents=True)
    copy.rename(run / place)
    assert f"name {run / place}" in refused(run)


def test_pipe_in_place_of_the_manifest_is_refused_and_not_waited_for(copy: Path) -> None:
    (copy / "bundle.json").unlink()
    os.mkfifo(copy / "bundle.json")
    assert "is not a bundle" in refused(copy)


@pytest.mark.parametrize(
    "changes", [{"label_ids": [1, "x", 13]}, {"label_ids": [1, 2.5, 13]}, {"label_names": [1, 2, 3]}]
)
def test_labels_of_another_type_are_refused(copy: Path, changes: dict[str, Any]) -> None:
    rewritten(copy, **changes)
    assert "cannot be read" in refused(copy)


def test_folder_beside_that_is_named_like_a_temporary_one_stays(tmp_path: Path) -> None:
    (tmp_path / "x.tmp").mkdir()
    (tmp_path / "x.tmp" / "notes.txt").write_text("mine")
    bundle(ModelConfig(text=TEXT, num_labels=3)).save(tmp_path / "x")
    assert sorted(path.name for path in tmp_path.rglob("*.t*")) == ["notes.txt", "x.tmp"]


def test_folder_holds_three_files_of_which_all_bytes_are_counted(written: Path) -> None:
    from captune.model.bundle import measured_bytes

    assert sorted(path.name for path in written.iterdir()) == FILES
    assert measured_bytes(written) == sum((written / name).stat().st_size for name in FILES)
    assert measured_bytes(written / "bundle.json") == (written / "bundle.json").stat().st_size


# Writing


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_existing_target_is_refused_and_left_as_it_is(tmp_path: Path, kind: str) -> None:
    from captune.model.bundle_manifest import BundleError

    target = tmp_path / "x"
    if kind == "folder":
        target.mkdir()
        (target / "mine").write_text("kept")
    else:
        target.write_text("kept")
    with pytest.raises(BundleError, match="exists"):
        bundle(ModelConfig(text=TEXT, num_labels=3)).save(target)
    assert (target / "mine" if kind == "folder" else target).read_text() == "kept"


@pytest.mark.parametrize("step", ["weights", "vocabulary", "manifest", "rename"])
def test_interrupted_save_leaves_nothing_that_loads_and_may_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    from captune.model.bundle import Bundle

    saved = bundle(ModelConfig(text=TEXT, num_labels=3))
    write = Path.write_text

    def cut(self: Path, content: str, **options: Any) -> int:
        if self.name == {"vocabulary": "vocabulary.json", "manifest": "bundle.json"}.get(step):
            write(self, content[: len(content) // 2], **options)
            raise KeyboardInterrupt
        return write(self, content, **options)

    def cut_bytes(self: Path, content: bytes) -> int:
        with self.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise KeyboardInterrupt

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_text", cut)
    if step == "weights":
        monkeypatch.setattr(Path, "write_bytes", cut_bytes)
    if step == "rename":
        monkeypatch.setattr(Path, "rename", stop)
    with pytest.raises(KeyboardInterrupt):
        saved.save(tmp_path / "x")
    assert not (tmp_path / "x").exists()
    refused(tmp_path / "x")
    if step != "rename":
        for remains in tmp_path.iterdir():
            refused(remains)
    monkeypatch.undo()
    saved.save(tmp_path / "x")
    assert Bundle.load(tmp_path / "x").label_ids == (1, 2, 13)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


# Harmed files


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("place", [0.0, 0.3, 0.6, 0.99])
def test_one_flipped_bit_in_any_file_is_found(copy: Path, name: str, place: float) -> None:
    content = bytearray((copy / name).read_bytes())
    content[int(place * len(content))] ^= 1
    (copy / name).write_bytes(content)
    assert name in refused(copy)


def test_changed_rule_is_found(copy: Path) -> None:
    rewritten(copy, seal=False, rule={"value": 0.36, "kind": "relative", "scale": 1.25, "shift": -0.5})
    assert "SHA-256" in refused(copy)


@pytest.mark.parametrize("name", FILES)
def test_missing_file_is_named(copy: Path, name: str) -> None:
    (copy / name).unlink()
    assert name in refused(copy)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("share", [0, 0.5, -1])
def test_file_that_was_cut_short_is_found(copy: Path, name: str, share: float) -> None:
    content = (copy / name).read_bytes()
    (copy / name).write_bytes(content[: int(share * len(content)) if share >= 0 else -1])
    assert name in refused(copy)


def test_swapped_files_are_found(copy: Path) -> None:
    (copy / "vocabulary.json").rename(copy / "aside")
    (copy / "weights.safetensors").rename(copy / "vocabulary.json")
    (copy / "aside").rename(copy / "weights.safetensors")
    refused(copy)


def test_weights_of_another_bundle_are_found(copy: Path, tmp_path: Path) -> None:
    bundle(ModelConfig(image=IMAGE, text=TEXT, fusion="gated", num_labels=3)).save(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "weights.safetensors", copy)
    assert "weights.safetensors" in refused(copy)


@pytest.mark.parametrize("content", ["", "{}", "null", "[]", "3", '"x"', "{", "\x00", "[" * 100_000])
def test_folder_without_a_readable_manifest_is_no_bundle(copy: Path, content: str) -> None:
    (copy / "bundle.json").write_text(content)
    refused(copy)


def test_what_is_no_folder_or_not_there_is_no_bundle(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path, tmp_path / "nowhere", tmp_path / "file"):
        assert "is not a bundle" in refused(path)


# Manifests that are whole but wrong


@pytest.mark.parametrize("number", [1, 5, 0, None, "2", [2]])
def test_other_format_is_refused_with_both_numbers_and_what_to_do(copy: Path, number: Any) -> None:
    rewritten(copy, format=number)
    assert f"format {number!r}, this captune reads formats 2 to 4; use a matching version" in refused(copy)


def test_bundle_of_the_format_before_has_a_threshold_and_no_calibration(copy: Path) -> None:
    from captune.model.bundle import Bundle
    from captune.model.rule import DecisionRule

    rewritten(copy, format=2, threshold=0.36, rule=ABSENT)
    before = Bundle.load(copy)
    assert before.rule == DecisionRule(0.36, "threshold", 1.0, 0.0)
    before.save(copy.parent / "again")
    assert Bundle.load(copy.parent / "again").rule == before.rule


def test_bundle_of_the_first_format_is_refused_by_its_format_though_all_else_differs_too(tmp_path: Path) -> None:
    """Format 1 had one file of float32 weights under Keras's paths, and a network without a storage."""
    from safetensors.numpy import save_file

    from captune.model.bundle_manifest import _own_sum

    config = ModelConfig(text=TEXT, num_labels=3).model_dump()
    del config["storage"]
    save_file({"captune/logits/kernel": np.zeros((4, 3), np.float32)}, tmp_path / "weights.safetensors")
    (tmp_path / "vocabulary.json").write_text(VOCABULARY)
    manifest = {"format": 1, "model": config, "threshold": 0.3, "label_ids": [1, 2, 3], "label_names": ["a", "b", "c"]}
    manifest["sha256"] = {name: digest(tmp_path / name) for name in ("weights.safetensors", "vocabulary.json")}
    manifest["sha256"]["bundle.json"] = _own_sum(manifest)
    (tmp_path / "bundle.json").write_text(json.dumps(manifest))
    assert "bundle format 1, this captune reads formats 2 to 4" in refused(tmp_path)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "other.bin", "", ".", "weights.safetensors/x"])
def test_sum_of_a_file_that_is_not_a_bundles_own_is_refused_unread(copy: Path, name: str) -> None:
    (copy.parent / "secret").write_text("secret")
    sums = json.loads((copy / "bundle.json").read_text())["sha256"]
    rewritten(copy, sha256={**sums, name: digest(copy.parent / "secret")})
    assert "missing or unknown" in refused(copy)


@pytest.mark.parametrize(
    "changes",
    [
        {"sha256": {}},
        {"sha256": []},
        {"sha256": None},
        {"sha256": "x"},
        {"sha256": 3},
        {"model": None},
        {"model": {}},
        {"model": {"text": {"units": -1}}},
        {"model": "x"},
        {"rule": None},
        {"rule": 0.5},
        {"rule": {}},
        {"rule": {"value": "0.5"}},
        {"rule": {"value": None}},
        {"rule": {"value": 2}},
        {"rule": {"value": float("nan")}},
        {"rule": {"value": 0.5, "kind": "median"}},
        {"rule": {"value": 0.5, "kind": ["relative"]}},
        {"rule": {"value": 0.5, "scale": 0}},
        {"rule": {"value": 0.5, "shift": float("inf")}},
        {"rule": {"value": 0.5, "weight": 1}},
        {"format": 2},
        {"format": 2, "threshold": 2},
        {"label_ids": [1, 2]},
        {"label_ids": 3},
        {"label_ids": None},
        {"label_ids": [2, 1, 13]},
        {"label_ids": [1, 1, 13]},
        {"label_ids": [-1, 1, 13]},
        {"label_names": ["one"]},
        {"label_names": None},
        *({key: ABSENT} for key in ("model", "rule", "label_ids", "label_names", "sha256", "format")),
    ],
)
def test_manifest_with_a_wrong_value_or_without_one_is_refused(copy: Path, changes: dict[str, Any]) -> None:
    rewritten(copy, **changes)
    refused(copy)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"layers": 3}, "cannot be read"),
        ({"head_units": 9}, "does not fit the network"),
        ({"text": TEXT.model_copy(update={"dense": 5}).model_dump()}, "does not fit the network"),
    ],
)
def test_network_that_its_weights_do_not_fit_is_refused(copy: Path, changes: dict[str, Any], words: str) -> None:
    model = json.loads((copy / "bundle.json").read_text())["model"]
    rewritten(copy, model={**model, **changes})
    assert words in refused(copy)


@pytest.mark.parametrize(
    "changes",
    [
        {"text": {"vocabulary_size": 1_000_000, "embedding": 1024}},
        {"text": {"encoder": "bilstm", "units": 2048}},
        {"image": {"side": 1024, "width": 256, "stages": 6, "blocks": 4}},
        {"image": {"backbone": "ConvNeXtTiny"}},
        {"head_units": 4096},
        {"fusion": "gated"},
        {"text": {"dense": 3}},
        {"storage": "int8"},
        {"storage": "int4"},
        {"storage": "float16"},
    ],
)
def test_network_of_other_bytes_than_its_weights_file_is_refused_and_never_built(
    copy: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    """A bundle of a few kB, its sums put right, must not make a process of many GB."""
    monkeypatch.setattr("captune.model.bundle.build_shipped", lambda *_, **__: pytest.fail("was built"))
    model = json.loads((copy / "bundle.json").read_text())["model"]
    rewritten(
        copy,
        model={
            name: {**value, **changes.get(name, {})} if isinstance(value, dict) else changes.get(name, value)
            for name, value in model.items()
        },
    )
    assert "bytes of weights, the network needs" in refused(copy)


@pytest.mark.parametrize("change", ["fewer", "more", "halved"])
def test_weights_file_of_other_tensors_than_the_network_has_is_refused_and_never_built(
    copy: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    from safetensors.numpy import load_file, save_file

    tensors = load_file(copy / "weights.safetensors")
    match change:
        case "fewer":
            del tensors["logits/bias"]
        case "more":
            tensors["more"] = np.zeros(1, np.float32)
        case _:
            tensors = {name: tensor.astype(np.float16) for name, tensor in tensors.items()}
    save_file(tensors, copy / "weights.safetensors")
    resealed(copy, "weights.safetensors")
    monkeypatch.setattr("captune.model.bundle.build_shipped", lambda *_, **__: pytest.fail("was built"))
    assert "bytes of weights, the network needs" in refused(copy)


def test_tensor_under_another_name_is_refused(copy: Path) -> None:
    from safetensors.numpy import load_file, save_file

    tensors = load_file(copy / "weights.safetensors")
    tensors["other/bias"] = tensors.pop("logits/bias")
    save_file(tensors, copy / "weights.safetensors")
    resealed(copy, "weights.safetensors")
    assert "logits/bias" in refused(copy)


@pytest.mark.parametrize(("kind", "width"), [("BF16", 2), ("F8_E4M3", 1), ("F8_E5M2", 1), ("C64", 8), ("BOOL", 1)])
def test_weights_of_a_type_that_is_not_ours_are_refused(copy: Path, kind: str, width: int) -> None:
    """Of the right number of bytes, so that they are met as late as can be."""
    from captune.model.size import size

    config = ModelConfig.model_validate(json.loads((copy / "bundle.json").read_text())["model"])
    count = size(config).weights_bytes // width
    header = json.dumps({"x": {"dtype": kind, "shape": [count], "data_offsets": [0, count * width]}}).encode()
    (copy / "weights.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(count * width))
    resealed(copy, "weights.safetensors")
    assert "does not fit the network" in refused(copy)


def test_vocabulary_of_a_network_without_captions_is_a_contradiction(copy: Path) -> None:
    model = json.loads((copy / "bundle.json").read_text())["model"]
    rewritten(copy, model={**model, "text": None})
    assert "belongs to a network that reads captions" in refused(copy)


@pytest.mark.parametrize("words", [["dog", 5], "dog", None, [str(place) for place in range(5)]])
def test_vocabulary_that_is_not_the_network_s_is_refused(copy: Path, words: Any) -> None:
    (copy / "vocabulary.json").write_text(json.dumps({"settings": {}, "words": words}))
    resealed(copy, "vocabulary.json")
    refused(copy)


# Nothing is executed


class Harmful:
    """Leaves a mark where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("name", FILES)
def test_pickle_in_place_of_a_file_is_never_loaded(copy: Path, tmp_path: Path, name: str) -> None:
    mark = tmp_path / "executed"
    (copy / name).write_bytes(pickle.dumps(Harmful(mark)))
    if name != "bundle.json":  # with its sum put right
        resealed(copy, name)
    if name == "vocabulary.json":
        from captune.data_prep.captions import Vocabulary
        from captune.data_prep.records import DataError
        from captune.model.bundle import Bundle
        from captune.model.bundle_manifest import BundleError

        with pytest.raises((BundleError, DataError)):
            Vocabulary.from_json(str(Bundle.load(copy).vocabulary))
    else:
        refused(copy)
    assert not mark.exists()


def test_weights_are_plain_arrays_of_known_types(written: Path) -> None:
    from safetensors.numpy import load_file

    tensors = load_file(written / "weights.safetensors")
    assert {tensor.dtype.kind for tensor in tensors.values()} <= {"f", "i", "u"}
    header = (written / "weights.safetensors").read_bytes()
    assert len(header) - sum(tensor.nbytes for tensor in tensors.values()) == 8 + int.from_bytes(header[:8], "little")
