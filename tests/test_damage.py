"""Files of captune's own, damaged in every way: what opens has the values that were written, all else is one line."""

from __future__ import annotations

import json
import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from builders import epoch, limited, refused
from conftest import OLD
from damage import damaged
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from captune.data_prep.captions import Vocabulary
from captune.data_prep.integrity import read_examples, read_vocabulary
from captune.data_prep.manifest import ANEW, EXAMPLES, MANIFEST, PIXELS, VOCABULARY, Manifest
from captune.data_prep.pixels import PixelFile
from captune.data_prep.source import read_source
from captune.data_prep.store import PreparedData
from captune.errors import Error
from captune.model.bundle_manifest import BundleManifest, _own_sum
from captune.model.checkpoint import Checkpoint, CheckpointError
from captune.reading import NotReadError, UnreadableError, json_object, parsed_object
from captune.results.documents import Document
from captune.results.records import Record, load_records
from captune.results.run_folder import RunFolder
from captune.results.summary import Summary
from captune.results.table import frame
from captune.tuner.run.settings import RunSettings
from captune.tuner.training.kept_rows import _is_whole
from captune.tuner.winner.proof import Proof

quick = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
fuzz = pytest.mark.fuzz


def opened(call: Callable[[], Any]) -> Any:
    """What comes of it, or the line that it is refused with."""
    try:
        return call()
    except Error as error:
        line = str(error)
        assert line and len(line.splitlines()) == 1 and len(line) < 1500, line
        return line


def content_of(data: PreparedData) -> tuple[Any, ...]:
    arrays = [data.labels, data.tokens, data.picture_of, data.rows("train"), data.rows("test")]
    pixels = data.pictures(0, data.num_pictures).tobytes() if data.has_images else b""
    numbers = [array.tobytes() for array in arrays if array is not None]
    return (data.manifest, data.image_ids, data.captions, data.vocabulary, numbers, pixels)


