"""Object storage: real requests to an S3 server on this machine, cut off, killed and raced for."""

import os
import pickle
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
from object_storage import AZURITE_KEY, Proxy, end, files_in, python, refusal

from captune.cluster.object_storage import addresses
from captune.cluster.object_storage import remote_folder as storage
from captune.cluster.object_storage.addresses import StorageError, is_url, join
from captune.cluster.object_storage.data_cache import upload_data
from captune.cluster.object_storage.remote_folder import RemoteFolder
from captune.data_prep.store import PreparedData
from captune.files import is_leftover

# Addresses


def test_addresses_are_told_from_paths() -> None:
    assert all(is_url(text) for text in ("s3://b/k", "S3://b", "gs://b", "file:///x", "s3a://b", "http://b"))
    assert not any(is_url(text) for text in ("", "s3", "/s3://b", "runs/s3", "s3:/b", "C:\\x", "://b"))


def test_join_keeps_the_query_and_encodes_names() -> None:
    assert join("s3://b?scheme=http", "a", "b/c.json") == "s3://b/a/b/c.json?scheme=http"
    assert join("s3://b/k/?scheme=http&endpoint_override=h:1", "a#? %") == (
        "s3://b/k/a%23%3F%20%25?scheme=http&endpoint_override=h:1"
    )
    assert join("file:///x") == "file:///x"


def test_joined_address_is_the_folder_of_that_name(url: str) -> None:
    RemoteFolder(url).write("a b/é+%41#?/x", b"1")
    assert RemoteFolder(join(url, "a b", "é+%41#?")).read("x") == b"1"


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("/a/path", "s3://"),
        ("s3://", "names no bucket"),
        ("s3:///folder", "names no bucket"),
        ("abfss://account.dfs.core.windows.net/k", "names no container"),
        ("abfss://b@account/k", "names no container"),
        ("abfss://b@account.dfs.core.windows.net/k?region=x", "those of abfss:// are endpoint_override, scheme"),
        ("file://", "names no folder"),
        ("file://host/folder", "names no folder"),
        ("s3://b/k?conect_timeout=1", "unknown option 'conect_timeout'"),
        ("file:///x?region=y", "file:// has none"),
        ("s3://b/k#x", "%23"),
        ("s3://b//k", "/ once"),
    ],
)
def test_what_is_no_address_is_refused_before_anything_is_connected(bad: str, reason: str) -> None:
    assert reason in refusal(lambda: RemoteFolder(bad), 0.5)


@pytest.mark.parametrize("address", ["s3://id:hush@b/k", "s3://hush@b/k", "gs://id:hush@b/k", "abfss://b:hush@a/k"])
def test_credentials_in_an_address_are_refused_and_not_repeated(address: str) -> None:
    assert "hush" not in refusal(lambda: RemoteFolder(address))


def test_modules_load_no_heavy_library() -> None:
    heavy = "{'pyarrow', 'numpy', 'ray', 'tensorflow'}"
    process = python(
        f"import sys; from captune.cluster.object_storage import data_cache, mirror; print({heavy} & set(sys.modules))"
    )
    assert process.communicate()[0] == "set()\n"


# RemoteFolder


def test_file_is_read_back_replaced_and_removed(url: str) -> None:
    remote = RemoteFolder(url)
    assert remote.read("a/b.txt") is None
    assert not remote.exists() and not remote.exists("a") and remote.list() == {}
    remote.remove("a/b.txt")
    remote.write("a/b.txt", b"first")
    remote.write("a/b.txt", b"2nd")
    remote.write("empty", b"")
    assert remote.read("a/b.txt") == b"2nd"
    assert remote.read("empty") == b""
    assert remote.list() == {"a/b.txt": 3, "empty": 0}
    assert remote.list("a") == {"a/b.txt": 3}
    assert remote.list("b") == {}
    assert remote.exists() and remote.exists("a") and remote.exists("a/b.txt") and not remote.exists("a/b")
    remote.remove("a")
    assert remote.list() == {"empty": 0}
    assert not remote.exists("a")


