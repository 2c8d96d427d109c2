"""A drawn data set small enough for every test, and the command as a function."""

import contextlib
import gc
import io
import os
import random
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from object_storage import (  # noqa: F401 - fixtures
    abfss,
    azurite,
    google,
    gs,
    proxy,
    requests,
    s3,
    s3rver,
    s3rver_server,
    server,
    url,
)

from captune.data_prep.demo import draw
from captune.data_prep.store import PreparedData, prepare
from captune.model.config import TrialConfig
from captune.model.flat import replace
from captune.model.presets import PRESETS
from captune.model.towers import TOWERS
from captune.tuner.space.space import bind

SIDE = 32
HEAVY = {"ray", "keras", "tensorflow", "jax"}
OLD = Path(__file__).parent / "formats" / "0.1.0"

# `make test-fast` draws fewer examples than `make test`, `make soak` many more.
settings.register_profile("fast", max_examples=20, deadline=None)
settings.register_profile("whole", max_examples=50, deadline=None)
settings.register_profile("soak", max_examples=5000, deadline=None)
settings.load_profile("whole")
TINY = {
    "image.width": 4,
    "image.stages": 1,
    # Scores of summed logits are stacked crosswise, those of what is shipped are not.
    "image.head": "pooled",
    "fusion": "gated",
    "text.units": 8,
    "text.embedding": 8,
    "head_units": 8,
    "train.epochs": 2,
    "train.batch_size": 32,
    "train.augment.flip": False,
    "train.augment.shift": 0.0,
}


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Draws the seed of drawn inputs and of the moments at which processes are killed, where none was given.

    Ctrl-C is what several tests are about: it is not ignored where the whole run was started in the background.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.setdefault("CAPTUNE_SEED", str(random.SystemRandom().randrange(1, 2**31)))
    if config.getoption("--hypothesis-seed") is None:
        config.option.hypothesis_seed = os.environ["CAPTUNE_SEED"]


def pytest_report_header() -> str:
    """Prints it, to be given again."""
    return f"CAPTUNE_SEED={os.environ['CAPTUNE_SEED']}"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what needs a server of object storage as slow, and puts the files that take longest first.

    None of them is then left for the end, when several run at once.
    """
    for item in items:
        place = getattr(item, "callspec", None) and item.callspec.params.get("url")  # type: ignore[attr-defined]
        servers = {"server", "s3rver_server", "google", "azurite"}
        if servers & set(getattr(item, "fixturenames", ())) or place not in (None, "file"):
            item.add_marker(pytest.mark.slow)
    if loaded := HEAVY & sys.modules.keys():
        raise pytest.UsageError(f"collecting the tests loads {', '.join(sorted(loaded))}: import it inside the test")
    ray, slow = ({item.path for item in items if item.get_closest_marker(name)} for name in ("cluster", "slow"))
    longest = ("test_survival.py", "test_end_to_end.py")
    items.sort(key=lambda item: (item.path.name not in longest, item.path not in ray, item.path not in slow))


@pytest.fixture(autouse=True, scope="session")
def weights_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the weights of preset photos are, as far as anything asks that does not compute with them: zeros."""
    from safetensors.numpy import save_file

    folder = tmp_path_factory.mktemp("pretrained")
    zeros = {name: np.zeros(shape, np.float16) for name, shape in TOWERS["EfficientNetLite2"].variables("last_map")}
    save_file(zeros, folder / "EfficientNetLite2.safetensors")
    before = os.environ.get("CAPTUNE_WEIGHTS")
    os.environ["CAPTUNE_WEIGHTS"] = before or str(folder)
    yield folder
    if before is None:
        del os.environ["CAPTUNE_WEIGHTS"]


