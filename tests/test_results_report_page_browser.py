"""The page in Chromium, where there is one: nothing complains, nothing is fetched, dark and print are drawn."""

from __future__ import annotations

import io
import re
import subprocess
from pathlib import Path

import pytest
from chromium import CHROMIUM
from PIL import Image
from test_results_report_page import CASES, SECTIONS

from captune.results.report_page.page import page

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; install Debian's package chromium")
pytestmark = [pytest.mark.slow, needs_chromium]


def browse(file: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Opens a file and does one thing with it; what pages and their policies complain of is on stderr."""
    profile = file.parent / "profile"
    command = [
        str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}",
        "--enable-logging=stderr", "--window-size=900,1400", *options, file.as_uri(),
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


def assert_whole(file: Path) -> None:
    """A page of which nothing is missing and nothing complains, within 2 MB."""
    shown = browse(file, "--dump-dom")
    assert re.findall(r'<section id="(\w+)"', shown.stdout) == list(SECTIONS)
    assert "CONSOLE" not in shown.stderr, shown.stderr
    assert file.stat().st_size < 2_000_000


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "report.html"
    path.write_text(page(CASES["refit"]), encoding="utf-8")
    return path


def test_browser_shows_every_section_and_complains_of_nothing(file: Path) -> None:
    assert_whole(file)


def test_what_would_be_fetched_or_run_is_refused_aloud(file: Path) -> None:
    """So that silence in the test above means that nothing was asked for."""
    text = file.read_text().replace(
        "</main>", '<img src="http://127.0.0.1:9/x.png"><script>document.title = "ran"</script></main>'
    )
    file.write_text(text)
    shown = browse(file, "--dump-dom")
    assert shown.stderr.count("CONSOLE") == 2, shown.stderr
    assert "<title>ran" not in shown.stdout


def test_dark_is_dark_light_is_light_and_paper_is_a4(file: Path, tmp_path: Path) -> None:
    shades = {}
    for scheme, number in (("dark", 0), ("light", 1)):
        picture = tmp_path / f"{scheme}.png"
        browse(file, f"--blink-settings=preferredColorScheme={number}", f"--screenshot={picture}")
        image = Image.open(io.BytesIO(picture.read_bytes())).convert("L")
        shades[scheme] = sum(image.resize((30, 40)).tobytes()) / 1200
        low, high = image.getextrema()
        assert high - low > 180, "text stands out from its ground"  # type: ignore[operator]
    assert shades["dark"] < 80 and shades["light"] > 200, shades
    paper = tmp_path / "report.pdf"
    browse(file, "--no-pdf-header-footer", f"--print-to-pdf={paper}")
    boxes = re.findall(rb"/MediaBox \[0 0 ([\d.]+) ([\d.]+)\]", paper.read_bytes())
    assert boxes and all((round(float(w)), round(float(h))) == (595, 842) for w, h in boxes), boxes
