"""Weights are read by the names of layers from four kinds of files; what does not fit is told by its name."""

import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import refused, rest_in_soak
from safetensors.numpy import save_file

from captune.model.backbones import WeightsError
from captune.model.config import ImageConfig, ModelConfig

pytestmark = pytest.mark.slow

LITE, SIDE = "EfficientNetLite0", 64


def backbone(name: Any, weights: str = "none", cut: Any = "final", side: int = SIDE) -> Any:
    import keras

    from captune.model.image_encoder import _named

    keras.utils.set_random_seed(len(weights))  # others each time, but for the file
    return _named(ImageConfig(backbone=name, side=side, weights=weights, cut=cut), load_weights=True)


def drawn(name: Any) -> Any:
    """A backbone of random weights, its statistics too."""
    import keras

    network = backbone(name)
    keras.utils.set_random_seed(5)
    random = np.random.default_rng(5)
    network.set_weights([np.abs(random.normal(0.5, 0.1, w.shape)).astype(w.dtype) for w in network.get_weights()])
    return network


def tensors_of(network: Any) -> dict[str, Any]:
    from captune.model.keras_private import layers_within

    pairs = [
        (layer, w) for layer in layers_within(network) if type(layer).__name__ != "Functional" for w in layer.weights
    ]
    return {f"{layer.name}/{w.name}": np.array(w) for layer, w in pairs}


def saved(network: Any, folder: Path, kind: str) -> str:
    path = folder / f"weights{kind}"
    match kind:
        case ".weights.h5":
            network.save_weights(path)
        case ".keras":
            network.save(path)
        case ".npz":
            np.savez(path, **tensors_of(network))
        case ".safetensors":
            save_file(tensors_of(network), path)
    return str(path)


def equal(network: Any, other: Any) -> bool:
    return all((a == b).all() for a, b in zip(network.get_weights(), other.get_weights(), strict=True))


@pytest.mark.parametrize("kind", rest_in_soak([".weights.h5", ".keras", ".npz", ".safetensors"], ".keras", ".npz"))
@pytest.mark.parametrize("name", rest_in_soak([LITE, "MobileNetV3Small", "AlexNet"], "MobileNetV3Small"))
def test_weights_of_every_kind_of_file_are_those_that_were_saved(name: str, kind: str, tmp_path: Path) -> None:
    network = drawn(name)
    assert equal(backbone(name, saved(network, tmp_path, kind)), network)


@pytest.mark.soak
@pytest.mark.parametrize("name", rest_in_soak(["EfficientNetB0", "ConvNeXtTiny"], "EfficientNetB0"))
def test_layer_that_keras_numbers_is_found_under_another_number(name: str, tmp_path: Path) -> None:
    path = saved(drawn(name), tmp_path, ".weights.h5")
    again = backbone(name, path)  # a third network of this process
    assert equal(again, drawn(name))


@pytest.mark.parametrize(
    ("name", "cut"),
    rest_in_soak([(LITE, "last_map"), (LITE, "stride_16"), ("MobileNetV3Small", "last_map")], (LITE, "stride_16")),
)
def test_backbone_that_ends_before_takes_its_part_of_the_whole(name: str, cut: str, tmp_path: Path) -> None:
    network = drawn(name)
    part = backbone(name, saved(network, tmp_path, ".safetensors"), cut)
    assert 0 < len(part.weights) < len(network.weights)
    assert all(
        (a == b).all() for a, b in zip(part.get_weights(), network.get_weights()[: len(part.weights)], strict=True)
    )


def test_network_of_captune_in_a_keras_file_gives_its_backbone(tmp_path: Path) -> None:
    import keras

    from captune.model.classifier import build

    network = build(ModelConfig(image=ImageConfig(backbone=LITE, side=SIDE, units=4), num_labels=3))
    network.save(tmp_path / "x.keras")
    (tower,) = (layer for layer in network.layers if isinstance(layer, keras.Model))
    assert equal(backbone(LITE, str(tmp_path / "x.keras")), tower)


def test_float16_and_other_sides_are_no_obstacle(tmp_path: Path) -> None:
    network = drawn(LITE)
    save_file(
        {name: values.astype(np.float16) for name, values in tensors_of(network).items()}, tmp_path / "x.safetensors"
    )
    loaded = backbone(LITE, str(tmp_path / "x.safetensors"), side=96)
    for a, b in zip(loaded.get_weights(), network.get_weights(), strict=True):
        assert a.dtype == np.float32 and (a == b.astype(np.float16)).all()


def test_what_is_missing_or_of_another_shape_or_no_number_is_named(tmp_path: Path) -> None:
    tensors = tensors_of(drawn("AlexNet"))

    def told(changed: dict[str, Any], *words: str) -> None:
        np.savez(tmp_path / "x.npz", **changed)
        refused(lambda: backbone("AlexNet", str(tmp_path / "x.npz")), "alexnet", *words, error=WeightsError)

    told({n: v for n, v in tensors.items() if n != "layer_3_convolution/bias"}, "missing: layer_3_convolution/bias;")
    told({n: v for n, v in tensors.items() if "_1_" in n}, "missing: layer_2_convolution/kernel", "and 5 more")
    told(tensors | {"layer_1_convolution/bias": np.zeros(63)}, "layer_1_convolution/bias is (63,), not (64,)")
    told(
        tensors | {"layer_1_convolution/bias": np.full(64, np.nan)}, "layer_1_convolution/bias holds what is no number"
    )
    told({"features.0.weight": np.zeros(3)}, "missing", "captune weights convert")


def test_pickles_and_files_that_point_elsewhere_are_refused(tmp_path: Path) -> None:
    import h5py

    np.savez(tmp_path / "x.npz", **{"layer_1_convolution/bias": np.array([print], object)}, allow_pickle=True)
    (tmp_path / "y.npz").write_bytes(pickle.dumps({"layer_1_convolution/bias": 1}))
    (tmp_path / "raw").write_bytes(bytes(256))
    for name, link in (
        ("link", h5py.ExternalLink(str(tmp_path / "secret.h5"), "/x")),
        ("soft", h5py.SoftLink("/nowhere")),
    ):
        with h5py.File(tmp_path / f"{name}.weights.h5", "w") as file:
            group = file.create_group("layers/conv2d/vars")
            group.attrs["name"] = "layer_1_convolution"
            group["1"] = link
    with h5py.File(tmp_path / "external.weights.h5", "w") as file:
        group = file.create_group("layers/conv2d/vars")
        group.attrs["name"] = "layer_1_convolution"
        group.create_dataset("1", (64,), np.float32, external=[(str(tmp_path / "raw"), 0, 256)])
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["x"] = np.zeros(64, np.float32)
    with zipfile.ZipFile(tmp_path / "z.keras", "w") as archive:
        archive.writestr("config.json", "{}")
    outside = ("link.weights.h5", "soft.weights.h5", "external.weights.h5")
    for name in ("x.npz", "y.npz", "z.keras", *outside):
        words = ("points out of itself",) if name in outside else ("cannot be loaded",)
        refused(lambda name=name: backbone("AlexNet", str(tmp_path / name)), *words, error=WeightsError)  # type: ignore[misc]
