"""Object storage: real requests to an S3 server on this machine, cut off, killed, taken over and raced for."""

import json
import logging
import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from urllib.request import Request, urlopen

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster import node_data, storage
from cluster.mirror import Mirror, _journal, _owner, _Pieces, fetch_run
from cluster.node_data import local_copy, upload_data
from cluster.storage import Place, StorageError, is_url, join
from data_prep.store import PreparedData, prepare

NEVER = 3600.0  # seconds between the looks of a mirror that looks only when it is told to


class Requests(logging.Handler):
    """What the server was asked: "GET /bucket/key" and so on."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        uncoloured = re.sub(r"\x1b\[\d*m", "", record.getMessage())
        self.lines.append(uncoloured.partition('"')[2])

    def count(self, method: str, ending: str) -> int:
        return sum(line.startswith(f"{method} ") and line.split()[1].endswith(ending) for line in self.lines)


class Proxy:
    """Stands before a server: passes on, or stops in the middle of an answer, or hangs up in it, or is not there."""

    def __init__(self, server: str) -> None:
        self._server = server
        self.stall_after: int | None = None  # bytes of one answer
        self.cut_after: int | None = None  # once
        self.down = False
        self.stalled = threading.Event()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._socket.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            if self.down:
                client.close()
                continue
            host, _, port = self._server.partition(":")
            server = socket.create_connection((host, int(port)))
            threading.Thread(target=self._pass, args=(client, server, False), daemon=True).start()
            threading.Thread(target=self._pass, args=(server, client, True), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, answer: bool) -> None:
        passed = 0
        try:
            while data := source.recv(1 << 16):
                passed += len(data)
                if answer and self.stall_after is not None and passed > self.stall_after:
                    self.stalled.set()
                    return
                if answer and self.cut_after is not None and passed > self.cut_after:
                    self.cut_after = None
                    break
                target.sendall(data)
        except OSError:
            pass
        for side in (source, target):
            with suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """host:port of an S3 server with the bucket `bucket`."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.INFO)
    logging.getLogger("werkzeug").propagate = False
    moto = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        urlopen(Request(f"http://{host}:{port}/bucket", method="PUT")).close()
        yield f"{host}:{port}"
    moto.stop()


@pytest.fixture
def requests() -> Iterator[Requests]:
    seen = Requests()
    logging.getLogger("werkzeug").addHandler(seen)
    yield seen
    logging.getLogger("werkzeug").removeHandler(seen)


@pytest.fixture
def proxy(server: str) -> Iterator[Proxy]:
    with closing(Proxy(server)) as proxy:
        yield proxy


@pytest.fixture
def s3(server: str, tmp_path: Path) -> str:
    return f"s3://bucket/{tmp_path.name}?endpoint_override={server}&scheme=http"


