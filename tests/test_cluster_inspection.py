"""What a node says of itself, asked in this process."""

import errno
import importlib.metadata
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from captune.cluster.nodes import inspection
from captune.cluster.nodes.address import ClusterError
from captune.cluster.nodes.inspection import NodeRequirements, check_nodes, complaint_of_node, memory_of_node, versions
from captune.cluster.object_storage.addresses import join
from captune.cluster.object_storage.data_cache import upload_data
from captune.cluster.object_storage.remote_folder import RemoteFolder
from captune.data_prep.store import PreparedData

MiB = 2**20


@pytest.fixture
def requirements(captions_data: PreparedData, tmp_path: Path) -> NodeRequirements:
    """What this process has all of."""
    return NodeRequirements(
        str(captions_data.path), captions_data.manifest.fingerprint, str(tmp_path / "run"), versions()
    )


def tool(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str) -> None:
    """Puts a nvidia-smi of our own in front of any other."""
    (folder / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def complaint_of_this_process(requirements: NodeRequirements) -> str:
    """What a node says that is this process."""
    Path(requirements.folder).mkdir(exist_ok=True)
    (Path(requirements.folder) / "mark.tmp").touch()
    return complaint_of_node(requirements, "mark.tmp")


def test_node_that_has_everything_has_no_complaint_and_leaves_no_file(requirements: NodeRequirements) -> None:
    assert complaint_of_this_process(requirements) == ""
    assert [path.name for path in Path(requirements.folder).iterdir()] == ["mark.tmp"]


def test_differing_versions_are_all_named_and_come_before_everything_else(requirements: NodeRequirements) -> None:
    others = versions() | {"Python": "3.8", "keras": "2.0"}
    complaint = complaint_of_this_process(replace(requirements, versions=others, data="/nowhere"))
    here = versions()
    assert f"Python {here['Python']} instead of 3.8" in complaint
    assert f"keras {here['keras']} instead of 2.0" in complaint
    assert "numpy" not in complaint and "/nowhere" not in complaint
    assert "install the same versions on all nodes" in complaint


def test_package_that_the_node_lacks_is_called_absent(
    requirements: NodeRequirements, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = importlib.metadata.version

    def version(name: str) -> str:
        if name == "keras":
            raise importlib.metadata.PackageNotFoundError(name)
        return there(name)

    monkeypatch.setattr(inspection, "version", version)
    assert versions()["keras"] == "absent"
    assert "has keras absent instead of" in complaint_of_this_process(requirements)


def test_package_that_the_driver_lacks_too_is_no_complaint(requirements: NodeRequirements) -> None:
    assert "captune" in versions()
    without = {name: number for name, number in versions().items() if name != "captune"}
    assert complaint_of_this_process(replace(requirements, versions=without)) == ""


def test_versions_are_those_of_python_and_of_what_computes() -> None:
    numbers = versions()
    assert set(numbers) == {"Python", "captune", "ray", "keras", "numpy"}
    assert numbers["Python"] == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert all(numbers.values())


@pytest.mark.parametrize(
    ("path", "word"), [("{}/nothing", "not a prepared data set"), ("{}", "not a prepared data set")]
)
def test_data_that_is_not_there_is_said_with_the_path_and_the_way_out(
    requirements: NodeRequirements, tmp_path: Path, path: str, word: str
) -> None:
    there = path.format(tmp_path)
    complaint = complaint_of_this_process(replace(requirements, data=there))
    assert word in complaint and there in complaint and "on a path that all nodes see" in complaint


def test_another_data_set_under_the_same_path_is_told_apart(requirements: NodeRequirements) -> None:
    complaint = complaint_of_this_process(replace(requirements, fingerprint="0" * 64))
    assert complaint.startswith(f"another data set is in {requirements.data}")


def test_folder_of_the_same_name_on_a_disk_of_the_nodes_own_is_no_shared_one(requirements: NodeRequirements) -> None:
    Path(requirements.folder).mkdir()
    complaint = complaint_of_node(requirements, "written-elsewhere.tmp")
    assert complaint.startswith(
        f"does not see what is written to {requirements.folder} elsewhere; --run must be on a path"
    )


def test_folder_that_the_searching_machine_cannot_write_is_named_with_the_reason(
    requirements: NodeRequirements, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    for folder in ("/proc/none", str(tmp_path / "file"), str(tmp_path / "file" / "run")):
        with pytest.raises(ClusterError, match=rf"this machine cannot write {folder} \(.+\)"):
            check_nodes([], replace(requirements, folder=folder))


def test_folder_that_becomes_read_only_on_the_node_is_named(
    requirements: NodeRequirements, monkeypatch: pytest.MonkeyPatch
) -> None:
    def touch(path: Path) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    Path(requirements.folder).mkdir()
    (Path(requirements.folder) / "mark.tmp").touch()
    monkeypatch.setattr(Path, "touch", touch)
    assert complaint_of_node(requirements, "mark.tmp").startswith(
        f"cannot write {requirements.folder} (Read-only file system); --run"
    )


def test_address_is_asked_and_not_brought_here(
    requirements: NodeRequirements, url: str, captions_data: PreparedData
) -> None:
    upload_data(captions_data.path, url)
    there = replace(requirements, data=url, folder=join(url, "run"))
    assert complaint_of_node(there, "") == ""
    assert RemoteFolder(url).list("run") == {}
    assert complaint_of_node(replace(there, fingerprint="0" * 64), "").startswith(f"another data set is in {url}")
    assert "cannot read the data" in complaint_of_node(replace(there, data=join(url, "none")), "")


def test_address_that_cannot_be_reached_is_told_in_time(requirements: NodeRequirements) -> None:
    away = "s3://bucket/run?endpoint_override=127.0.0.1:1&scheme=http"
    started = time.monotonic()
    assert "cannot be reached" in complaint_of_node(replace(requirements, folder=away), "")
    assert "cannot be reached" in complaint_of_node(replace(requirements, data=away), "")
    assert time.monotonic() - started < 2 * inspection.SECONDS


def test_memory_is_that_of_the_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:  4096 kB\nMemFree: 1 kB\nMemAvailable:    1024 kB\nHugePages_Total:    0\n")
    monkeypatch.setattr(inspection, "_MEMORY", meminfo)
    tool(monkeypatch, tmp_path, "exit 9")
    assert memory_of_node() == (4 * MiB, 3 * MiB, 0, 0)


def test_memory_that_a_machine_does_not_tell_is_zero(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tool(monkeypatch, tmp_path, "exit 9")
    for text in (None, "", "MemTotal: 1 kB\n", "MemTotal: much\nMemAvailable: 1 kB\n"):
        monkeypatch.setattr(inspection, "_MEMORY", tmp_path / "meminfo")
        if text is not None:
            (tmp_path / "meminfo").write_text(text)
        assert memory_of_node() == (0, 0, 0, 0)


@pytest.mark.parametrize(
    ("script", "sizes"),
    [
        ("echo '16384, 1024'; echo '16384, 0'", (32768 * MiB, 1024 * MiB)),
        ("echo '[N/A], [N/A]'", (0, 0)),
        ("echo 'No devices were found'", (0, 0)),
        ("echo '16384, 1024'; exit 1", (0, 0)),
        ("true", (0, 0)),
    ],
)
def test_gpu_memory_is_the_sum_of_what_nvidia_smi_tells(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str, sizes: tuple[int, int]
) -> None:
    tool(monkeypatch, tmp_path, script)
    total, used, *gpu = memory_of_node()
    assert tuple(gpu) == sizes
    assert 0 < used < total
