"""A run written for TensorBoard, MLflow or Weights & Biases: from its study, once or while a search goes on.

Each sink has a process of its own beside the search, which reads the study: nothing of it is on the driver's way, and
one that fails, hangs or is slow costs no trial.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

from captune.cluster.object_storage.addresses import is_url
from captune.errors import ArgumentError, Error, UsageError, among, one_line, shell_word
from captune.results.run_folder import RunFolder
from captune.results.sinks.sink import PACKAGES, SINKS, SinkName, open_sink
from captune.tuner.run.locations import reading
from captune.tuner.run.settings import RunSettings

_LOOK_SECONDS = 2.0  # between two looks at the study
_END_SECONDS = 60.0  # that all sinks together have after the search
_SOON_SECONDS = 2.0  # that nobody is told to wait for
_QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "WANDB_ERROR_REPORTING": "false", "WANDB_SILENT": "true"}


def check_sinks(names: Sequence[str]) -> tuple[SinkName, ...]:
    """The sinks of these names.

    Raises:
        ArgumentError: there is none of a name.
        UsageError: what it needs is not installed.
    """
    for name in names:
        if name not in SINKS:
            raise ArgumentError("log", f"no sink {one_line(name, 60)}; {among(name, SINKS)}")
    sinks = tuple(name for name in SINKS if name in names)
    for name in sinks:
        if find_spec(PACKAGES[name]) is None:
            raise UsageError(f"{PACKAGES[name]} is not installed; pip install 'captune[{name}]'")
    return sinks


def log(where: str, to: str, out: str | Path | None) -> tuple[int, Path]:
    """See `Run.log`."""
    from captune.results.sinks.follow import follow

    (name,) = check_sinks([to])
    for variable, value in _QUIET.items():
        os.environ.setdefault(variable, value)
    with reading(where) as folder:
        target = _folder_of(folder) if out is None else Path(out)
        sink = open_sink(name, target, RunSettings.of(folder).facts(folder))
        return follow(folder, sink, lambda: True), target


def viewer(name: SinkName, out: Path) -> str:
    """How what was logged is looked at, in words that end with a command or an address."""
    if name == "tensorboard":
        return f"look at it with: tensorboard --logdir {shell_word(out / name)}"
    if name == "mlflow":
        server = os.environ.get("MLFLOW_TRACKING_URI")
        database = f"sqlite:///{(out / 'mlflow.db').resolve()}"
        return (
            f"it is at {server}" if server else f"look at it with: mlflow ui --backend-store-uri {shell_word(database)}"
        )
    online = os.environ.get("WANDB_MODE") == "online"
    return "it is on the server" if online else f"send it with: wandb sync {shell_word(out / name)}/offline-run-*"


def _folder_of(run: RunFolder) -> Path:
    """Where a run is logged unless asked otherwise: in its folder, or, for one at an address, in the current one."""
    if not is_url(str(run)):
        return run.logs
    return Path("captune-logs", str(run).rstrip("/").rpartition("/")[2])


@contextmanager
def logging_to(run: RunFolder, names: Sequence[SinkName], say: Callable[[str], None]) -> Iterator[None]:
    """Logs a run to each of some sinks while inside; then they have some seconds to finish."""
    out = _folder_of(run).resolve()
    followers = [_Follower(run, name, out, say) for name in names]
    try:
        yield
    except Exception:
        _finish(followers)
        raise
    except BaseException:  # a second Ctrl-C
        for follower in followers:
            follower.kill()
        raise
    else:
        _finish(followers)


def _finish(followers: Sequence[_Follower]) -> None:
    for follower in followers:
        follower.search_is_over()
    end = time.monotonic() + _END_SECONDS
    slow = [follower.name for follower in followers if not follower.has_ended(_SOON_SECONDS)]
    if slow:
        followers[0].say(f"still writing {', '.join(slow)}, {_END_SECONDS:.0f} s at most; Ctrl-C does not wait")
    for follower in followers:
        follower.finish(max(0.1, end - time.monotonic()))


class _Follower:
    """The process that writes one sink. It is told the end of the search by the end of its input, so also where the
    search is killed; a terminal's signals do not reach it."""

    def __init__(self, run: RunFolder, name: SinkName, out: Path, say: Callable[[str], None]) -> None:
        self.name, self.say = name, say
        self._way_out = f"`captune log {shell_word(run)} --to {name}` writes it whole"
        command = [sys.executable, "-P", "-m", __name__, str(run.path.resolve()), run.address or "", name, str(out)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=_QUIET | dict(os.environ),
            start_new_session=True,
        )
        self._listener = threading.Thread(target=self._listen, name=f"log {name}", daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        complaint = self._process.stdout.read().decode(errors="replace")
        status = self._process.wait()
        if complaint or status > 0:
            reason = one_line(complaint) or f"its process ended with status {status}"
            self.say(f"note: {self.name} got no more of the search ({reason}); {self._way_out}")

    def search_is_over(self) -> None:
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()

    def has_ended(self, seconds: float) -> bool:
        """Whether it has by then."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        return self._process.poll() is not None

    def finish(self, seconds: float) -> None:
        if not self.has_ended(seconds):
            self.kill()
            self.say(f"note: {self.name} was not written whole in {_END_SECONDS:.0f} s; {self._way_out}")
        self._listener.join(1.0)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


def _main(path: str, address: str, name: SinkName, out: str) -> None:
    """The follower's own: complaints go to stdout, and whatever a library prints nowhere."""
    from captune.results.sinks.follow import follow

    os.nice(5)  # trials first
    answers, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    run = RunFolder(Path(path), address or None)
    try:
        follow(run, open_sink(name, Path(out), RunSettings.of(run).facts(run)), _search_is_over)
    except (Error, ImportError, OSError) as error:
        os.write(answers, str(error).encode())


def _search_is_over() -> bool:
    """Whether the input has ended; waits for it for the time between two looks."""
    return bool(select.select([sys.stdin], [], [], _LOOK_SECONDS)[0])


if __name__ == "__main__":
    _main(*sys.argv[1:])  # type: ignore[arg-type]
