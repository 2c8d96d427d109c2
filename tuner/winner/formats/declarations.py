"""The kinds of files beside the bundle, as figures: nothing of a framework or a runtime is imported for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal, get_args

from captune.errors import ArgumentError, UsageError
from captune.model.config import Storage

FormatName = Literal["savedmodel", "litert", "onnx"]
Kind = Literal["bundle", "keras", "savedmodel", "litert", "onnx"]
"""What an export can be."""
PROBABILITIES = "probabilities"
"""Name of the output; inputs are named `image` and `caption`."""


@dataclass(frozen=True)
class Format:
    """A file that another runtime reads.

    module: of this folder: its functions `write(network, path, storage)`, for weights that went through the storage
    already, and `session(path, threads)`, an Answer (captune.tuner.winner.formats.answer).
    suffix: of its name; empty where it is a folder. tolerances: for each storage that it can hold the largest
    difference of a probability from the network whose weights went through that storage. packages: modules that write
    it and read it; extra: of captune's, that brings them. absent: modules that must not be loaded where it answers.
    computes_in: storages in which it computes, others than float32, so that they take another time.
    """

    name: FormatName
    module: str
    suffix: str
    tolerances: Mapping[Storage, float]
    packages: tuple[str, ...] = ()
    extra: str = ""
    absent: tuple[str, ...] = ("tensorflow", "keras", "jax", "torch")
    computes_in: tuple[Storage, ...] = ()

    def functions(self) -> Any:
        """The module itself, imported."""
        return import_module(f"captune.tuner.winner.formats.{self.module}")

    @property
    def is_installed(self) -> bool:
        """Whether no package is missing."""
        return not self._missing

    @property
    def _missing(self) -> list[str]:
        return [package for package in self.packages if find_spec(package) is None]

    def check_installed(self) -> None:
        """Raises UsageError where a package is missing."""
        if missing := self._missing:
            raise UsageError(
                f"--format {self.name} needs {', '.join(missing)}, not installed here; "
                f"pip install 'captune[{self.extra}]'"
            )


FORMATS: dict[str, Format] = {
    "savedmodel": Format("savedmodel", "saved_model", "", {"float32": 1e-5}, absent=("keras", "jax", "torch")),
    # Of int8 LiteRT computes products with inputs rounded to int8, too.
    "litert": Format(
        "litert",
        "litert_file",
        ".tflite",
        {"float32": 1e-5, "float16": 0.02, "int8": 0.1},
        ("ai_edge_litert",),
        "litert",
        computes_in=("int8",),
    ),
    # Weights are restored before anything is computed with them, so what is left is rounding in the conversion.
    "onnx": Format(
        "onnx",
        "onnx_file",
        ".onnx",
        {"float32": 1e-5, "float16": 0.02, "int8": 1e-5},
        ("onnx", "onnxruntime", "tf2onnx"),
        "onnx",
    ),
}
assert set(FORMATS) == set(get_args(FormatName))
_SUFFIXES = {"keras": ".keras"} | {name: form.suffix for name, form in FORMATS.items() if form.suffix}


def check_name(kind: Kind, name: str) -> None:
    """Raises UsageError unless a file or folder of a kind may have this name."""
    suffix = _SUFFIXES.get(kind, "")
    if suffix and not name.endswith(suffix):
        raise UsageError(f"a file of --format {kind} must be named *{suffix}, got {name}")
    for other, its in _SUFFIXES.items():
        if not suffix and name.endswith(its):
            raise UsageError(f"a {kind} is a folder, and {name} would look like a file; give --format {other}")


def check_storage(kind: Kind, storage: Storage | None) -> None:
    """Raises ArgumentError unless a kind of file can hold weights of a storage; None is whatever it can hold."""
    if kind == "bundle" or storage is None:
        return
    held = tuple(FORMATS[kind].tolerances) if kind in FORMATS else ("float32",)
    if storage not in held:
        raise ArgumentError(
            "storage", f"a file of format {kind} holds {' or '.join(held)}; use format bundle for {storage}"
        )


def storage_of(kind: Kind, asked: Storage | None, own: Storage) -> Storage:
    """What the weights are written as: as asked for, else the winner's own, else float32."""
    if kind == "bundle":
        return asked or own
    if kind == "keras":
        return "float32"
    return asked or (own if own in FORMATS[kind].tolerances else "float32")
