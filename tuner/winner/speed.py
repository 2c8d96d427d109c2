"""How fast this machine computes: a few small networks are measured once, and what they took is kept for this user."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

from captune.errors import one_line
from captune.files import written_aside
from captune.model.config import ImageConfig, ModelConfig, TextConfig
from captune.model.latency import Speed
from captune.model.operations import Operations
from captune.tuner.winner.formats.declarations import Format
from captune.tuner.winner.latency import milliseconds_of, processor

_PACKAGES = {"onnx": ("onnxruntime", "tf2onnx"), "litert": ("ai-edge-litert",)}


def speed_of_this_machine(form: Format, say: Callable[[str], None]) -> Speed:
    """For files of a format, from the user's cache; measured where it is not there."""
    kept = _cache(form)
    try:
        return Speed.model_validate_json(kept.read_text())
    except (OSError, ValueError):  # not there, or not whole: it is measured again
        pass
    networks = _measured(form)
    say(f"measuring once how fast this machine computes as {form.name}: {len(networks)} small networks")
    speed = Speed.fitted(form.name, processor(), list(zip(networks, milliseconds_of(networks, form), strict=True)))
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with written_aside(kept) as aside:
            aside.write_text(speed.model_dump_json())
    except OSError as error:
        say(f"note: it is measured again the next time, as it cannot be kept ({one_line(error)})")
    return speed


def _cache(form: Format) -> Path:
    """Where it is kept, for this processor, these versions and these networks."""
    packages = ("tensorflow", "keras", *_PACKAGES[form.name])
    key = {
        "processor": processor(),
        "versions": {name: version(name) for name in packages},
        "networks": [network.model_dump_json() for network in _measured(form)],
        "kinds": Operations._fields,
    }
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "captune" / "speed" / f"{form.name}-{digest}.json"


def _measured(form: Format) -> list[ModelConfig]:
    return [network.stored_as(storage) for storage in ("float32", *form.computes_in) for network in _networks()]


def _networks() -> Iterator[ModelConfig]:
    """Together they have much of each kind of work, each alone of few. Small ones: writing a file takes longest."""

    def text(encoder: str, **settings: int) -> ModelConfig:
        small = {"vocabulary_size": 2000, "max_tokens": 16, "embedding": 64, "units": 64, "dense": 0}
        return ModelConfig(text=TextConfig.model_validate({**small, **settings, "encoder": encoder}))

    def image(side: int, **settings: object) -> ModelConfig:
        return ModelConfig(image=ImageConfig.model_validate({"units": 0, **settings, "side": side}))

    yield text("average")
    yield text("average", embedding=512, dense=1024)
    yield text("convolution", embedding=192, units=512, kernel=2)
    yield text("convolution", max_tokens=64, embedding=128, units=128)
    yield text("lstm", units=32)
    yield text("gru", units=128)
    yield text("bilstm", units=256, embedding=128, max_tokens=32)
    yield image(48, width=16)
    yield image(64, width=24, last_halving=False, head="positions", position_units=128)
    yield image(96, width=20, blocks=2, units=128, pooling="both")
    yield image(64, width=64, stages=2, head="queries")
    yield image(160, max_side=48, width=16)
    yield image(64, backbone="EfficientNetLite0", cut="stride_16")
    yield image(96, backbone="AlexNet", cut="stride_16")