@pytest.fixture(scope="module", params=["with sums", "of version 0.1.0"])
def prepared(request: pytest.FixtureRequest, data: PreparedData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of a set, to be spoilt and mended."""
    copy = tmp_path_factory.mktemp("prepared") / "data"
    shutil.copytree(data.path if request.param == "with sums" else OLD / "data", copy)
    return copy


@fuzz
@quick
@given(drawn=st.data())
def test_prepared_set_is_what_was_prepared_or_refused_with_the_file(prepared: Path, drawn: st.DataObject) -> None:
    before = content_of(PreparedData.open(prepared).verify())
    there = [name for name in (MANIFEST, EXAMPLES, VOCABULARY, PIXELS) if (prepared / name).exists()]
    path = prepared / drawn.draw(st.sampled_from(there))
    whole = path.read_bytes()
    path.write_bytes(drawn.draw(damaged(whole)))
    try:
        opened(lambda: content_of(PreparedData.open(prepared)))  # as a worker does, without sums
        after = opened(lambda: content_of(PreparedData.open(prepared).verify()))
    finally:
        path.write_bytes(whole)
    if isinstance(after, str):
        assert str(prepared) in after
    elif before[0].sha256 or path.name != MANIFEST:  # an earlier manifest says of itself nothing that could be checked
        assert after[0].sha256 == before[0].sha256 and after[1:] == before[1:]


@fuzz
@given(drawn=st.data())
def test_vocabulary_is_one_or_refused(drawn: st.DataObject) -> None:
    whole = (OLD / "data" / VOCABULARY).read_bytes()
    opened(lambda: Vocabulary.from_json(drawn.draw(damaged(whole)).decode(errors="replace")))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A copy of a run of three trials, whose journal is written anew: as today, with sums."""
    from captune.results.journal import _line_of

    folder = tmp_path_factory.mktemp("run") / "run"
    shutil.copytree(OLD / "run", folder)
    lines = (folder / "study.journal").read_bytes().splitlines()
    (folder / "study.journal").write_bytes(b"".join(_line_of(json.loads(line)) for line in lines))
    return RunFolder(folder)


def records(run: RunFolder) -> list[Record]:
    found = load_records(run)
    frame(found, sort="mean_f1")
    return found


@fuzz
@quick
@given(drawn=st.data())
def test_journal_has_its_trials_or_is_refused_with_file_and_line(run: RunFolder, drawn: st.DataObject) -> None:
    whole = run.journal.read_bytes()
    before = records(run)
    spoilt = drawn.draw(damaged(whole))
    run.journal.write_bytes(spoilt)
    try:
        after = opened(lambda: records(run))
    finally:
        run.journal.write_bytes(whole)
    if isinstance(after, str):
        assert "journal" in after
    elif set(spoilt.splitlines()) <= set(whole.splitlines()) or not spoilt.endswith(b"\n"):
        return  # whole lines in another order, or lines missing at the end
    else:
        assert len(after) <= len(before)


@pytest.mark.fuzz
@quick
@given(drawn=st.data())
def test_bit_that_flips_in_a_journal_is_never_read_as_another_value(run: RunFolder, drawn: st.DataObject) -> None:
    whole = run.journal.read_bytes()
    before = records(run)
    spoilt = bytearray(whole)
    bit = drawn.draw(st.integers(0, 8 * len(whole) - 1))
    spoilt[bit // 8] ^= 1 << bit % 8
    run.journal.write_bytes(spoilt)
    try:
        after = opened(lambda: records(run))
    finally:
        run.journal.write_bytes(whole)
    last = bit // 8 >= whole[:-1].rindex(b"\n")
    assert isinstance(after, str) or after == before or last, "a last line without its end is one that is being written"


DOCUMENTS: list[tuple[str, type[Document]]] = [
    ("run.json", RunSettings),
    ("summary.json", Summary),
    ("winner/proof.json", Proof),
]


@fuzz
@pytest.mark.parametrize(("name", "kind"), DOCUMENTS)
@given(drawn=st.data())
def test_document_is_one_or_refused_with_the_file(name: str, kind: type[Document], drawn: st.DataObject) -> None:
    spoilt = drawn.draw(damaged((OLD / "run" / name).read_bytes()))

    def parse() -> Document:
        document = kind.parse(parsed_object(spoilt, name), name)
        assert kind.parse(json.loads(document.to_json()), name).to_json() == document.to_json()
        return document

    after = opened(parse)
    assert isinstance(after, kind) or name in after


CHECKPOINT = Checkpoint(
    2,
    "mine",
    {"00000": np.arange(6, dtype=np.float32).reshape(2, 3), "00001": np.array(7, np.uint32), "00002": np.zeros((0, 3))},
    (epoch(1), epoch(2)),
)


@fuzz
@quick
@given(drawn=st.data())
def test_checkpoint_is_what_was_written_or_refused_with_the_file(tmp_path: Path, drawn: st.DataObject) -> None:
    path = tmp_path / "last.safetensors"
    CHECKPOINT.write(path)
    path.write_bytes(drawn.draw(damaged(path.read_bytes())))
    after = opened(lambda: Checkpoint.read(path, "mine"))
    if isinstance(after, str):
        assert str(path) in after
    else:
        assert after is not None and (after.epoch, after.reports) == (2, CHECKPOINT.reports)
        assert {name: array.tobytes() for name, array in after.arrays.items()} == {
            name: array.tobytes() for name, array in CHECKPOINT.arrays.items()
        }


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of a bundle, to be spoilt and mended."""
    copy = tmp_path_factory.mktemp("bundle") / "bundle"
    shutil.copytree(OLD / "run" / "winner" / "bundle", copy)
    return copy


@fuzz
@quick
@given(drawn=st.data())
def test_bundle_is_what_was_shipped_or_refused(bundle: Path, drawn: st.DataObject) -> None:
    before = BundleManifest.read(bundle)
    path = bundle / drawn.draw(st.sampled_from(sorted(path.name for path in bundle.iterdir())))
    whole = path.read_bytes()
    spoilt = drawn.draw(damaged(whole))
    path.write_bytes(spoilt)
    try:
        after = opened(lambda: BundleManifest.read(bundle))
    finally:
        path.write_bytes(whole)
    assert after == before if isinstance(after, BundleManifest) else str(bundle) in after
    assert isinstance(after, str) or path.name == "bundle.json" or spoilt == whole


@fuzz
@quick
@given(drawn=st.data())
def test_bundle_whose_sums_were_made_good_again_is_one_or_refused(bundle: Path, drawn: st.DataObject) -> None:
    path = bundle / "bundle.json"
    whole = path.read_bytes()
    content = json.loads(drawn.draw(damaged(whole, kinds=("json",))))
    if isinstance(content, dict) and isinstance(content.get("sha256"), dict):
        content["sha256"]["bundle.json"] = _own_sum(content)
    path.write_text(json.dumps(content))
    try:
        after = opened(lambda: BundleManifest.read(bundle))
    finally:
        path.write_bytes(whole)
    if isinstance(after, BundleManifest):
        assert (
            list(after.label_ids) == sorted(set(after.label_ids))
            and 0 <= after.rule.value <= 1
            and after.rule.scale > 0
        )
        assert len(after.label_ids) == len(after.label_names) == after.config.num_labels


# What no mutation of bytes brings


@pytest.mark.parametrize("there", ["nothing", "a pipe", "a folder", "a device", "a link to itself"])
def test_only_a_regular_file_is_read_and_nothing_is_waited_for(tmp_path: Path, there: str) -> None:
    path = tmp_path / "run.json"
    if there == "a pipe":
        os.mkfifo(path)
    elif there == "a folder":
        path.mkdir()
    elif there != "nothing":
        path.symlink_to("/dev/zero" if there == "a device" else path)
    assert str(path) in refused(lambda: json_object(path), error=UnreadableError)
    if there != "nothing":
        refused(lambda: Checkpoint.read(path, "mine"), str(path), error=CheckpointError)


@pytest.mark.parametrize("name", [MANIFEST, EXAMPLES, VOCABULARY, PIXELS])
def test_file_of_a_set_that_the_machine_does_not_let_be_read_is_not_called_damaged(
    data: PreparedData, name: str
) -> None:
    reads: dict[str, Callable[[], Any]] = {
        MANIFEST: lambda: PreparedData.open(data.path),
        EXAMPLES: lambda: read_examples(data.path, data.manifest),
        VOCABULARY: lambda: read_vocabulary(data.path, data.manifest),
        PIXELS: lambda: PixelFile(data.path / PIXELS, data.manifest.side or 0),
    }
    with limited(resource.RLIMIT_NOFILE, 0):
        message = refused(reads[name], str(data.path / name), "(Too many open files)", error=NotReadError)
    assert "delete" not in message
    assert NotReadError.exit_status == 1
    reads[name]()


def test_threads_that_arrow_cannot_start_are_no_damage(data: PreparedData, monkeypatch: pytest.MonkeyPatch) -> None:
    def starts(_: str) -> None:
        raise pa.ArrowException("Unknown error: Failed to launch worker thread")

    monkeypatch.setattr(pa, "memory_map", starts)
    for read in (lambda: read_examples(data.path, data.manifest), lambda: PixelFile(data.path / PIXELS, 8)):
        refused(read, "worker thread", "do the same again", error=NotReadError)


@pytest.mark.parametrize("read", [json_object, lambda path: BundleManifest.read(path.parent), read_source])
def test_disk_that_fails_is_told_as_such(tmp_path: Path, read: Callable[[Path], Any]) -> None:
    path = tmp_path / "bundle.json"
    path.symlink_to("/proc/self/mem")  # a file whose first byte nobody can read
    refused(lambda: read(path), str(path), "(Input/output error)", error=NotReadError)


def test_advice_on_a_damaged_vocabulary_stands_once(data: PreparedData, tmp_path: Path) -> None:
    (tmp_path / VOCABULARY).write_text("[]")
    message = refused(lambda: read_vocabulary(tmp_path, data.manifest), VOCABULARY, "damaged", ANEW)
    assert message.count("prepare") == 1


@pytest.mark.parametrize("name", [MANIFEST, EXAMPLES, VOCABULARY, PIXELS])
def test_pipe_in_a_prepared_set_is_refused(prepared: Path, name: str, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(prepared, copy)
    if (copy / name).exists():
        (copy / name).unlink()
        os.mkfifo(copy / name)
        refused(lambda: PreparedData.open(copy).verify(), str(copy / name))


@pytest.mark.parametrize("name", ["run.json", "study.journal"])
@pytest.mark.parametrize("there", ["a pipe", "a folder"])
def test_run_with_something_else_in_place_of_a_file_is_refused(
    run: RunFolder, tmp_path: Path, name: str, there: str
) -> None:
    shutil.copytree(run.path, tmp_path / "copy")
    path = tmp_path / "copy" / name
    path.unlink()
    if there == "a pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    refused(lambda: load_records(RunFolder(tmp_path / "copy")), str(path))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"null",
        b'"x"',
        b"{",
        b"\xff{}",
        b'{"a": "\\ud800"}',
        b"[" * 10**6,
        b'{"a": ' + b"9" * 9999,
        b'{"a": 1, "b": [{"a": 1, "\\ud800": 2, "\\ud800": 2}]}',
    ],
)
def test_what_is_no_object_of_json_is_refused_in_one_line(content: bytes) -> None:
    assert len(refused(lambda: parsed_object(content, "file"), "file", error=UnreadableError)) < 200


def test_name_outside_of_the_folder_is_no_file_of_a_set(prepared: Path) -> None:
    manifest = json.loads((prepared / MANIFEST).read_bytes())
    manifest |= {"version": 2, "files": manifest["files"] | {"../secret": 3}}
    manifest.pop("sha256", None)
    refused(lambda: Manifest.from_json(json.dumps(manifest).encode(), "manifest.json"), "manifest.json", "other files")


def test_features_with_any_byte_changed_are_none(tmp_path: Path) -> None:
    import hashlib

    path = tmp_path / "x.npy"
    np.save(path, np.arange(30, dtype="<f4").reshape(5, 6))
    content = path.read_bytes()
    whole = content + hashlib.sha256(content).digest()
    assert not _is_whole(path), "of a captune that wrote no sum"
    for place in range(len(whole)):
        os.utime(path, ns=(place, place))
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert not _is_whole(path), place
    path.write_bytes(whole)
    assert _is_whole(path) and np.load(path).sum() == 435
