"""Prepared data in object storage, and its copies on a node's disk: killed, raced for, damaged, without room."""

import json
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from object_storage import Proxy, Requests, end, files_in, python, refusal

from captune.cluster.object_storage import data_cache as node_data
from captune.cluster.object_storage.data_cache import local_copy, upload_data
from captune.cluster.object_storage.remote_folder import RemoteFolder
from captune.data_prep.store import PreparedData, prepare


@pytest.fixture(scope="module")
def sets(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> list[PreparedData]:
    """Three data sets of captions."""
    out = tmp_path_factory.mktemp("sets")
    return [prepare(drawn / "train.csv", None, out / str(seed), seed=seed) for seed in range(3)]


@pytest.fixture
def urls(server: str, sets: list[PreparedData], tmp_path: Path) -> list[str]:
    """Where each of them is."""
    places = [f"s3://bucket/{tmp_path.name}/{n}?endpoint_override={server}&scheme=http" for n in range(len(sets))]
    for data, url in zip(sets, places, strict=True):
        upload_data(data.path, url)
    return places


def size_of(data: PreparedData) -> int:
    return sum(path.stat().st_size for path in data.path.iterdir())


COPY = """if True:
    import sys, pathlib
    from captune.cluster.object_storage.data_cache import local_copy
    print(local_copy(sys.argv[1], pathlib.Path(sys.argv[2]), int(sys.argv[3])), flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def let_go() -> Iterator[None]:
    """The copies that a test has used in this process are in use no longer when it ends."""
    yield
    while node_data._locks:
        node_data._locks.popitem()[1].close()


def copied(url: str, cache: Path, max_bytes: int) -> str:
    """Of a process that has ended since."""
    out, err = python(COPY, url, cache, max_bytes).communicate()
    assert err == ""
    return Path(out.strip()).name


@pytest.mark.usefixtures("let_go")
def test_data_set_travels_there_and_back(url: str, data: PreparedData, tmp_path: Path) -> None:
    upload_data(data.path, url)
    path = local_copy(url, tmp_path / "cache", 1 << 30)
    assert files_in(path) == files_in(data.path)
    assert (PreparedData.open(path).labels == data.labels).all()
    inode = path.stat().st_ino
    assert local_copy(url, tmp_path / "cache", 1 << 30) == path
    assert path.stat().st_ino == inode
    assert len(node_data._locks) == 1


def test_same_data_set_is_not_uploaded_again_and_another_is_refused(
    s3: str, sets: list[PreparedData], requests: Requests
) -> None:
    upload_data(sets[0].path, s3)
    stored = [line for line in requests.lines if line.startswith("PUT")]
    assert "manifest.json" in stored[-1]
    requests.lines.clear()
    upload_data(sets[0].path, s3)
    assert not [line for line in requests.lines if line.startswith(("PUT", "POST"))]
    assert "holds another data set" in refusal(lambda: upload_data(sets[1].path, s3))
    assert RemoteFolder(s3).read("manifest.json") == (sets[0].path / "manifest.json").read_bytes()


def test_what_is_no_data_set_is_not_uploaded_or_copied(url: str, tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    assert "not a prepared data set" in refusal(lambda: upload_data(tmp_path / "nothing", url))
    assert "not a prepared data set" in refusal(lambda: local_copy(url, tmp_path / "cache", 1 << 30))
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda manifest: manifest | {"fingerprint": "../../x"},
        lambda manifest: manifest | {"files": manifest["files"] | {"../x": 1}},
        lambda manifest: manifest | {"version": 99},
        lambda manifest: {},
        lambda manifest: [],
    ],
)
def test_manifest_that_is_spoilt_is_refused(
    s3: str, sets: list[PreparedData], tmp_path: Path, spoil: Callable[[dict[str, object]], object]
) -> None:
    upload_data(sets[0].path, s3)
    RemoteFolder(s3).write("manifest.json", json.dumps(spoil(json.loads(sets[0].manifest.to_json()))).encode())
    assert "prepare it again" in refusal(lambda: local_copy(s3, tmp_path / "cache", 1 << 30))
    assert not files_in(tmp_path)


@pytest.mark.parametrize("content", [None, b"", b"cut", bytes(4096)])
def test_damaged_data_set_is_refused_and_leaves_nothing(
    url: str, sets: list[PreparedData], tmp_path: Path, content: bytes | None
) -> None:
    upload_data(sets[0].path, url)
    remote = RemoteFolder(url)
    if content is None:
        remote.remove("examples.arrow")
    else:
        remote.write("examples.arrow", content)
        if len(content) == 4096:  # of the size that the manifest tells, but nothing that can be opened
            files = sets[0].manifest.files | {"examples.arrow": 4096}
            remote.write("manifest.json", replace(sets[0].manifest, files=files).to_json().encode())
    refusal(lambda: local_copy(url, tmp_path / "cache", 1 << 30))
    assert {path.suffix for path in (tmp_path / "cache").iterdir()} == {".lock"}
    assert not node_data._locks


@pytest.mark.usefixtures("let_go")
def test_copy_that_was_damaged_on_the_node_is_downloaded_again(
    url: str, sets: list[PreparedData], tmp_path: Path
) -> None:
    upload_data(sets[0].path, url)
    path = local_copy(url, tmp_path / "cache", 1 << 30)
    (path / "examples.arrow").write_bytes(b"cut")
    assert files_in(local_copy(url, tmp_path / "cache", 1 << 30)) == files_in(sets[0].path)


def flipped(content: bytes) -> bytes:
    """The same with one bit of a label changed: of the same size, and every value in its range."""
    return content[:-2000] + bytes([content[-2000] ^ 1]) + content[-1999:]


def test_download_that_differs_in_a_bit_is_refused(url: str, sets: list[PreparedData], tmp_path: Path) -> None:
    upload_data(sets[0].path, url)
    RemoteFolder(url).write("examples.arrow", flipped((sets[0].path / "examples.arrow").read_bytes()))
    assert "examples.arrow" in refusal(lambda: local_copy(url, tmp_path / "cache", 1 << 30))
    assert {path.suffix for path in (tmp_path / "cache").iterdir()} == {".lock"}


@pytest.mark.usefixtures("let_go")
def test_copy_that_changed_in_a_bit_is_downloaded_again_by_whoever_verifies(
    url: str, sets: list[PreparedData], tmp_path: Path
) -> None:
    upload_data(sets[0].path, url)
    path = local_copy(url, tmp_path / "cache", 1 << 30) / "vocabulary.json"
    content = path.read_bytes()
    path.write_bytes(content.replace(b"ball", b"boll"))
    local_copy(url, tmp_path / "cache", 1 << 30)
    assert path.read_bytes() != content, "workers do not read it all again"
    local_copy(url, tmp_path / "cache", 1 << 30, verify=True)
    assert path.read_bytes() == content


def test_eight_processes_at_once_download_once(
    s3: str, sets: list[PreparedData], requests: Requests, tmp_path: Path
) -> None:
    upload_data(sets[0].path, s3)
    requests.lines.clear()
    processes = [python(COPY, s3, tmp_path / "cache", 1 << 30) for _ in range(8)]
    for process in processes:
        out, err = process.communicate()
        assert (err, Path(out.strip())) == ("", tmp_path / "cache" / sets[0].manifest.fingerprint)
    assert requests.count("GET", "examples.arrow") == 1
    assert requests.count("GET", "vocabulary.json") == 1
    assert not list((tmp_path / "cache").glob(".captune-*"))


def test_killed_download_is_begun_again_by_the_process_that_waits(
    s3: str, server: str, proxy: Proxy, data: PreparedData, tmp_path: Path
) -> None:
    upload_data(data.path, s3)
    slow = s3.replace(server, proxy.address)
    proxy.stall_after = 150_000  # in the middle of the pictures
    first = python(COPY, slow, tmp_path / "cache", 1 << 30)
    second = None
    try:
        assert proxy.stalled.wait(30)
        second = python(COPY, s3, tmp_path / "cache", 1 << 30)
        with pytest.raises(subprocess.TimeoutExpired):
            second.wait(2)
        assert not (tmp_path / "cache" / data.manifest.fingerprint).exists()
        assert list((tmp_path / "cache").glob(".captune-*"))
        first.send_signal(signal.SIGKILL)
        out, err = second.communicate(timeout=30)
        assert err == ""
        assert files_in(Path(out.strip())) == files_in(data.path)
        assert not list((tmp_path / "cache").glob(".captune-*"))
    finally:
        for process in (first, second):
            if process is not None:
                end(process)


def test_what_was_used_longest_ago_makes_room(urls: list[str], sets: list[PreparedData], tmp_path: Path) -> None:
    cache, names, sizes = tmp_path / "cache", [d.manifest.fingerprint for d in sets], [size_of(d) for d in sets]
    room = max(sizes) * 2
    assert room < sum(sizes)

    def there() -> set[int]:
        return {n for n, name in enumerate(names) if (cache / name).is_dir()}

    copied(urls[0], cache, room)
    copied(urls[1], cache, room)
    copied(urls[0], cache, room)
    assert there() == {0, 1}
    copied(urls[2], cache, room)
    assert there() == {0, 2}
    copied(urls[1], cache, room)
    assert there() == {1, 2}
    assert sum(len(content) for name, content in files_in(cache).items() if not name.endswith(".lock")) <= room


def test_copy_in_use_is_not_removed(urls: list[str], sets: list[PreparedData], tmp_path: Path) -> None:
    cache, room = tmp_path / "cache", max(size_of(data) for data in sets) + 10
    user = python(COPY, urls[0], cache, room)
    try:
        assert user.stdout is not None
        path = Path(user.stdout.readline().strip())
        message = refusal(lambda: local_copy(urls[1], cache, room))
        assert f"{room:,}" in message and f"{size_of(sets[0]):,}" in message and f"{size_of(sets[1]):,}" in message
        assert files_in(path) == files_in(sets[0].path)
    finally:
        end(user)
    assert copied(urls[1], cache, room) == sets[1].manifest.fingerprint
    assert not path.exists()


def test_data_set_without_room_is_refused_before_anything_is_removed(
    urls: list[str], sets: list[PreparedData], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, size = tmp_path / "cache", size_of(sets[1])
    copied(urls[0], cache, 1 << 30)
    assert f"{size - 1:,}" in refusal(lambda: local_copy(urls[1], cache, size - 1))
    monkeypatch.setattr(node_data.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000 - size_of(sets[0])))
    message = refusal(lambda: local_copy(urls[1], cache, 1 << 30))
    assert f"{size:,}" in message and "1,000 free" in message
    assert files_in(cache / sets[0].manifest.fingerprint) == files_in(sets[0].path)
