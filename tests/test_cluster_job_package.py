"""What a job is sent with: captune's code and the settings that its command names, and never more than 10 MiB."""

from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from ray_nodes import ROOT, one_line_of
from test_cluster_jobs import FILES, elsewhere  # noqa: F401 - a fixture that all tests use

from captune.cluster.jobs.package import JobError, shipment


def test_shipment_is_captunes_code_its_spaces_and_nothing_else() -> None:
    shipped = shipment(["size"], files=FILES)
    names = {name for name, _ in shipped.sizes}
    assert {
        "captune/__main__.py",
        "captune/model/size.py",
        "captune/cluster/jobs/submit.py",
        "captune/tuner/space/compact.yaml",
    } <= names
    of_folders = {name.split("/")[0] for name in names}
    assert of_folders == {"captune", f"captune-{version('captune')}.dist-info"}
    assert all(name.endswith((".py", ".yaml", "METADATA")) and "__pycache__" not in name for name in names)
    assert shipped.contents["captune/model/size.py"] == (ROOT / "model/size.py").read_bytes()
    assert shipped.total == sum(size for _, size in shipped.sizes) < 2**21


@pytest.mark.parametrize("written", [["--config", "mine.yaml"], ["--config=mine.yaml"]])
def test_settings_file_goes_along_under_its_name_on_the_cluster(tmp_path: Path, written: list[str]) -> None:
    (tmp_path / "mine.yaml").write_text("preset: compact\n")
    shipped = shipment(["search", "/data", *written, "--trials", "3"], files=FILES)
    assert shipped.arguments == ("search", "/data", "--config", "search.yaml", "--trials", "3")
    assert shipped.contents["search.yaml"] == b"preset: compact\n"


def test_of_two_settings_files_the_last_counts_and_what_follows_two_dashes_is_no_option(tmp_path: Path) -> None:
    (tmp_path / "first.yaml").write_text("first")
    (tmp_path / "last.yaml").write_text("last")
    arguments = ["size", "--config", "first.yaml", "--config=last.yaml", "--", "--config", "first.yaml"]
    shipped = shipment(arguments, files=FILES)
    assert shipped.contents["search.yaml"] == b"last"
    assert shipped.arguments[-3:] == ("--", "--config", "first.yaml")
    assert shipment(["size", "--config"], files=FILES).arguments == ("size", "--config")  # for captune to refuse


def test_settings_file_that_cannot_be_sent_is_refused(tmp_path: Path) -> None:
    def ask(name: str) -> Any:
        return shipment(["size", "--config", name], files=FILES)

    assert "absent.yaml" in one_line_of(JobError, lambda: ask("absent.yaml"))
    assert "model" in one_line_of(JobError, lambda: ask("model"))  # a folder
    room = 10 * 2**20 - shipment(["size"], files=FILES).total
    (tmp_path / "large.yaml").write_bytes(b"#" * room)
    assert ask("large.yaml").total == 10 * 2**20
    (tmp_path / "large.yaml").write_bytes(b"#" * (room + 1))
    assert "10 MiB" in (message := one_line_of(JobError, lambda: ask("large.yaml"))) and "large.yaml" in message
    assert "/dev/zero" in one_line_of(JobError, lambda: ask("/dev/zero"))
