"""A killed prepare goes on where it was, and ends as the same bytes."""

import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import captune.data_prep.pixels
from captune.data_prep.folder import JOURNAL
from captune.data_prep.records import DataError
from captune.data_prep.store import PreparedData, prepare

pytestmark = pytest.mark.slow  # each starts from a process that was killed

ROWS, BATCH, KILLED_AT = 40, 4, 30
BAD = (6, 33)  # in the part that is done before the kill, and after it
RANDOM = random.Random(os.environ.get("CAPTUNE_SEED"))

# Each decode is a line in the tally, so that those of a killed process count. What prepare imports late is
# imported before the forks: the moments of the kills would all fall into it.
SCRIPT = f"""
import os, signal, sys, time
from pathlib import Path
import iterstrat.ml_stratifiers, nltk.stem.porter, nltk.tokenize.destructive, pyarrow
import captune.data_prep.pixels
from captune.data_prep.store import prepare

raw, out, tally = map(Path, sys.argv[1:4])
captune.data_prep.pixels.BATCH_ROWS = {BATCH}
read = captune.data_prep.pixels.read_image
def read_slowly(path, side):
    with tally.open("a") as file:
        file.write(path.name + "\\n")
    time.sleep(0.002)
    return read(path, side)
def run(progress=None):
    prepare(raw / "train.csv", raw / "images", out, side=8, on_bad="skip", workers=1, progress=progress)
captune.data_prep.pixels.read_image = read_slowly
"""


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """raw/train.csv with 40 rows, raw/images/*.png of noise, of which two are damaged."""
    folder = tmp_path_factory.mktemp("journal") / "raw"
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    with (folder / "train.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["ImageID", "Labels", "Caption"])
        for place in range(ROWS):
            writer.writerow([f"{place}.png", "1" if place % 2 else "2", f"dog number{place}"])
            path = folder / "images" / f"{place}.png"
            Image.fromarray(rng.integers(0, 256, (16, 20, 3), dtype=np.uint8)).save(path)
            if place in BAD:
                path.write_bytes(path.read_bytes()[:200])
    return folder


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captune.data_prep.pixels, "BATCH_ROWS", BATCH)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the pictures decoded from now on."""
    names: list[str] = []
    read = captune.data_prep.pixels.read_image

    def read_image(path: Path, side: int) -> captune.data_prep.pixels.Pixels:
        names.append(path.name)
        return read(path, side)

    monkeypatch.setattr(captune.data_prep.pixels, "read_image", read_image)
    return names


def make(raw: Path, out: Path, **options: object) -> PreparedData:
    settings: dict[str, object] = {"side": 8, "on_bad": "skip", **options}
    return prepare(raw / "train.csv", raw / "images", out, **settings)  # type: ignore[arg-type]


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def killed(raw: Path) -> Path:
    """The folder aside of a run that was killed as it had 30 of 40 pictures. Not to be changed."""
    code = f"{SCRIPT}run(lambda done, total: os.kill(os.getpid(), signal.SIGKILL) if done == {KILLED_AT} else None)"
    out = raw.parent / "killed"
    done = subprocess.run([sys.executable, "-c", code, raw, out, raw.parent / "tally"], check=False)
    assert done.returncode == -signal.SIGKILL and not out.exists()
    return raw.parent / ".killed.partial"


@pytest.fixture
def out(killed: Path, tmp_path: Path) -> Path:
    """Where a killed run has left its folder aside."""
    shutil.copytree(killed, tmp_path / ".data.partial")
    return tmp_path / "data"


@pytest.fixture
def whole(raw: Path, tmp_path: Path) -> dict[str, bytes]:
    """The files of a run that nothing stopped."""
    return content(make(raw, tmp_path / "whole").path)


def test_killed_run_goes_on_with_what_is_left(
    raw: Path, out: Path, whole: dict[str, bytes], decoded: list[str]
) -> None:
    counts: list[tuple[int, int]] = []
    data = make(raw, out, progress=lambda done, total: counts.append((done, total)))
    before = KILLED_AT // BATCH * BATCH
    assert sorted(decoded) == sorted(f"{place}.png" for place in range(before, ROWS))
    assert counts == [(done, ROWS) for done in range(before, ROWS + 1)]
    assert content(out) == whole
    assert data.manifest.rows_skipped == len(BAD)
    assert sorted(path.name for path in out.parent.iterdir()) == ["data", "whole"]


def test_killed_at_random_moments_ends_as_the_same_bytes(raw: Path, tmp_path: Path, whole: dict[str, bytes]) -> None:
    tally, moments = tmp_path / "tally", [str(RANDOM.uniform(0, 0.1)) for _ in range(8)]
    code = f"""{SCRIPT}
for moment in sys.argv[4:]:
    child = os.fork()
    if child == 0:
        run()
        os._exit(0)
    time.sleep(float(moment))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