@pytest.mark.parametrize("newer", [b"newer", None])
def test_file_that_is_replaced_or_removed_once_it_is_open_is_read_anew(
    url: str, newer: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = RemoteFolder(url)
    real = remote._files

    class Meddled:
        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

        def open_input_file(self, path: str) -> Any:
            file = real.open_input_file(path)
            monkeypatch.undo()
            remote.remove("a") if newer is None else remote.write("a", newer)
            return file

    def meddle() -> None:
        remote.write("a", b"old")
        monkeypatch.setattr(RemoteFolder, "_files", Meddled())

    meddle()
    assert remote.read("a") == newer
    meddle()
    if newer is None:
        assert "a" in refusal(lambda: remote.download("a", tmp_path / "a"))
    else:
        remote.download("a", tmp_path / "a")
        assert (tmp_path / "a").read_bytes() == newer


def test_folder_travels_there_and_back(url: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "deep" / "er").mkdir(parents=True)
    (source / "one").write_bytes(os.urandom(20 << 20))  # several blocks and parts
    (source / "deep" / "er" / "zwei é").write_bytes(b"2")
    (source / "deep" / "none").write_bytes(b"")
    remote = RemoteFolder(url)
    remote.upload(source, "kept/it")
    remote.download("kept/it", tmp_path / "back" / "again")
    assert files_in(tmp_path / "back") == {f"again/{name}": data for name, data in files_in(source).items()}
    remote.download("kept/it/deep/er/zwei é", source / "one")
    assert (source / "one").read_bytes() == b"2"
    remote.upload(source, "")
    assert remote.read("one") == b"2"
    assert not [name for name in [*remote.list(), *files_in(tmp_path)] if name.endswith(".aside")]


def test_download_of_what_is_not_there_or_into_a_full_folder_is_refused(url: str, tmp_path: Path) -> None:
    remote = RemoteFolder(url)
    assert "is not there" in refusal(lambda: remote.download("nothing", tmp_path / "x"))
    remote.write("a/b", b"1")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("keep")
    assert str(tmp_path / "full") in refusal(lambda: remote.download("a", tmp_path / "full"))
    assert files_in(tmp_path / "full") == {"mine": b"keep"}
    assert str(tmp_path / "gone") in refusal(lambda: remote.upload(tmp_path / "gone", "a"))
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/x", "a//b", ".", "a/"])
def test_name_that_leads_out_is_refused(url: str, name: str) -> None:
    remote = RemoteFolder(url)
    for action in (remote.read, remote.list, remote.remove, lambda name: remote.write(name, b"")):
        assert repr(name) in refusal(lambda action=action: action(name))  # type: ignore[misc]


def test_key_that_leads_out_of_its_folder_is_not_written_there(server: str, s3: str, tmp_path: Path) -> None:
    import boto3

    client = boto3.client("s3", endpoint_url=f"http://{server}", region_name="us-east-1")
    client.put_object(Bucket="bucket", Key=f"{tmp_path.name}/a/../../../evil", Body=b"evil")
    assert ".." in refusal(lambda: RemoteFolder(s3).download("a", tmp_path / "below" / "a"))
    assert not files_in(tmp_path)


def test_place_pickles_to_its_address_and_works_in_another_process(url: str) -> None:
    remote = RemoteFolder(url)
    remote.write("a", b"1")
    pickled = pickle.dumps(remote)
    assert len(pickled) < 300
    process = python("import sys, pickle; print(pickle.loads(bytes.fromhex(sys.argv[1])).read('a'))", pickled.hex())
    assert process.communicate()[0] == "b'1'\n"


def test_place_works_in_a_forked_process(url: str) -> None:
    remote = RemoteFolder(url)
    remote.write("a", b"1")
    child = os.fork()
    if child == 0:
        os._exit(0 if remote.read("a") == b"1" else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_connection_cut_in_an_answer_is_tried_again(s3: str, server: str, proxy: Proxy, tmp_path: Path) -> None:
    data = os.urandom(12 << 20)
    RemoteFolder(s3).write("x", data)
    remote = RemoteFolder(s3.replace(server, proxy.address))
    assert remote.exists("x")
    proxy.cut_after = 3 << 20
    remote.download("x", tmp_path / "x")
    assert proxy.cut_after is None
    assert (tmp_path / "x").read_bytes() == data


def test_killed_download_leaves_nothing_that_looks_whole(s3: str, server: str, proxy: Proxy, tmp_path: Path) -> None:
    RemoteFolder(s3).write("f/x", os.urandom(3 << 20))
    slow = s3.replace(server, proxy.address)
    proxy.stall_after = 1 << 20
    code = """if True:
        import sys, pathlib, captune.cluster.object_storage.remote_folder as s
        s.RemoteFolder(sys.argv[1]).download(sys.argv[2], pathlib.Path(sys.argv[3]))
    """
    for name in ("f/x", "f"):
        proxy.stalled.clear()
        process = python(code, slow, name, tmp_path / "target")
        assert proxy.stalled.wait(30)
        process.send_signal(signal.SIGKILL)
        end(process)
        assert not (tmp_path / "target").exists()
        assert all(is_leftover(path) for path in tmp_path.iterdir() if path.name != "place")


def test_killed_upload_leaves_what_was_there_before(url: str, tmp_path: Path) -> None:
    RemoteFolder(url).write("x", b"before")
    (tmp_path / "large").write_bytes(bytes(40 << 20))
    code = """if True:
        import sys, os, signal, pathlib, captune.cluster.object_storage.remote_folder as s
        whole = s.blocks_of
        def blocks(local):
            for number, block in enumerate(whole(local)):
                if number == 3: os.kill(os.getpid(), signal.SIGKILL)
                yield block
        s.blocks_of = blocks
        s.RemoteFolder(sys.argv[1]).upload(pathlib.Path(sys.argv[2]), "x")
    """
    process = python(code, url, tmp_path / "large")
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert RemoteFolder(url).read("x") == b"before"
    assert RemoteFolder(url).list() == {"x": 6}


def test_upload_that_fails_leaves_no_half_of_the_file(
    url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "x").write_bytes(b"content")

    def half(local: Path) -> Iterator[bytes]:
        yield b"con"
        raise StorageError(f"{local} cannot be read: bad sector")

    monkeypatch.setattr(storage, "blocks_of", half)
    assert "bad sector" in refusal(lambda: RemoteFolder(url).upload(tmp_path / "x", "x"))
    assert RemoteFolder(url).read("x") is None
    assert RemoteFolder(url).list() == {}


@pytest.mark.parametrize(
    ("stored", "way_out"),
    [
        (b"5\r\nhello\r\n0\r\nx-amz-checksum-crc64nvme:M3eFcAZSQlc=\r\n\r\n", "AWS_REQUEST_CHECKSUM_CALCULATION"),
        (b"5;chunk-signature=ad80\r\nhello\r\n0\r\n\r\n", "AWS_REQUEST_CHECKSUM_CALCULATION"),
        (b"jello", "end what else writes there"),
        (b"hell", "end what else writes there"),
        (b"", "end what else writes there"),
    ],
)
def test_storage_that_makes_something_else_of_a_file_is_told(
    s3: str, stored: bytes, way_out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = RemoteFolder._write

    def garbled(remote: RemoteFolder, name: str, blocks: Iterator[bytes]) -> tuple[int, bytes]:
        write(remote, name, iter([stored]))
        return 5, b"".join(blocks)

    monkeypatch.setattr(RemoteFolder, "_write", garbled)
    message = refusal(lambda: RemoteFolder(s3).write("x", b"hello"))
    assert way_out in message and f"{len(stored)} bytes" in message
    assert RemoteFolder(s3).exists("x") != ("AWS" in way_out), "what another process may have written stays"


def test_server_that_stores_checksums_with_the_content_gets_no_data_set(
    s3rver: str, captions_data: PreparedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_REQUEST_CHECKSUM_CALCULATION")
    addresses._connected.cache_clear()
    assert "AWS_REQUEST_CHECKSUM_CALCULATION=when_required" in refusal(lambda: upload_data(captions_data.path, s3rver))
    assert RemoteFolder(s3rver).list() == {}
    addresses._connected.cache_clear()


def test_full_disk_is_told_as_the_disks_fault(url: str, tmp_path: Path) -> None:
    RemoteFolder(url).write("x", bytes(1 << 20))
    code = """if True:
        import sys, pathlib, resource, signal, captune.cluster.object_storage.remote_folder as s
        remote = s.RemoteFolder(sys.argv[1])
        remote.exists("x")
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try: remote.download("x", pathlib.Path(sys.argv[2]))
        except s.StorageError as error: print(error)
    """
    out, err = python(code, url, tmp_path / "target").communicate()
    assert err == ""
    assert "target" in out and "cannot be written: File too large" in out
    assert not list(tmp_path.glob("*target*"))


# What cannot be reached


@pytest.mark.slow
def test_port_where_nothing_listens_is_told_in_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_KEY", AZURITE_KEY)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        for bucket in ("s3://b", "gs://anonymous@b", "abfss://b@account.dfs.core.windows.net"):
            remote = RemoteFolder(f"{bucket}/k?endpoint_override={address}&scheme=http")
            message = refusal(lambda remote=remote: remote.read("x"))  # type: ignore[misc]
            assert f"{bucket.replace('anonymous@', '')} cannot be reached at {address}" in message
            assert "connect" in message


@pytest.mark.slow
@pytest.mark.parametrize("bucket", ["s3://b", "abfss://b@account.dfs.core.windows.net"])
def test_server_that_never_answers_is_told_in_seconds(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_KEY", AZURITE_KEY)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        remote = RemoteFolder(f"{bucket}/k?endpoint_override={address}&scheme=http")
        assert "cannot be reached" in refusal(lambda: remote.list())


def test_host_that_does_not_exist_is_told_in_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_KEY", AZURITE_KEY)
    remote = RemoteFolder("s3://b/k?endpoint_override=nowhere.invalid")
    assert "cannot be reached at nowhere.invalid" in refusal(lambda: remote.write("x", b""))
    account = RemoteFolder("abfss://b@account.nowhere.invalid/k")
    assert "abfss://b@account.nowhere.invalid cannot be reached" in refusal(account.list)


@pytest.mark.parametrize(("key", "message"), [("", "needs credentials: set AZURE_STORAGE_KEY"), ("*", "is not Base64")])
def test_credentials_with_which_the_library_would_end_the_process_are_refused(
    key: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_STORAGE_KEY", key)
    assert message in refusal(RemoteFolder("abfss://b@account.dfs.core.windows.net/k").list, 0.5)


def test_token_of_azure_is_not_repeated() -> None:
    error = OSError(
        "GetProperties for 'https://account.blob.core.windows.net/b?sv=1&sig=hush' failed. Azure Error: [] 403"
    )
    message = addresses.reason("abfss://b@account.dfs.core.windows.net/k", error)
    assert "hush" not in message and "AZURE_STORAGE_SAS_TOKEN" in message


def test_missing_container_and_wrong_key_of_azure_are_told(abfss: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "there is no container 'none'" in refusal(RemoteFolder(abfss.replace("bucket@", "none@")).list)
    monkeypatch.setenv("AZURE_STORAGE_KEY", "AAAA")
    addresses._connected.cache_clear()
    assert "set AZURE_STORAGE_KEY" in refusal(RemoteFolder(abfss).list)
    addresses._connected.cache_clear()


def test_server_that_goes_away_is_told_in_seconds(s3: str, server: str, proxy: Proxy) -> None:
    remote = RemoteFolder(s3.replace(server, proxy.address))
    remote.write("x", b"1")
    proxy.close()
    message = refusal(lambda: remote.read("x"))
    assert f"cannot be reached at {proxy.address}" in message


def test_missing_bucket_is_told(server: str) -> None:
    remote = RemoteFolder(f"s3://nobucket/k?endpoint_override={server}&scheme=http")
    for action in (lambda: remote.read("x"), lambda: remote.write("x", b""), lambda: remote.list()):
        assert "there is no bucket 'nobucket'" in refusal(action)


def test_service_of_the_environment_is_used(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{server}")
    addresses._connected.cache_clear()
    remote = RemoteFolder(f"s3://bucket/{tmp_path.name}")
    remote.write("x", b"1")
    assert remote.list() == {"x": 1}
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
    addresses._connected.cache_clear()
    assert "cannot be reached" in refusal(remote.list)
    addresses._connected.cache_clear()


def test_wrong_credentials_are_told(server: str, s3: str) -> None:
    place = RemoteFolder(s3)
    place.write("x", b"1")

    def enforce(after: bytes) -> None:
        plain = {"Content-Type": "text/plain"}
        urlopen(Request(f"http://{server}/moto-api/reset-auth", data=after, headers=plain)).close()

    enforce(b"0")
    try:
        for remote in (place, RemoteFolder(f"{s3}&region=us-west-2")):
            for action in (lambda p=remote: p.read("x"), lambda p=remote: p.write("x", b""), lambda p=remote: p.list()):
                message = refusal(action, 2)
                assert "AWS_ACCESS_KEY_ID" in message and "secret" not in message
    finally:
        enforce(b"inf")
    assert place.read("x") == b"1"