@pytest.fixture(autouse=True)
def light(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that is not marked slow or cluster loads none of what takes seconds to load."""
    before = HEAVY & sys.modules.keys()
    yield
    loaded = HEAVY & sys.modules.keys() - before
    if not any(request.node.get_closest_marker(name) for name in ("slow", "cluster")):
        assert not loaded, "loaded by a test of the fast set"
    if loaded:  # which stays: what looks for garbage passes it over, as in a worker
        gc.collect()
        gc.freeze()


# Trial 0 is the compact preset with less of everything: some 10,000 weights.
SEARCH_YAML = """\
preset: compact
trials: 4
halving: {grace: 1, reduction: 2}
fixed:
  train.epochs: 3
  train.batch_size: 32
  image.width: 4
  image.stages: 2
  text.units: 16
  head_units: 16
space:
  image.width: [4, 8]
  text.embedding: {low: 8, high: 24, step: 8}
  train.learning_rate: {low: 1e-3, high: 1e-2, log: true}
"""


@dataclass(frozen=True)
class Ran:
    """What a command left: exit status, standard output as bytes, standard error as text."""

    code: int
    stdout: bytes
    err: str

    @property
    def out(self) -> str:
        return self.stdout.decode()


def refused(ran: Ran, *words: str, code: int = 2) -> None:
    """One line, saying all the words; nothing on stdout, no traceback."""
    lines = ran.err.splitlines()
    assert ran.code == code, ran
    assert len(lines) == 1 and lines[0].startswith("error: "), ran.err
    assert ran.out == "", ran
    for word in words:
        assert word in lines[0], lines[0]


Captune = Callable[..., Ran]


def run_main(*arguments: object) -> Ran:
    """`captune ARGUMENTS` in this process, its traceback included where it has one."""
    import traceback

    from captune.tuner.command import main as cli

    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    err = io.StringIO()
    code = 0
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr(sys, "argv", ["captune", *map(str, arguments)])
        try:
            cli.main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except Exception:
            code = 1
            traceback.print_exc()
    out.flush()
    return Ran(code, out.buffer.getvalue(), err.getvalue())  # type: ignore[attr-defined]


@pytest.fixture(scope="session")
def captune() -> Captune:
    """The command line in this process: quick, and readable where it fails."""
    return run_main


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train.csv with 120 labelled scenes, test.csv with 12 unlabelled ones, images/*.jpg. Not to be changed."""
    out = tmp_path_factory.mktemp("drawn") / "demo"
    draw(out, count=120, unlabelled=12, seed=0)
    return out


@pytest.fixture(scope="session")
def data(drawn: Path) -> PreparedData:
    """Pictures and captions of the drawn scenes, prepared."""
    return prepare(drawn / "train.csv", drawn / "images", drawn.parent / "data", side=SIDE)


@pytest.fixture(scope="session")
def captions_data(drawn: Path) -> PreparedData:
    """The captions alone."""
    return prepare(drawn / "train.csv", None, drawn.parent / "captions")


@pytest.fixture(scope="session")
def pictures_data(drawn: Path) -> PreparedData:
    """The pictures alone: the CSV without its captions."""
    rows = (drawn / "train.csv").read_text().splitlines()
    uncaptioned = drawn.parent / "uncaptioned.csv"
    uncaptioned.write_text("".join(",".join(row.split(",")[:2]) + "\n" for row in rows))
    return prepare(uncaptioned, drawn / "images", drawn.parent / "pictures", side=SIDE)


@pytest.fixture
def twelve(drawn: Path, tmp_path: Path) -> Path:
    """raw/train.csv and raw/images with the first twelve scenes, to be spoilt."""
    raw = tmp_path / "raw"
    (raw / "images").mkdir(parents=True)
    rows = (drawn / "train.csv").read_text().splitlines(keepends=True)[:13]
    (raw / "train.csv").write_text("".join(rows))
    for row in rows[1:]:
        shutil.copy(drawn / "images" / row.split(",")[0], raw / "images")
    return raw


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """data, run and train.csv as version 0.1.0 wrote them: a copy, whose run knows where its data is."""
    folder = tmp_path / "old"
    shutil.copytree(OLD, folder)
    settings = folder / "run" / "run.json"
    settings.write_text(settings.read_text().replace("DATA", str(folder / "data")))
    return folder


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A folder where somebody has modules of the names of captune's folders, all of which raise."""
    folder = tmp_path / "work"
    folder.mkdir()
    for name in ("model", "cluster", "results", "tuner", "data_prep"):
        (folder / f"{name}.py").write_text(f"raise RuntimeError('the {name} of somebody')\n")
    return folder


@pytest.fixture(scope="session")
def search_yaml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search.yaml whose trials take a second."""
    path = tmp_path_factory.mktemp("settings") / "search.yaml"
    path.write_text(SEARCH_YAML)
    return path


@pytest.fixture(scope="module")
def tiny(data: PreparedData) -> TrialConfig:
    """A configuration that trains in a second."""
    return bind(replace(PRESETS["compact"], TINY), data.manifest)
