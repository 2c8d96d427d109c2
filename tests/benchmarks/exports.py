"""Every preset and backbone in every format and storage: bytes, difference, milliseconds.

Weights are random, but those of backbones that CAPTUNE_WEIGHTS holds as NAME.safetensors. Arguments: names of networks;
none for all. Formats answer in processes of their own, without Keras.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp
from typing import get_args

import numpy as np

from captune.model.config import BackboneName, ImageConfig, ModelConfig, TextConfig
from captune.model.presets import PRESETS
from captune.tuner.winner.formats.answer import check_kept_out, keep_out, median_milliseconds
from captune.tuner.winner.formats.declarations import FORMATS

ROWS = 32
SIDE = 64  # of backbones by themselves: what is written is the same at any side
TEXT = TextConfig(vocabulary_size=2000, max_tokens=16, embedding=64, units=64, dense=32)


def networks() -> Iterator[tuple[str, ModelConfig]]:
    for name, preset in PRESETS.items():
        yield name, preset.model
    for encoder in ("bilstm", "lstm", "gru", "convolution", "average"):
        yield encoder, ModelConfig(text=TEXT.model_copy(update={"encoder": encoder}))
    wide = TEXT.model_copy(update={"wide": True, "wide_buckets": 500})
    both = {"text": wide, "fusion": "summed", "head_units": 32}
    for head in ("positions", "queries"):
        image = ImageConfig(side=SIDE, max_side=48, head=head, position_units=32)
        yield f"summed, {head}, reduced to 48", ModelConfig(image=image, **both)
    yield "gated, both poolings", ModelConfig(image=ImageConfig(side=SIDE, pooling="both"), text=TEXT, fusion="gated")
    for backbone in get_args(BackboneName):
        weights = f"{backbone}.safetensors"
        known = (Path(os.environ.get("CAPTUNE_WEIGHTS", ".")) / weights).is_file()
        own = {"layers": 3, "heads": 4, "patch": 16, "channels": 96, "hidden": 256}  # of the transformer
        image = ImageConfig(backbone=backbone, side=SIDE, weights=weights if known else "none", **own)
        yield backbone, ModelConfig(image=image)


def inputs_of(config: ModelConfig) -> dict[str, np.ndarray]:
    draw, inputs = np.random.default_rng(7), {}
    if config.image is not None:
        side = config.image.side
        inputs["image"] = draw.integers(0, 256, (ROWS, side, side, 3), np.uint8)
    if config.text is not None:
        tokens = draw.integers(1, config.text.vocabulary_size, (ROWS, config.text.max_tokens), np.int32)
        lengths = draw.integers(0, config.text.max_tokens + 1, ROWS)
        inputs["caption"] = np.where(np.arange(config.text.max_tokens) < lengths[:, None], tokens, 0)
    return inputs


def written(name: str, config: ModelConfig, folder: Path) -> None:
    """What the network answers, and its files: a folder `format storage` for each with a file in it, or a reason."""
    import keras

    from captune.model.classifier import LOGITS, build
    from captune.model.training import put_through
    from captune.tuner.winner.formats.write import FormatError, write_network

    keras.utils.set_random_seed(3)
    inputs, network = inputs_of(config), build(config, load_weights=name in get_args(BackboneName))
    logits = keras.Model(network.inputs, network.get_layer(LOGITS).output)
    if logits.predict_on_batch(inputs).std(axis=0).max() < 1e-3:
        # MobileNetV3 and EfficientNetLite: little comes through before their layers have seen what they normalise.
        for layer in network._flatten_layers():
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.trainable, layer.momentum = True, 0.0
        network(inputs, training=True)
    # Random weights answer one half to everything: the last ones are made larger, as if they had learned.
    deviation = logits.predict_on_batch(inputs).std()
    for layer in network.layers:
        if layer.name.startswith(LOGITS) and getattr(layer, "kernel", None) is not None:
            layer.kernel.assign(layer.kernel * min(100, 1.5 / deviation))
    assert network.predict_on_batch(inputs).std(axis=0).max() > 0.01, "all rows are answered alike: nothing is compared"
    whole = network.get_weights()
    np.savez(folder / "inputs.npz", **inputs)
    for form in FORMATS.values():
        for storage in form.tolerances:
            case = folder / f"{form.name} {storage}"
            case.mkdir()
            network.set_weights(whole)
            put_through(network, storage)
            np.save(case / "expected.npy", network.predict_on_batch(inputs))
            try:
                write_network(network, form.name, case / f"file{form.suffix}", storage)
            except FormatError as error:
                (case / "reason.txt").write_text(" ".join(str(error).split())[:150])
    keras.backend.clear_session()


def answered(name: str, top: Path) -> None:
    """Files of a format in all networks' folders: difference and milliseconds of each, or the reason."""
    keep_out(FORMATS[name].absent)
    session = FORMATS[name].functions().session
    for case in sorted(top.glob(f"*/{name} *")):
        if (case / "reason.txt").exists():
            continue
        try:
            with np.load(case.parent / "inputs.npz") as file:
                inputs = dict(file)
            answer = session(case / f"file{FORMATS[name].suffix}", 1)
            difference = float(np.abs(answer(inputs) - np.load(case / "expected.npy")).max())
            one = {key: values[:1] for key, values in inputs.items()}
            times = [median_milliseconds(answer, rows) for rows in (one, inputs)]
            check_kept_out(FORMATS[name].absent)
            (case / "facts.json").write_text(json.dumps([difference, *times]))
        except Exception as error:
            (case / "reason.txt").write_text(" ".join(str(error).split())[:150])


def show(name: str, folder: Path) -> None:
    from captune.model.bundle import measured_bytes

    for form in FORMATS.values():
        for storage, tolerance in form.tolerances.items():
            case = folder / f"{form.name} {storage}"
            line = f"{name:31} {form.name:11} {storage:8}"
            if (case / "reason.txt").exists():
                print(line, (case / "reason.txt").read_text())
                continue
            difference, one, many = json.loads((case / "facts.json").read_text())
            size = measured_bytes(case / f"file{form.suffix}")
            late = "" if difference <= tolerance else f"  over {tolerance:g}"
            print(f"{line} {size:12,} {difference:9.1e} {one:9.3f} {many:9.2f}{late}")


def main(asked: list[str]) -> None:
    top = Path(mkdtemp(prefix="captune-exports-"))
    try:
        print(f"{'network':31} {'format':11} {'storage':8} {'bytes':>12} {'differs':>9} {'1 row, ms':>9} {'32':>9}")
        for place, (name, config) in enumerate(networks()):
            if asked and name not in asked:
                continue
            folder = top / f"{place:02d}"
            folder.mkdir()
            written(name, config, folder)
            for form in FORMATS:
                subprocess.run([sys.executable, __file__, "--answer", form, str(top)], check=True)
            show(name, folder)
            sys.stdout.flush()
            shutil.rmtree(folder)
    finally:
        shutil.rmtree(top)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--answer"]:
        answered(sys.argv[2], Path(sys.argv[3]))
    else:
        main(sys.argv[1:])
