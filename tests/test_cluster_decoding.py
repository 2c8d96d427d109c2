"""Pictures decoded by the nodes of a cluster: the same bytes as here, whatever dies on the way."""

import csv
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
from builders import rest_in_soak
from conftest import Captune
from PIL import Image
from ray_nodes import Nodes

import captune.data_prep.pixels
from captune.cluster.nodes import decoding
from captune.cluster.nodes.address import ClusterError
from captune.cluster.nodes.decoding import Decoded, node_fault, pictures_per_task, ray_decoder
from captune.data_prep.records import DataError
from captune.data_prep.store import PreparedData, prepare

starts_ray = pytest.mark.cluster

SIDE, ROWS, BATCH, TASK = 8, 44, 12, 5  # neither tasks nor batches come out even
MISSING, DAMAGED, FOLDER, EMPTY = 3, 14, 30, 43


@pytest.fixture(scope="module")
def cluster() -> Iterator[Nodes]:
    """A head without CPUs, to which the tests connect, and two nodes of one CPU."""
    with Nodes() as nodes:
        for _ in range(2):
            nodes.add(cpus=1)
        yield nodes


@pytest.fixture
def nodes(cluster: Nodes) -> Iterator[Nodes]:
    """The cluster, with as many nodes as before for the next test."""
    yield cluster
    while len(cluster.others) < 2:
        cluster.add(cpus=1)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train.csv with 44 rows, images/*/*.png, of which four cannot be used and every third takes a node 0.05 s."""
    folder = tmp_path_factory.mktemp("decoding") / "raw"
    (folder / "images" / "a b").mkdir(parents=True)
    rng = np.random.default_rng(0)
    large = folder / "large.png"
    Image.fromarray(rng.integers(0, 8, (1800, 1800, 3), dtype=np.uint8)).save(large, compress_level=1)
    with (folder / "train.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["ImageID", "Labels", "Caption"])
        for place in range(ROWS):
            writer.writerow([f"a b/{place}.png", "1" if place % 2 else "2", f"dog number{place}"])
            path = folder / "images" / "a b" / f"{place}.png"
            if place % 3 == 0:
                path.hardlink_to(large)
            else:
                Image.fromarray(rng.integers(0, 256, (16, 20, 3), dtype=np.uint8)).save(path)
            if place in (MISSING, DAMAGED, FOLDER, EMPTY):
                content = path.read_bytes()
                path.unlink()
                if place == DAMAGED:
                    path.write_bytes(content[:200])
                elif place == FOLDER:
                    path.mkdir()
                elif place == EMPTY:
                    path.touch()
    return folder


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captune.data_prep.pixels, "BATCH_ROWS", BATCH)
    monkeypatch.setattr(decoding, "TASK_PICTURES", TASK)


@pytest.fixture(scope="module")
def whole(raw: Path) -> dict[str, bytes]:
    """The files of a set that threads of this process have decoded, named as from the folder above."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(captune.data_prep.pixels, "BATCH_ROWS", BATCH)
        patch.chdir(raw.parent)
        return content(make(raw, raw.parent / "whole"))


@pytest.fixture(autouse=True)
def in_the_folder_above(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(raw.parent)


def make(raw: Path, out: Path, address: str | None = None, **options: Any) -> PreparedData:
    """The set of raw, by a relative path, as people name folders; by a cluster where an address is given."""
    images = raw.relative_to(Path.cwd()) / "images"
    decode = None if address is None else ray_decoder(address, images)
    settings = {"side": SIDE, "on_bad": "skip", "decode": decode, **options}
    return prepare(raw / "train.csv", images, out, **settings)


def content(data: PreparedData) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in data.path.iterdir()}


def workers_of(node: Any) -> list[int]:
    """Processes of a node that decode at this moment."""
    raylet = node.all_processes["raylet"][0].process.pid
    workers = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            if parent == raylet and (entry / "cmdline").read_bytes().startswith(b"ray::_decode"):
                workers.append(int(entry.name))
    return workers


@pytest.mark.parametrize(
    ("side", "pictures"),
    [(1, 64), (8, 64), (209, 64), (210, 63), (224, 55), (1024, 2), (1182, 2), (1183, 1), (9999, 1)],
)
def test_task_has_64_pictures_or_8_mib_of_pixels(side: int, pictures: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "TASK_PICTURES", 64)
    assert pictures_per_task(side) == pictures


def answer(**changes: Any) -> Decoded:
    """What a node tells that has decoded two pictures."""
    values: dict[str, Any] = {
        "reasons": [None, None],
        "unread": [],
        "fault": None,
        "node": "here (1.2.3.4)",
        "pillow": PIL.__version__,
    }
    return Decoded(pixels=np.zeros((2, 1, 1, 3), np.uint8), **{**values, **changes})


def test_picture_that_nobody_can_read_is_no_fault_of_the_node(raw: Path) -> None:
    pictures = [raw / "images" / "a b" / name for name in ("0.png", f"{MISSING}.png")]
    assert node_fault(answer(unread=[1]), pictures, raw / "images") is None
    assert node_fault(answer(), pictures, raw / "images") is None


def test_picture_that_only_the_node_cannot_read_is_its_fault(raw: Path) -> None:
    pictures = [raw / "images" / "a b" / name for name in (f"{MISSING}.png", "0.png")]
    fault = node_fault(answer(unread=[0, 1]), pictures, Path("raw/images"))
    assert fault and fault.startswith(f"does not see {raw / 'images'}: it cannot read 0.png")
    assert "shared path" in fault and "\n" not in fault


def test_node_with_another_pillow_is_told(raw: Path) -> None:
    fault = node_fault(answer(pillow="1.1.7"), [raw, raw], raw)
    assert fault and "1.1.7" in fault and PIL.__version__ in fault


def test_fault_of_a_node_is_told_unless_it_does_not_see_the_pictures(raw: Path) -> None:
    pictures = [raw / "images" / "a b" / name for name in ("0.png", "1.png")]
    assert node_fault(answer(fault="memory ran out"), pictures, raw / "images") == "fails: memory ran out"
    assert "does not see" in str(node_fault(answer(fault="no permission", unread=[1]), pictures, raw / "images"))


@pytest.mark.soak
@starts_ray
def test_disk_that_fails_a_node_ends_the_work_although_bad_pictures_are_skipped(
    raw: Path, tmp_path: Path, nodes: Nodes
) -> None:
    own = tmp_path / "raw"
    shutil.copytree(raw, own, copy_function=os.link)
    (own / "images" / "a b" / "5.png").unlink()
    (own / "images" / "a b" / "5.png").symlink_to("/proc/self/mem")  # a file whose first byte nobody can read
    os.chdir(tmp_path)
    with pytest.raises(ClusterError, match=r"node .* fails: picture .*5\.png cannot be read: Input/output error"):
        make(own, tmp_path / "data", nodes.address)


def test_threads_and_another_decoder_exclude_each_other(raw: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="workers"):
        make(raw, tmp_path / "data", "127.0.0.1:1", workers=2)
    assert not list(tmp_path.iterdir())


@starts_ray
def test_cluster_makes_the_same_files_and_reports_every_picture(
    raw: Path, whole: dict[str, bytes], tmp_path: Path, nodes: Nodes
) -> None:
    import ray

    counts: list[tuple[int, int]] = []
    data = make(raw, tmp_path / "data", nodes.address, progress=lambda *pair: counts.append(pair))
    assert content(data) == whole
    assert counts == [(count, ROWS) for count in range(1, ROWS + 1)]
    assert [row.split(",")[0] for row in whole["bad_rows.csv"].decode().splitlines()[1:]] == [
        str(place + 2) for place in (MISSING, DAMAGED, FOLDER, EMPTY)
    ]
    assert not ray.is_initialized()


@starts_ray
def test_first_bad_picture_ends_it_with_the_same_words(raw: Path, tmp_path: Path, nodes: Nodes) -> None:
    messages = []
    for address in (None, nodes.address):
        with pytest.raises(DataError) as caught:
            make(raw, tmp_path / str(address), address, on_bad="error")
        messages.append(str(caught.value))
    assert messages[0] == messages[1] and f"picture raw/images/a b/{MISSING}.png does not exist" in messages[0]


@starts_ray
def test_all_pictures_missing_is_the_usual_error(raw: Path, tmp_path: Path, nodes: Nodes) -> None:
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="has no usable picture"):
        prepare(
            raw / "train.csv", tmp_path / "none", tmp_path / "data", side=SIDE, on_bad="skip",
            decode=ray_decoder(nodes.address, tmp_path / "none"),
        )  # fmt: skip


@starts_ray
@pytest.mark.parametrize("moment", rest_in_soak([1, BATCH, BATCH + 1, ROWS], BATCH + 1))
def test_cluster_goes_on_with_what_interrupted_threads_left(
    raw: Path, whole: dict[str, bytes], tmp_path: Path, nodes: Nodes, moment: int
) -> None:
    counts: list[int] = []

    def interrupt(done: int, _total: int) -> None:
        if done == moment:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(raw, tmp_path / "data", progress=interrupt)
    data = make(raw, tmp_path / "data", nodes.address, progress=lambda done, _total: counts.append(done))
    assert content(data) == whole
    assert counts[0] == max(1, (moment - 1) // BATCH * BATCH)


@starts_ray
def test_threads_go_on_with_what_an_interrupted_cluster_left(
    raw: Path, whole: dict[str, bytes], tmp_path: Path, nodes: Nodes
) -> None:
    import ray

    counts: list[int] = []

    def interrupt(done: int, _total: int) -> None:
        if done == BATCH + TASK + 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(raw, tmp_path / "data", nodes.address, progress=interrupt)
    assert not ray.is_initialized()
    data = make(raw, tmp_path / "data", progress=lambda done, _total: counts.append(done))
    assert content(data) == whole
    assert counts[0] == BATCH


@pytest.mark.slow
def test_set_whose_pictures_are_all_decoded_is_finished_without_a_cluster(
    raw: Path, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("captune.data_prep.assemble.write_examples", interrupt)
        make(raw, tmp_path / "data")
    assert content(make(raw, tmp_path / "data", "127.0.0.1:1")) == whole


@pytest.mark.soak
@starts_ray
def test_killed_command_goes_on_on_the_cluster(
    raw: Path, whole: dict[str, bytes], tmp_path: Path, nodes: Nodes
) -> None:
    code = f"""
import os, signal
from pathlib import Path
import captune.data_prep.pixels
from captune.cluster.nodes import decoding
from captune.data_prep.store import prepare

captune.data_prep.pixels.BATCH_ROWS, decoding.TASK_PICTURES = {BATCH}, {TASK}
prepare(
    {str(raw / "train.csv")!r}, "raw/images", {str(tmp_path / "data")!r}, side={SIDE}, on_bad="skip",
    decode=decoding.ray_decoder({nodes.address!r}, Path("raw/images")),
    progress=lambda done, total: os.kill(os.getpid(), signal.SIGKILL) if done == {2 * BATCH + 1} else None,
)
"""
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert killed.returncode == -signal.SIGKILL, killed
    counts: list[int] = []
    data = make(raw, tmp_path / "data", nodes.address, progress=lambda done, _total: counts.append(done))
    assert content(data) == whole
    assert counts[0] == 2 * BATCH


@pytest.mark.soak
@starts_ray
def test_killed_worker_costs_nothing(raw: Path, whole: dict[str, bytes], tmp_path: Path, nodes: Nodes) -> None:
    killed: list[int] = []

    def kill(_done: int, _total: int) -> None:
        if len(killed) < 3 and (busy := workers_of(nodes.others[0])) and busy[0] not in killed:
            os.kill(busy[0], signal.SIGKILL)
            killed.append(busy[0])

    assert content(make(raw, tmp_path / "data", nodes.address, progress=kill)) == whole
    assert killed


@starts_ray
@pytest.mark.parametrize("at_work", rest_in_soak([True, False], True))
def test_killed_node_costs_nothing(
    raw: Path, whole: dict[str, bytes], tmp_path: Path, nodes: Nodes, at_work: bool
) -> None:
    victim = nodes.others[1]

    def kill(_done: int, _total: int) -> None:
        if victim not in nodes.others or not workers_of(victim):
            return
        while not at_work and any(map(workers_of, nodes.others)):
            time.sleep(0.02)
        nodes.kill(victim)

    assert content(make(raw, tmp_path / "data", nodes.address, progress=kill)) == whole
    assert victim not in nodes.others


@pytest.mark.soak
@starts_ray
def test_cluster_without_a_node_that_decodes_is_told(
    raw: Path, whole: dict[str, bytes], tmp_path: Path, nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "PATIENCE", 1.0)

    def end_all(done: int, _total: int) -> None:
        while done > BATCH and nodes.others:
            nodes.kill(nodes.others[0], signed_off=True)

    with pytest.raises(ClusterError, match=r"has had no node with a CPU for 1 s: add one"):
        make(raw, tmp_path / "data", nodes.address, progress=end_all)
    started = time.monotonic()
    with pytest.raises(ClusterError, match=r"has no node with a CPU: add one"):
        make(raw, tmp_path / "data", nodes.address)
    assert time.monotonic() - started < 10
    nodes.add(cpus=1)
    assert content(make(raw, tmp_path / "data", nodes.address)) == whole


@starts_ray
def test_command_takes_an_address(raw: Path, tmp_path: Path, nodes: Nodes, captune: Captune) -> None:
    (tmp_path / "threads").mkdir()
    for place, more in (("threads/data", []), ("data", ["--address", nodes.address])):
        ran = captune(
            "prepare",
            raw / "train.csv",
            "raw/images",
            "--out",
            tmp_path / place,
            "--side",
            8,
            "--on-bad",
            "skip",
            *more,
        )
        assert ran.code == 0, ran
    assert content(PreparedData.open(tmp_path / "data")) == content(PreparedData.open(tmp_path / "threads" / "data"))


Elsewhere = Callable[[Path], None]


@pytest.fixture
def elsewhere(nodes: Nodes) -> Iterator[Elsewhere]:
    """Starts a node on whose machine, so to speak, a folder is empty: it has mounted another disk there."""
    started: list[subprocess.Popen[bytes]] = []
    before = nodes.alive()

    def start(folder: Path) -> None:
        ray = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", f"--address={nodes.address}"]
        ray += ["--num-cpus=1", "--object-store-memory=100000000", "--disable-usage-stats"]
        command = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs tmpfs "$0" && exec "$@"', str(folder), *ray]
        started.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        nodes.wait(before + 1)

    trial = ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    if shutil.which("unshare") is None or subprocess.run(trial, capture_output=True).returncode != 0:
        pytest.skip("no right to mount here")
    try:
        yield start
    finally:
        for process in started:
            for pid in [process.pid, *descendants(process.pid)]:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()
        nodes.wait(before)


def descendants(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children")
    below = [int(child) for child in children.read_text().split()] if children.exists() else []
    return below + [pid for child in below for pid in descendants(child)]


@starts_ray
def test_node_that_does_not_see_the_pictures_is_named_in_seconds(
    raw: Path, whole: dict[str, bytes], tmp_path: Path, nodes: Nodes, elsewhere: Elsewhere
) -> None:
    elsewhere(raw / "images")
    started = time.monotonic()
    with pytest.raises(ClusterError) as caught:
        make(raw, tmp_path / "data", nodes.address)
    assert time.monotonic() - started < 15
    message = str(caught.value)
    assert message.startswith(f"node {socket.gethostname()} (")
    assert f"does not see {raw / 'images'}" in message and "without --address" in message and "\n" not in message
    assert content(make(raw, tmp_path / "data")) == whole


@starts_ray
def test_node_without_captune_is_told_in_one_line(
    raw: Path, tmp_path: Path, nodes: Nodes, elsewhere: Elsewhere
) -> None:
    elsewhere(Path(captune.data_prep.pixels.__file__).parent)
    with pytest.raises(
        ClusterError, match=r"node [\d.]+ cannot load captune \(.*data_prep.*\): install the same version"
    ) as caught:
        make(raw, tmp_path / "data", nodes.address)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_set_that_is_there_needs_no_cluster(raw: Path, tmp_path: Path, captune: Captune) -> None:
    make(raw, tmp_path / "data")
    ran = captune(
        "prepare", raw / "train.csv", "raw/images", "--out", tmp_path / "data", "--side", 8, "--on-bad", "skip",
        "--address", "127.0.0.1:1",
    )  # fmt: skip
    assert ran.code == 0, ran


@pytest.mark.slow
def test_cluster_that_is_not_there_is_told_in_one_line(raw: Path, tmp_path: Path, captune: Captune) -> None:
    ran = captune("prepare", raw / "train.csv", "raw/images", "--out", tmp_path / "data", "--address", "127.0.0.1:1")
    assert ran.code == 1
    assert "127.0.0.1:1" in ran.err and ran.err.count("\n") == 1
    assert not (tmp_path / "data").exists()


def test_address_without_pictures_is_refused(raw: Path, tmp_path: Path, captune: Captune) -> None:
    ran = captune("prepare", raw / "train.csv", "--out", tmp_path / "data", "--address", "127.0.0.1:1")
    assert ran.code == 2
    assert "--address" in ran.err and ran.err.count("\n") == 1