run()
"""
    subprocess.run([sys.executable, "-c", code, raw, tmp_path / "data", tally, *moments], check=True)
    assert content(tmp_path / "data") == whole
    # A kill costs the batch that is being written and the one decoded meanwhile.
    assert ROWS <= len(tally.read_text().split()) <= ROWS + len(moments) * 2 * BATCH


def test_killed_after_the_pictures_decodes_none_again(raw: Path, tmp_path: Path, whole: dict[str, bytes]) -> None:
    code = f"""{SCRIPT}
from captune.data_prep import assemble
assemble.count_words = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
run()
"""
    tally = tmp_path / "tally"
    subprocess.run([sys.executable, "-c", code, raw, tmp_path / "data", tally], check=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(captune.data_prep.pixels, "read_image", lambda *_: pytest.fail("decoded again"))
        make(raw, tmp_path / "data")
    assert content(tmp_path / "data") == whole


def _side(raw: Path) -> dict[str, object]:
    return {"side": 9}


def _seed(raw: Path) -> dict[str, object]:
    return {"seed": 1}


def _csv(raw: Path) -> dict[str, object]:
    (raw / "train.csv").write_text((raw / "train.csv").read_text().replace("number3", "number4"))
    return {}


def _picture(raw: Path) -> dict[str, object]:
    Image.new("RGB", (20, 16)).save(raw / "images/2.png")
    return {}


@pytest.mark.parametrize("change", [_side, _seed, _csv, _picture])
def test_other_inputs_start_anew(
    raw: Path, out: Path, decoded: list[str], change: Callable[[Path], dict[str, object]]
) -> None:
    other = shutil.copytree(raw, out.parent / "raw")
    options = change(other)
    make(other, out, **options)
    assert len(decoded) == ROWS
    assert content(out) == content(make(other, out.parent / "fresh", **options).path)


def test_file_of_pictures_that_ends_where_a_batch_does_is_gone_on_with(
    raw: Path, out: Path, whole: dict[str, bytes], decoded: list[str]
) -> None:
    """As where a machine went down, and of two files the one that was written first was not on the disk yet."""
    partial = out.parent / ".data.partial"
    before = (partial / "pixels.arrow").read_bytes()
    ends = [json.loads(line[9:])["end"] for line in (partial / JOURNAL).read_bytes().splitlines()[1:]]
    for at in [*ends[:-1], before.index(b"pixels")]:
        aside = shutil.copytree(partial, out.parent / "left")
        (partial / "pixels.arrow").write_bytes(before[:at])
        make(raw, out)
        assert content(out) == whole
        shutil.rmtree(out)
        aside.rename(partial)
    assert len(ends) > 1 and decoded


def test_batches_of_another_size_start_anew(
    raw: Path, out: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(captune.data_prep.pixels, "BATCH_ROWS", BATCH + 1)
    make(raw, out)
    assert len(decoded) == ROWS


def test_captions_alone_throw_the_pictures_away(raw: Path, out: Path) -> None:
    prepare(raw / "train.csv", None, out)
    assert set(content(out)) == {"manifest.json", "examples.arrow", "vocabulary.json"}


@pytest.mark.parametrize("name", [JOURNAL, "pixels.arrow"])
@pytest.mark.parametrize("damage", ["cut", "changed", "longer", "gone"])
def test_torn_write_is_thrown_away(
    raw: Path, out: Path, whole: dict[str, bytes], decoded: list[str], name: str, damage: str
) -> None:
    path = out.parent / ".data.partial" / name
    before = path.read_bytes()
    for _ in range(5):
        at = RANDOM.randrange(len(before))
        damaged = {
            "cut": before[:at],
            "changed": before[:at] + bytes([before[at] ^ 0x55]) + before[at + 1 :],
            "longer": before + before[:at],
        }
        path.unlink()
        if damage != "gone":
            path.write_bytes(damaged[damage])
        aside = shutil.copytree(path.parent, out.parent / "left")
        make(raw, out)
        assert content(out) == whole
        shutil.rmtree(out)
        aside.rename(path.parent)
        path.write_bytes(before)
    least = ROWS - KILLED_AT // BATCH * BATCH
    assert 5 * least <= len(decoded) <= 5 * ROWS
    assert damage != "gone" or len(decoded) == 5 * ROWS
    assert damage != "longer" or len(decoded) == 5 * least


def test_two_runs_cannot_go_on_at_once(raw: Path, out: Path, whole: dict[str, bytes]) -> None:
    refused = []

    def second(done: int, total: int) -> None:
        if done == KILLED_AT:
            with pytest.raises(DataError, match="by another process"):
                make(raw, out)
            refused.append(done)

    make(raw, out, progress=second)
    assert refused == [KILLED_AT]
    assert content(out) == whole
