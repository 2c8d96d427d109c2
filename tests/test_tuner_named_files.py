"""Files that a search names are held against what needs them before anything starts, without a framework."""

from pathlib import Path
from typing import Any

import numpy as np
from builders import refused

from captune.data_prep.store import PreparedData
from captune.model.towers import TOWERS, Cut
from captune.tuner.run.named_files import check_files
from captune.tuner.space.config import read_search
from captune.tuner.space.yaml_file import ConfigError


def weights_of(backbone: str, folder: Path, cut: Cut = "final", *, name: str = "") -> str:
    path = folder / f"{name or backbone}.npz"
    np.savez(path, **{variable: np.zeros(shape, np.float16) for variable, shape in TOWERS[backbone].variables(cut)})
    return str(path)


def check(data: PreparedData, fixed: dict[str, Any], space: dict[str, Any] | None = None) -> None:
    overrides = {"trials": 1, "fixed": fixed, "space": space or {}}
    check_files(read_search(None, preset="photos", default_preset="photos", overrides=overrides).build_space(), data)


def test_file_of_the_backbone_that_is_searched_is_taken_whatever_is_behind_the_cut(
    data: PreparedData, tmp_path: Path
) -> None:
    lite0 = weights_of("EfficientNetLite0", tmp_path, "last_map")
    fixed = {"image.backbone": "EfficientNetLite0", "image.weights": lite0}
    check(data, fixed)
    refused(
        lambda: check(data, fixed, {"image.cut": ["last_map", "final"]}),
        "EfficientNetLite0",
        "missing: last_",
        error=ConfigError,
    )


def test_file_is_asked_for_what_it_is_drawn_with_alone(data: PreparedData, tmp_path: Path) -> None:
    short = weights_of("EfficientNetLite0", tmp_path, "stride_16")
    fixed = {"image.backbone": "EfficientNetLite0", "image.weights": weights_of("AlexNet", tmp_path)}
    cuts: dict[str, Any] = {"image.cut": ["last_map", "stride_16"]}
    refused(lambda: check(data, fixed, cuts), "AlexNet.npz", error=ConfigError)
    both = weights_of("EfficientNetLite0", tmp_path, "final", name="whole")
    drawn = {"choices": [short], "when": {"image.cut": "stride_16"}}
    check(data, {**fixed, "image.weights": both}, {**cuts, "image.weights": drawn})


def test_file_of_another_backbone_is_refused_before_the_search(data: PreparedData, tmp_path: Path) -> None:
    lite0 = weights_of("EfficientNetLite0", tmp_path)
    refused(
        lambda: check(data, {"image.weights": lite0}),
        lite0,
        "EfficientNetLite2",
        "is (1, 1, 144, 40), not (1, 1, 144, 48)",
        error=ConfigError,
    )
    both: dict[str, Any] = {"image.backbone": ["EfficientNetLite0", "EfficientNetLite2"]}
    refused(lambda: check(data, {"image.weights": lite0}, both), "EfficientNetLite2", error=ConfigError)
    (tmp_path / "x.safetensors").write_bytes(b"nothing")
    refused(lambda: check(data, {"image.weights": str(tmp_path / "x.safetensors")}), "x.safetensors", error=ConfigError)