@pytest.fixture(params=["s3", "file"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty place, once on the server and once on the disk."""
    if request.param == "s3":
        found: str = request.getfixturevalue("s3")
        return found
    return (tmp_path / "place").as_uri()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with a bit of everything."""
    folder = tmp_path / "run"
    for name, text in {
        "run.json": '{"seed": 1}',
        "study.journal": "one\ntwo\n",
        "tracebacks/3.txt": "trouble",
        "winner/proof.json": "{}",
        "winner/bundle/weights.safetensors": "w" * 100_000,
        "winner.tmp/bundle/weights.safetensors": "half",
        "summary.tmp": "half",
        "checkpoints/3/last.safetensors": "state",
        "lock": "process 1",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


MIRRORED = {
    "run.json",
    "study.journal",
    "tracebacks/3.txt",
    "winner/proof.json",
    "winner/bundle/weights.safetensors",
}


@pytest.fixture(scope="module")
def sets(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> list[PreparedData]:
    """Three data sets of captions."""
    out = tmp_path_factory.mktemp("sets")
    return [prepare(drawn / "train.csv", None, out / str(seed), seed=seed) for seed in range(3)]


def size_of(data: PreparedData) -> int:
    return sum(path.stat().st_size for path in data.path.iterdir())


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def python(code: str, *arguments: object) -> subprocess.Popen[str]:
    """A process that runs code with sys.argv[1:] as given."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent,
    )


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def refusal(action: Callable[[], object], seconds: float = 10.0) -> str:
    """The message with which action fails, which is one line and comes within `seconds`."""
    started = time.monotonic()
    with pytest.raises(StorageError) as caught:
        action()
    assert time.monotonic() - started < seconds
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Addresses


def test_addresses_are_told_from_paths() -> None:
    assert all(is_url(text) for text in ("s3://b/k", "gs://b", "file:///x"))
    assert not any(is_url(text) for text in ("", "s3", "/s3://b", "runs/s3", "http://b", "s3:/b", "C:\\x"))


def test_join_keeps_the_query_and_encodes_names() -> None:
    assert join("s3://b?scheme=http", "a", "b/c.json") == "s3://b/a/b/c.json?scheme=http"
    assert join("s3://b/k/?scheme=http&endpoint_override=h:1", "a#? %") == (
        "s3://b/k/a%23%3F%20%25?scheme=http&endpoint_override=h:1"
    )
    assert join("file:///x") == "file:///x"


def test_joined_address_is_the_folder_of_that_name(url: str) -> None:
    Place(url).write("a b/é+%41#?/x", b"1")
    assert Place(join(url, "a b", "é+%41#?")).read("x") == b"1"


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        ("/a/path", "s3://"),
        ("s3://", "names no bucket"),
        ("s3:///folder", "names no bucket"),
        ("file://", "names no folder"),
        ("file://host/folder", "names no folder"),
        ("s3://b/k?conect_timeout=1", "unknown option 'conect_timeout'"),
        ("file:///x?region=y", "file:// has none"),
        ("s3://b/k#x", "%23"),
        ("s3://b//k", "/ once"),
    ],
)
def test_what_is_no_address_is_refused_before_anything_is_connected(bad: str, told: str) -> None:
    assert told in refusal(lambda: Place(bad), 0.5)


@pytest.mark.parametrize("address", ["s3://id:hush@b/k", "s3://hush@b/k", "gs://id:hush@b/k"])
def test_credentials_in_an_address_are_refused_and_not_repeated(address: str) -> None:
    assert "hush" not in refusal(lambda: Place(address))


def test_modules_load_no_heavy_library() -> None:
    heavy = "{'pyarrow', 'numpy', 'ray', 'tensorflow'}"
    process = python(f"import sys, cluster.mirror, cluster.node_data; print({heavy} & set(sys.modules))")
    assert process.communicate()[0] == "set()\n"


# Place


def test_file_is_read_back_replaced_and_removed(url: str) -> None:
    place = Place(url)
    assert place.read("a/b.txt") is None
    assert not place.exists() and not place.exists("a") and place.list() == {}
    place.remove("a/b.txt")
    place.write("a/b.txt", b"first")
    place.write("a/b.txt", b"2nd")
    place.write("empty", b"")
    assert place.read("a/b.txt") == b"2nd"
    assert place.read("empty") == b""
    assert place.list() == {"a/b.txt": 3, "empty": 0}
    assert place.list("a") == {"a/b.txt": 3}
    assert place.list("b") == {}
    assert place.exists() and place.exists("a") and place.exists("a/b.txt") and not place.exists("a/b")
    place.remove("a")
    assert place.list() == {"empty": 0}
    assert not place.exists("a")


def test_folder_travels_there_and_back(url: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "deep" / "er").mkdir(parents=True)
    (source / "one").write_bytes(os.urandom(20 << 20))  # several blocks and parts
    (source / "deep" / "er" / "zwei é").write_bytes(b"2")
    (source / "deep" / "none").write_bytes(b"")
    place = Place(url)
    place.upload(source, "kept/it")
    place.download("kept/it", tmp_path / "back" / "again")
    assert files_in(tmp_path / "back") == {f"again/{name}": data for name, data in files_in(source).items()}
    place.download("kept/it/deep/er/zwei é", source / "one")
    assert (source / "one").read_bytes() == b"2"
    place.upload(source, "")
    assert place.read("one") == b"2"
    assert not [name for name in [*place.list(), *files_in(tmp_path)] if name.endswith(".aside")]


def test_download_of_what_is_not_there_or_into_a_full_folder_is_refused(url: str, tmp_path: Path) -> None:
    place = Place(url)
    assert "is not there" in refusal(lambda: place.download("nothing", tmp_path / "x"))
    place.write("a/b", b"1")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("keep")
    assert str(tmp_path / "full") in refusal(lambda: place.download("a", tmp_path / "full"))
    assert files_in(tmp_path / "full") == {"mine": b"keep"}
    assert str(tmp_path / "gone") in refusal(lambda: place.upload(tmp_path / "gone", "a"))
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/x", "a//b", ".", "a/"])
def test_name_that_leads_out_is_refused(url: str, name: str) -> None:
    place = Place(url)
    for action in (place.read, place.list, place.remove, lambda name: place.write(name, b"")):
        assert repr(name) in refusal(lambda action=action: action(name))  # type: ignore[misc]


def test_key_that_leads_out_of_its_folder_is_not_written_there(server: str, s3: str, tmp_path: Path) -> None:
    import boto3

    client = boto3.client("s3", endpoint_url=f"http://{server}", region_name="us-east-1")
    client.put_object(Bucket="bucket", Key=f"{tmp_path.name}/a/../../../evil", Body=b"evil")
    assert ".." in refusal(lambda: Place(s3).download("a", tmp_path / "below" / "a"))
    assert not files_in(tmp_path)


def test_place_pickles_to_its_address_and_works_in_another_process(url: str) -> None:
    place = Place(url)
    place.write("a", b"1")
    pickled = pickle.dumps(place)
    assert len(pickled) < 300
    process = python("import sys, pickle; print(pickle.loads(bytes.fromhex(sys.argv[1])).read('a'))", pickled.hex())
    assert process.communicate()[0] == "b'1'\n"


def test_place_works_in_a_forked_process(url: str) -> None:
    place = Place(url)
    place.write("a", b"1")
    child = os.fork()
    if child == 0:
        os._exit(0 if place.read("a") == b"1" else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_connection_cut_in_an_answer_is_tried_again(s3: str, server: str, proxy: Proxy, tmp_path: Path) -> None:
    data = os.urandom(12 << 20)
    Place(s3).write("x", data)
    place = Place(s3.replace(server, proxy.address))
    assert place.exists("x")
    proxy.cut_after = 3 << 20
    place.download("x", tmp_path / "x")
    assert proxy.cut_after is None
    assert (tmp_path / "x").read_bytes() == data


def test_killed_download_leaves_nothing_that_looks_whole(s3: str, server: str, proxy: Proxy, tmp_path: Path) -> None:
    Place(s3).write("f/x", os.urandom(3 << 20))
    slow = s3.replace(server, proxy.address)
    proxy.stall_after = 1 << 20
    code = """if True:
        import sys, pathlib, cluster.storage as s
        s.Place(sys.argv[1]).download(sys.argv[2], pathlib.Path(sys.argv[3]))
    """
    for name in ("f/x", "f"):
        proxy.stalled.clear()
        process = python(code, slow, name, tmp_path / "target")
        assert proxy.stalled.wait(30)
        process.send_signal(signal.SIGKILL)
        end(process)
        assert not (tmp_path / "target").exists()
        assert all(path.name.endswith(".aside") for path in tmp_path.iterdir() if path.name != "place")


def test_killed_upload_leaves_what_was_there_before(url: str, tmp_path: Path) -> None:
    Place(url).write("x", b"before")
    (tmp_path / "large").write_bytes(bytes(40 << 20))
    code = """if True:
        import sys, os, signal, pathlib, cluster.storage as s
        whole = s._copy
        s._BLOCK = 6 << 20
        class Stream:
            def __init__(self, stream): self.stream, self.blocks = stream, 0
            def write(self, block):
                self.stream.write(block)
                self.blocks += 1
                if self.blocks == 3: os.kill(os.getpid(), signal.SIGKILL)
        s._copy = lambda local, stream: whole(local, Stream(stream))
        s.Place(sys.argv[1]).upload(pathlib.Path(sys.argv[2]), "x")
    """
    process = python(code, url, tmp_path / "large")
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert Place(url).read("x") == b"before"
    assert Place(url).list() == {"x": 6}


def test_upload_that_fails_leaves_no_half_of_the_file(
    url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "x").write_bytes(b"content")

    def half(local: Path, stream: SimpleNamespace) -> None:
        stream.write(b"con")
        raise StorageError(f"{local} cannot be read: bad sector")

    monkeypatch.setattr(storage, "_copy", half)
    assert "bad sector" in refusal(lambda: Place(url).upload(tmp_path / "x", "x"))
    assert Place(url).read("x") is None
    assert Place(url).list() == {}


def test_full_disk_is_told_as_the_disks_fault(url: str, tmp_path: Path) -> None:
    Place(url).write("x", bytes(1 << 20))
    code = """if True:
        import sys, pathlib, resource, signal, cluster.storage as s
        place = s.Place(sys.argv[1])
        place.exists("x")
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try: place.download("x", pathlib.Path(sys.argv[2]))
        except s.StorageError as error: print(error)
    """
    out, err = python(code, url, tmp_path / "target").communicate()
    assert err == ""
    assert "target" in out and "cannot be written: File too large" in out
    assert not list(tmp_path.glob("*target*"))


# What cannot be reached


def test_port_where_nothing_listens_is_told_in_seconds() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        for scheme in ("s3", "gs"):
            place = Place(
                f"{scheme}://{'' if scheme == 's3' else 'anonymous@'}b/k?endpoint_override={address}&scheme=http"
            )
            message = refusal(lambda place=place: place.read("x"))  # type: ignore[misc]
            assert f"{scheme}://b cannot be reached at {address}" in message
            assert "connect" in message


def test_server_that_never_answers_is_told_in_seconds() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        place = Place(f"s3://b/k?endpoint_override={address}&scheme=http")
        assert "cannot be reached" in refusal(lambda: place.list())


def test_host_that_does_not_exist_is_told_in_seconds() -> None:
    place = Place("s3://b/k?endpoint_override=nowhere.invalid")
    assert "cannot be reached at nowhere.invalid" in refusal(lambda: place.write("x", b""))


def test_server_that_goes_away_is_told_in_seconds(s3: str, server: str, proxy: Proxy) -> None:
    place = Place(s3.replace(server, proxy.address))
    place.write("x", b"1")
    proxy.close()
    message = refusal(lambda: place.read("x"))
    assert f"cannot be reached at {proxy.address}" in message


def test_missing_bucket_is_told(server: str) -> None:
    place = Place(f"s3://nobucket/k?endpoint_override={server}&scheme=http")
    for action in (lambda: place.read("x"), lambda: place.write("x", b""), lambda: place.list()):
        assert "there is no bucket 'nobucket'" in refusal(action)


def test_wrong_credentials_are_told(server: str, s3: str) -> None:
    known = Place(s3)
    known.write("x", b"1")

    def enforce(after: bytes) -> None:
        plain = {"Content-Type": "text/plain"}
        urlopen(Request(f"http://{server}/moto-api/reset-auth", data=after, headers=plain)).close()

    enforce(b"0")
    try:
        for place in (known, Place(f"{s3}&region=us-west-2")):
            for action in (lambda p=place: p.read("x"), lambda p=place: p.write("x", b""), lambda p=place: p.list()):
                message = refusal(action, 2)
                assert "AWS_ACCESS_KEY_ID" in message and "secret" not in message
    finally:
        enforce(b"inf")
    assert known.read("x") == b"1"


# Mirror


def test_mirrored_run_comes_back_without_checkpoints(url: str, run: Path, tmp_path: Path) -> None:
    with Mirror(run, url, interval=NEVER) as mirror:
        assert mirror.complaint is None
    fetch_run(url, tmp_path / "back")
    assert files_in(tmp_path / "back") == {n: data for n, data in files_in(run).items() if n in MIRRORED}


def test_changes_and_removals_are_mirrored_while_it_is_open(url: str, run: Path, tmp_path: Path) -> None:
    with Mirror(run, url, interval=0.05):
        (run / "summary.json").write_text("{}")
        (run / "run.json").write_text('{"seed": 2}')
        (run / "tracebacks" / "3.txt").unlink()
        with (run / "study.journal").open("a") as journal:
            journal.write("three\n")
        deadline = time.monotonic() + 10
        place = Place(url)
        while time.monotonic() < deadline and (
            place.read("summary.json") is None
            or place.exists("tracebacks/3.txt")
            or place.read("run.json") != b'{"seed": 2}'
        ):
            time.sleep(0.05)
        fetch_run(url, tmp_path / "back")
        assert (tmp_path / "back" / "study.journal").read_text() == "one\ntwo\nthree\n"
        assert (tmp_path / "back" / "summary.json").is_file()
        assert (tmp_path / "back" / "run.json").read_text() == '{"seed": 2}'
        assert not (tmp_path / "back" / "tracebacks").exists()


def test_what_has_not_changed_is_not_sent_again(s3: str, run: Path, requests: Requests) -> None:
    with Mirror(run, s3, interval=NEVER) as mirror:
        requests.lines.clear()
        (run / "winner" / "proof.json").write_text("{ }")
        mirror._attempt()
        sent = [line.split()[1].split("?")[0] for line in requests.lines if line.startswith("PUT ")]
        assert {Path(name).name for name in sent} == {"proof.json"}
        requests.lines.clear()
        mirror._attempt()
    assert not [line for line in requests.lines if line.startswith(("PUT", "POST", "DELETE"))]


def test_run_is_mirrored_at_the_end_although_it_ends_by_an_error(url: str, run: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="ours"), Mirror(run, url, interval=NEVER):
        (run / "summary.json").write_text("{}")
        raise KeyError("ours")
    assert Place(url).read("summary.json") == b"{}"


def test_line_that_is_being_written_is_left_for_later(url: str, run: Path) -> None:
    (run / "study.journal").write_text("one\nha")
    with Mirror(run, url, interval=NEVER) as mirror:
        assert journal_at(url) == b"one\n"
        with (run / "study.journal").open("a") as file:
            file.write("lf\nan")
        mirror._attempt()
        assert journal_at(url) == b"one\nhalf\n"


def test_run_without_a_journal_is_mirrored(url: str, run: Path, tmp_path: Path) -> None:
    (run / "study.journal").unlink()
    with Mirror(run, url, interval=NEVER):
        pass
    fetch_run(url, tmp_path / "back")
    assert not (tmp_path / "back" / "study.journal").exists()


def journal_at(url: str) -> bytes:
    place = Place(url)
    owner = _owner(place)
    assert owner is not None
    return b"".join(_journal(place, owner["id"]))


@settings(max_examples=40, deadline=None)
@given(
    writes=st.lists(st.binary(max_size=40).map(lambda b: b.replace(b"\r", b"\n")), max_size=25),
    piece_bytes=st.integers(1, 50),
    breaks=st.sets(st.integers(0, 24), max_size=3),
)
def test_growing_journal_is_always_mirrored_up_to_its_last_newline(
    tmp_path_factory: pytest.TempPathFactory, writes: list[bytes], piece_bytes: int, breaks: set[int]
) -> None:
    folder = tmp_path_factory.mktemp("grows")
    run, url = folder / "run", (folder / "place").as_uri()
    run.mkdir()
    (run / "run.json").write_text("{}")
    journal = run / "study.journal"
    journal.write_bytes(b"")
    mirror = Mirror(run, url, interval=NEVER, piece_bytes=piece_bytes)
    complete: dict[str, bytes] = {}
    for number, written in enumerate(writes):
        with journal.open("ab") as file:
            file.write(written)
        if number in breaks:  # the search ends, and is resumed
            mirror.close()
            mirror = Mirror(run, url, interval=NEVER, piece_bytes=piece_bytes)
            complete.clear()
        mirror._attempt()
        assert mirror.complaint is None
        content = journal.read_bytes()
        assert journal_at(url) == content[: content.rfind(b"\n") + 1]
        pieces = {name: Place(url).read(name) or b"" for name in Place(url).list("study.journal")}
        assert all(piece.endswith(b"\n") for piece in pieces.values())
        assert all(len(piece) >= piece_bytes for piece in [pieces[name] for name in sorted(pieces)][:-1])
        assert all(pieces[name] == piece for name, piece in complete.items()), "a complete piece has changed"
        complete = {name: piece for name, piece in pieces.items() if len(piece) >= piece_bytes}
    mirror.close()


def test_traffic_of_a_long_journal_is_bounded_by_the_piece_for_each_look() -> None:
    pieces, journal, sent, looks = _Pieces(1000), b"", 0, 0
    for number in range(3000):
        journal += b"%060d\n" % number
        sent += sum(len(piece) for _, piece in pieces.due(journal[pieces.start :]))
        looks += 1
    assert len(journal) > 180_000
    assert sent <= looks * 1061


def test_upload_that_fails_in_the_middle_of_the_pieces_goes_on_with_the_same(url: str, run: Path) -> None:
    (run / "study.journal").write_bytes(b"line\n" * 20)
    with Mirror(run, url, interval=NEVER, piece_bytes=10) as mirror:
        with (run / "study.journal").open("ab") as file:
            file.write(b"more\n" * 20)
        place, calls = mirror._place, []

        class Failing:
            def write(self, name: str, data: bytes) -> None:
                calls.append(name)
                if len(calls) == 4:
                    raise StorageError("no more")
                place.write(name, data)

            def __getattr__(self, name: str) -> object:
                return getattr(place, name)

        mirror._place = Failing()  # type: ignore[assignment]
        mirror._attempt()
        assert mirror.complaint == "no more"
        assert journal_at(url) == b"line\n" * 20 + b"more\n" * 6
        mirror._attempt()
        assert mirror.complaint is None
        assert journal_at(url) == b"line\n" * 20 + b"more\n" * 20


def test_storage_that_is_away_for_a_while_costs_nothing(s3: str, server: str, proxy: Proxy, run: Path) -> None:
    with Mirror(run, s3.replace(server, proxy.address), interval=0.05) as mirror:
        proxy.down = True
        (run / "summary.json").write_text("{}")
        wait_for(lambda: mirror.complaint is not None)
        assert mirror.complaint is not None and "cannot be reached" in mirror.complaint
        assert Place(s3).read("summary.json") is None
        proxy.down = False
        wait_for(lambda: mirror.complaint is None)
        wait_for(lambda: Place(s3).read("summary.json") == b"{}")


def test_storage_that_is_away_at_the_end_is_an_error(s3: str, server: str, proxy: Proxy, run: Path) -> None:
    mirror = Mirror(run, s3.replace(server, proxy.address), interval=NEVER)
    proxy.down = True
    assert "cannot be reached" in refusal(mirror.close)
    mirror.close()


def test_storage_that_is_away_does_not_hide_the_error_of_the_search(
    s3: str, server: str, proxy: Proxy, run: Path
) -> None:
    with pytest.raises(KeyError) as caught, Mirror(run, s3.replace(server, proxy.address), interval=NEVER):
        proxy.down = True
        raise KeyError("ours")
    assert any("cannot be reached" in note for note in caught.value.__notes__)


def wait_for(condition: Callable[[], bool], seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_mirror_stops_for_good_when_another_has_taken_over(url: str, run: Path, tmp_path: Path) -> None:
    first = Mirror(run, url, interval=0.05)
    fetch_run(url, tmp_path / "second")
    with Mirror(tmp_path / "second", url, interval=NEVER):
        wait_for(lambda: first.usurped)
        first._thread.join(5)
        assert not first._thread.is_alive()
        (run / "summary.json").write_text("of the first")
        with (run / "study.journal").open("a") as journal:
            journal.write("of the first\n")
        message = refusal(first.close)
        assert message == first.complaint
        assert f"process {os.getpid()}" in message
        assert journal_at(url) == b"one\ntwo\n"
        assert Place(url).read("summary.json") is None
        with (tmp_path / "second" / "study.journal").open("a") as journal:
            journal.write("of the second\n")
    assert journal_at(url) == b"one\ntwo\nof the second\n"
    assert len({name.split("/")[1] for name in Place(url).list("study.journal")}) == 1


def test_run_that_lacks_trials_of_its_mirror_does_not_take_over(url: str, run: Path, tmp_path: Path) -> None:
    Mirror(run, url, interval=NEVER).close()
    before = {name: Place(url).read(name) for name in Place(url).list()}
    for content in ("one\n", "other\ntrials\nthan these\n", ""):
        (run / "study.journal").write_text(content)
        assert "holds trials that" in refusal(lambda: Mirror(run, url))
    assert {name: Place(url).read(name) for name in Place(url).list()} == before


def test_place_with_other_files_is_not_mirrored_to(url: str, run: Path) -> None:
    Place(url).write("holiday/1.jpg", b"mine")
    assert "no run" in refusal(lambda: Mirror(run, url))
    assert Place(url).list() == {"holiday/1.jpg": 4}


def test_place_that_was_emptied_is_filled_again(url: str, run: Path, tmp_path: Path) -> None:
    with Mirror(run, url, interval=NEVER) as mirror:
        for name in Place(url).list():
            Place(url).remove(name)
        mirror._attempt()
        assert mirror.complaint is None and not mirror.usurped
    fetch_run(url, tmp_path / "back")
    assert set(files_in(tmp_path / "back")) == MIRRORED


def test_fetched_journal_never_shrinks_while_drivers_take_over(url: str, run: Path, tmp_path: Path) -> None:
    Mirror(run, url, interval=NEVER).close()
    enough = threading.Event()
    drivers = 0

    def drive() -> None:
        nonlocal drivers
        while not enough.is_set():
            with Mirror(run, url, interval=NEVER, piece_bytes=20) as mirror:
                for line in range(3):
                    with (run / "study.journal").open("a") as journal:
                        journal.write(f"{drivers} {line}\n")
                    mirror._attempt()
            drivers += 1

    thread = threading.Thread(target=drive)
    thread.start()
    try:
        seen = b""
        for number in range(12):
            fetch_run(url, tmp_path / f"back{number}")
            content = (tmp_path / f"back{number}" / "study.journal").read_bytes()
            assert content.startswith(seen)
            assert content.endswith(b"\n")
            seen = content
    finally:
        enough.set()
        thread.join()
    assert drivers > 1
    assert journal_at(url) == (run / "study.journal").read_bytes()


def test_what_is_no_run_is_not_fetched(url: str, run: Path, tmp_path: Path) -> None:
    assert "no run" in refusal(lambda: fetch_run(url, tmp_path / "back"))
    Mirror(run, url, interval=NEVER).close()
    Place(url).remove("run.json")
    assert "no run.json" in refusal(lambda: fetch_run(url, tmp_path / "back"))
    assert "is there already" in refusal(lambda: fetch_run(url, run))
    assert not (tmp_path / "back").exists() and not list(tmp_path.glob(".*"))


def test_journal_with_a_missing_piece_is_not_fetched(url: str, run: Path, tmp_path: Path) -> None:
    (run / "study.journal").write_bytes(b"line\n" * 20)
    Mirror(run, url, interval=NEVER, piece_bytes=20).close()
    Place(url).remove(sorted(Place(url).list("study.journal"))[2])
    assert "lacks piece 3" in refusal(lambda: fetch_run(url, tmp_path / "back"))
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize("mark", [b"", b"{}", b"[]", b'{"id": "../.."}', b'{"id": 3}', b"\xff"])
def test_damaged_owners_mark_is_told(url: str, run: Path, tmp_path: Path, mark: bytes) -> None:
    Mirror(run, url, interval=NEVER).close()
    Place(url).write("owner.json", mark)
    assert "owner.json is damaged" in refusal(lambda: fetch_run(url, tmp_path / "back"))
    assert "owner.json is damaged" in refusal(lambda: Mirror(run, url))


# Data sets


COPY = """if True:
    import sys, pathlib
    from cluster.node_data import local_copy
    print(local_copy(sys.argv[1], pathlib.Path(sys.argv[2]), int(sys.argv[3])), flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def let_go() -> Iterator[None]:
    """The copies that a test has used in this process are in use no longer when it ends."""
    yield
    while node_data._held:
        node_data._held.popitem()[1].close()


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
    assert len(node_data._held) == 1


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
    assert Place(s3).read("manifest.json") == (sets[0].path / "manifest.json").read_bytes()


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
    Place(s3).write("manifest.json", json.dumps(spoil(json.loads(sets[0].manifest.to_json()))).encode())
    assert "prepare it again" in refusal(lambda: local_copy(s3, tmp_path / "cache", 1 << 30))
    assert not files_in(tmp_path)


@pytest.mark.parametrize("content", [None, b"", b"cut", bytes(4096)])
def test_damaged_data_set_is_refused_and_leaves_nothing(
    url: str, sets: list[PreparedData], tmp_path: Path, content: bytes | None
) -> None:
    upload_data(sets[0].path, url)
    place = Place(url)
    if content is None:
        place.remove("examples.arrow")
    else:
        place.write("examples.arrow", content)
        if len(content) == 4096:  # of the size that the manifest tells, but nothing that can be opened
            files = sets[0].manifest.files | {"examples.arrow": 4096}
            place.write("manifest.json", replace(sets[0].manifest, files=files).to_json().encode())
    refusal(lambda: local_copy(url, tmp_path / "cache", 1 << 30))
    assert {path.suffix for path in (tmp_path / "cache").iterdir()} == {".lock"}
    assert not node_data._held


@pytest.mark.usefixtures("let_go")
def test_copy_that_was_damaged_on_the_node_is_downloaded_again(
    url: str, sets: list[PreparedData], tmp_path: Path
) -> None:
    upload_data(sets[0].path, url)
    path = local_copy(url, tmp_path / "cache", 1 << 30)
    (path / "examples.arrow").write_bytes(b"cut")
    assert files_in(local_copy(url, tmp_path / "cache", 1 << 30)) == files_in(sets[0].path)


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
    assert not list((tmp_path / "cache").glob("*.part"))


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
        assert list((tmp_path / "cache").glob("*.part"))
        first.send_signal(signal.SIGKILL)
        out, err = second.communicate(timeout=30)
        assert err == ""
        assert files_in(Path(out.strip())) == files_in(data.path)
        assert not list((tmp_path / "cache").glob("*.part"))
    finally:
        for process in (first, second):
            if process is not None:
                end(process)


def test_what_was_used_longest_ago_makes_room(server: str, sets: list[PreparedData], tmp_path: Path) -> None:
    urls = [f"s3://bucket/{tmp_path.name}/{n}?endpoint_override={server}&scheme=http" for n in range(3)]
    for data, url in zip(sets, urls, strict=True):
        upload_data(data.path, url)
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
    assert sum(len(data) for data in files_in(cache).values()) <= room


def test_copy_in_use_is_not_removed(server: str, sets: list[PreparedData], tmp_path: Path) -> None:
    urls = [f"s3://bucket/{tmp_path.name}/{n}?endpoint_override={server}&scheme=http" for n in range(2)]
    for data, url in zip(sets, urls, strict=False):
        upload_data(data.path, url)
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
    server: str, sets: list[PreparedData], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    urls = [f"s3://bucket/{tmp_path.name}/{n}?endpoint_override={server}&scheme=http" for n in range(2)]
    for data, url in zip(sets, urls, strict=False):
        upload_data(data.path, url)
    cache, size = tmp_path / "cache", size_of(sets[1])
    copied(urls[0], cache, 1 << 30)
    assert f"{size - 1:,}" in refusal(lambda: local_copy(urls[1], cache, size - 1))
    monkeypatch.setattr(node_data.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000 - size_of(sets[0])))
    message = refusal(lambda: local_copy(urls[1], cache, 1 << 30))
    assert f"{size:,}" in message and "1,000 free" in message
    assert files_in(cache / sets[0].manifest.fingerprint) == files_in(sets[0].path)
