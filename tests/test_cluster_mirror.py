"""A run mirrored in object storage: while it grows, when storage is away, when another takes over."""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from object_storage import NEVER, Proxy, Requests, files_in, refusal

from captune.cluster.object_storage.addresses import StorageError
from captune.cluster.object_storage.mirror import Mirror, _Pieces
from captune.cluster.object_storage.remote_folder import RemoteFolder
from captune.cluster.object_storage.run_at_address import fetch_run, is_written, journal_pieces, owner_of


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


def test_mirrored_run_comes_back_without_checkpoints(url: str, run: Path, tmp_path: Path) -> None:
    with Mirror(run, url, interval=NEVER) as mirror:
        assert mirror.complaint is None
    fetch_run(url, tmp_path / "back")
    assert files_in(tmp_path / "back") == {n: data for n, data in files_in(run).items() if n in MIRRORED}
    fetch_run(url, tmp_path / "less", leave=frozenset({"tracebacks", "winner/bundle"}))
    assert set(files_in(tmp_path / "less")) == {"run.json", "study.journal", "winner/proof.json"}


def test_changes_and_removals_are_mirrored_while_it_is_open(url: str, run: Path, tmp_path: Path) -> None:
    with Mirror(run, url, interval=0.05):
        (run / "summary.json").write_text("{}")
        (run / "run.json").write_text('{"seed": 2}')
        (run / "tracebacks" / "3.txt").unlink()
        with (run / "study.journal").open("a") as journal:
            journal.write("three\n")
        deadline = time.monotonic() + 10
        remote = RemoteFolder(url)
        while time.monotonic() < deadline and (
            remote.read("summary.json") is None
            or remote.exists("tracebacks/3.txt")
            or remote.read("run.json") != b'{"seed": 2}'
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
    assert RemoteFolder(url).read("summary.json") == b"{}"


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
    remote = RemoteFolder(url)
    owner = owner_of(remote)
    assert owner is not None
    return b"".join(journal_pieces(remote, owner["id"]))


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
        pieces = {name: RemoteFolder(url).read(name) or b"" for name in RemoteFolder(url).list("study.journal")}
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
        remote, calls = mirror._remote, []

        class Failing:
            def write(self, name: str, data: bytes) -> None:
                calls.append(name)
                if len(calls) == 4:
                    raise StorageError("no more")
                remote.write(name, data)

            def __getattr__(self, name: str) -> object:
                return getattr(remote, name)

        mirror._remote = Failing()  # type: ignore[assignment]
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
        assert RemoteFolder(s3).read("summary.json") is None
        proxy.down = False
        wait_for(lambda: mirror.complaint is None)
        wait_for(lambda: RemoteFolder(s3).read("summary.json") == b"{}")


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
        assert RemoteFolder(url).read("summary.json") is None
        with (tmp_path / "second" / "study.journal").open("a") as journal:
            journal.write("of the second\n")
    assert journal_at(url) == b"one\ntwo\nof the second\n"
    assert len({name.split("/")[1] for name in RemoteFolder(url).list("study.journal")}) == 1


def test_run_that_lacks_trials_of_its_mirror_does_not_take_over(url: str, run: Path, tmp_path: Path) -> None:
    Mirror(run, url, interval=NEVER).close()
    before = {name: RemoteFolder(url).read(name) for name in RemoteFolder(url).list()}
    for content in ("one\n", "other\ntrials\nthan these\n", ""):
        (run / "study.journal").write_text(content)
        assert "holds trials that" in refusal(lambda: Mirror(run, url))
    assert {name: RemoteFolder(url).read(name) for name in RemoteFolder(url).list()} == before


def test_place_with_other_files_is_not_mirrored_to(url: str, run: Path) -> None:
    RemoteFolder(url).write("holiday/1.jpg", b"mine")
    assert "no run" in refusal(lambda: Mirror(run, url))
    assert RemoteFolder(url).list() == {"holiday/1.jpg": 4}


def test_place_that_was_emptied_is_filled_again(url: str, run: Path, tmp_path: Path) -> None:
    with Mirror(run, url, interval=NEVER) as mirror:
        for name in RemoteFolder(url).list():
            RemoteFolder(url).remove(name)
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
    RemoteFolder(url).remove("run.json")
    assert "no run.json" in refusal(lambda: fetch_run(url, tmp_path / "back"))
    assert "is there already" in refusal(lambda: fetch_run(url, run))
    assert not (tmp_path / "back").exists() and not list(tmp_path.glob(".*"))


def test_journal_with_a_missing_piece_is_not_fetched(url: str, run: Path, tmp_path: Path) -> None:
    (run / "study.journal").write_bytes(b"line\n" * 20)
    Mirror(run, url, interval=NEVER, piece_bytes=20).close()
    RemoteFolder(url).remove(sorted(RemoteFolder(url).list("study.journal"))[2])
    assert "lacks piece 3" in refusal(lambda: fetch_run(url, tmp_path / "back"))
    assert not (tmp_path / "back").exists()


def test_driver_that_is_silent_writes_no_more(url: str, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remote = RemoteFolder(url)
    with Mirror(run, url, interval=NEVER) as mirror:
        assert is_written(url)
        sign = remote.read("sign.json")
        mirror._attempt()
        assert remote.read("sign.json") == sign, "once a minute"
        monkeypatch.setattr("captune.cluster.object_storage.mirror.SIGN_SECONDS", 0.0)
        mirror._attempt()
        assert remote.read("sign.json") != sign
        monkeypatch.setattr("captune.cluster.object_storage.run_at_address.SILENT_SECONDS", 0.0)
        assert not is_written(url), "killed, or without a network"
        monkeypatch.undo()
    for damaged in (b"", b"[]", b'{"id": 3}', b"\xff"):
        remote.write("sign.json", damaged)
        assert not is_written(url)


def test_sign_of_a_driver_that_was_taken_over_from_is_not_that_of_its_successor(
    url: str, run: Path, tmp_path: Path
) -> None:
    first = Mirror(run, url, interval=NEVER)
    fetch_run(url, tmp_path / "second")
    with Mirror(tmp_path / "second", url, interval=NEVER):
        assert "was taken over" in refusal(first.close)
        assert is_written(url)


@pytest.mark.parametrize("mark", [b"", b"{}", b"[]", b'{"id": "../.."}', b'{"id": 3}', b"\xff"])
def test_damaged_owners_mark_is_told(url: str, run: Path, tmp_path: Path, mark: bytes) -> None:
    Mirror(run, url, interval=NEVER).close()
    RemoteFolder(url).write("owner.json", mark)
    assert "owner.json is damaged" in refusal(lambda: fetch_run(url, tmp_path / "back"))
    assert "owner.json is damaged" in refusal(lambda: Mirror(run, url))
