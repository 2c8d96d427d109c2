"""What kinds of files an export can be, and what they hold."""

from pathlib import Path
from typing import Any

import pytest

from captune.errors import ArgumentError, UsageError
from captune.tuner.winner.formats.declarations import FORMATS, Format, check_name, check_storage, storage_of
from captune.tuner.winner.formats.target import check_target


@pytest.mark.parametrize(
    ("kind", "name"),
    [("onnx", "x.onnx"), ("litert", "x.tflite"), ("keras", "x.keras"), ("bundle", "x"), ("savedmodel", "x.model")],
)
def test_name_that_fits_its_kind_is_taken(kind: Any, name: str) -> None:
    check_name(kind, name)


@pytest.mark.parametrize(
    ("kind", "name", "way_out"),
    [
        ("onnx", "x", "*.onnx"),
        ("onnx", "x.tflite", "*.onnx"),
        ("litert", "x.onnx", "*.tflite"),
        ("savedmodel", "x.onnx", "--format onnx"),
        ("bundle", "x.tflite", "--format litert"),
    ],
)
def test_name_of_another_kind_is_refused_with_the_way_out(kind: Any, name: str, way_out: str) -> None:
    with pytest.raises(UsageError) as refused:
        check_name(kind, name)
    assert way_out in str(refused.value) and name in str(refused.value)


@pytest.mark.parametrize(
    ("kind", "asked", "own", "stored"),
    [
        ("bundle", None, "int8", "int8"),
        ("bundle", "float16", "int8", "float16"),
        ("keras", None, "int8", "float32"),
        ("savedmodel", None, "float16", "float32"),
        ("onnx", None, "int8", "int8"),
        ("litert", None, "float16", "float16"),
        ("onnx", "float32", "int8", "float32"),
        ("onnx", None, "int4", "float32"),
        ("litert", None, "int4", "float32"),
    ],
)
def test_storage_is_what_was_asked_for_or_the_winner_s_own_where_the_kind_holds_it(
    kind: Any, asked: Any, own: Any, stored: str
) -> None:
    assert storage_of(kind, asked, own) == stored


@pytest.mark.parametrize(
    ("kind", "storage"),
    [("keras", "int8"), ("savedmodel", "float16"), ("onnx", "int4"), ("litert", "int4"), ("savedmodel", "int8")],
)
def test_storage_that_a_kind_cannot_hold_is_refused(kind: Any, storage: Any) -> None:
    with pytest.raises(ArgumentError) as refused:
        check_storage(kind, storage)
    assert refused.value.argument == "storage" and storage in str(refused.value)


def test_every_storage_that_a_kind_holds_is_taken() -> None:
    for name, form in FORMATS.items():
        for storage in (None, *form.tolerances):
            check_storage(name, storage)
    assert all(form.tolerances["float32"] == 1e-5 for form in FORMATS.values())


def test_missing_package_is_told_with_the_command_that_brings_it() -> None:
    form = Format("onnx", "onnx_file", ".onnx", {}, ("json", "no_such_runtime"), "onnx")
    with pytest.raises(UsageError) as refused:
        form.check_installed()
    assert "no_such_runtime" in str(refused.value) and "pip install 'captune[onnx]'" in str(refused.value)
    assert "json" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "exists"),
        ("there", "there exists"),
        ("nowhere", "nowhere exists"),
        ("new", "new.portable exists"),
        ("file/new", "is not a folder"),
        ("x" * 300, "too long"),
        ("x" * 250, "too long"),
        ("closed/new", "may not be written to"),
    ],
)
def test_target_that_cannot_be_made_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("there", "closed"):
        (tmp_path / folder).mkdir()
    (tmp_path / "file").touch()
    for link in ("nowhere", "new.portable"):
        (tmp_path / link).symlink_to("/no/such/place")
    monkeypatch.setattr("os.access", lambda path, mode: Path(path).name != "closed")
    with pytest.raises(UsageError, match=words):
        check_target("bundle", Path(name))


def test_target_in_a_folder_that_is_made_with_it_is_taken(tmp_path: Path) -> None:
    for name in ("x", "new/folder/x", "a b\n\u00e9", "-x"):
        check_target("bundle", tmp_path / name)
