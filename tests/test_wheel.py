"""The wheel holds plain files of captune alone, and works where nothing of this checkout is."""

import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(out), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    return next(out.glob("captune-*.whl"))


def test_wheel_holds_the_sources_and_their_data_and_nothing_else(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    folders = ("tuner", "model", "data_prep", "cluster", "results")
    kinds = {".py", ".yaml", ".sh"}
    there = {
        f"captune/{path.relative_to(ROOT).as_posix()}"
        for folder in folders
        for path in (ROOT / folder).rglob("*")
        if path.suffix in kinds
    }
    door = {f"captune/{path.name}" for path in (ROOT / ".src" / "captune").iterdir() if path.is_file()}
    assert names == there | door


def test_installed_wheel_needs_nothing_of_the_checkout(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "env", with_pip=False)
    (site,) = (tmp_path / "env").glob("lib/python*/site-packages")
    for entry in Path(sysconfig.get_path("purelib")).iterdir():  # what captune needs, without captune
        if "captune" not in entry.name and "__editable__" not in entry.name:
            (site / entry.name).symlink_to(entry)
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    python = tmp_path / "env" / "bin" / "python"
    code = "import captune; print(captune.__file__, captune.size('paper').fits, captune.space('full').preset)"
    done = subprocess.run([python, "-P", "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.split() == [str(site / "captune" / "__init__.py"), "True", "full"]
