"""What a job is sent with: captune's own code and version, and the settings files that its command names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from captune import errors
from captune.errors import WorkError

_ROOT = Path(errors.__file__).parent  # as it is installed: in a checkout a folder of links
_FOLDERS = ("tuner", "results", "cluster", "model", "data_prep")
_CODE = ("*.py", *(f"{folder}/**/*{kind}" for folder in _FOLDERS for kind in (".py", ".yaml")))
_SHIPPED_BYTES = 10 * 2**20


class JobError(WorkError):
    """A job could not be sent, found or reached."""


@dataclass(frozen=True)
class Shipment:
    """What a job is sent with: its command's arguments, and its working folder as names and bytes."""

    arguments: tuple[str, ...]
    contents: Mapping[str, bytes]

    @property
    def sizes(self) -> list[tuple[str, int]]:
        """Every file with its bytes, by name."""
        return [(name, len(content)) for name, content in sorted(self.contents.items())]

    @property
    def total(self) -> int:
        """Bytes of all files."""
        return sum(map(len, self.contents.values()))

    def write(self, folder: Path) -> None:
        """Lays the files out in a folder."""
        for name, content in self.contents.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)


def shipment(arguments: Sequence[str], *, files: Mapping[str, str]) -> Shipment:
    """Captune's own code and version, and the settings files that a command names. Never data.

    Args:
        arguments: a verb and what follows it.
        files: options whose value is a local file, with the name under which the job gets it.

    Raises:
        JobError: a file that is named cannot be read, or all together are over 10 MiB.
    """
    localised, sources = _localised(arguments, files)
    code = {f"captune/{path.relative_to(_ROOT).as_posix()}": path for pattern in _CODE for path in _ROOT.glob(pattern)}
    sources = code | sources
    shipped = Shipment(localised, {name: _read(path) for name, path in sources.items()} | _distribution())
    if shipped.total > _SHIPPED_BYTES:
        largest, size = max(shipped.sizes, key=lambda file: file[1])
        raise JobError(
            f"a job is sent with 10 MiB at most, and {sources[largest]} has {size} bytes or more of {shipped.total}; "
            "put data where the cluster's nodes see it"
        )
    return shipped


def _read(path: Path) -> bytes:
    """A file's bytes, not many more than may be sent."""
    try:
        with path.open("rb") as file:
            return file.read(_SHIPPED_BYTES + 1)
    except OSError as error:
        raise JobError(f"cannot read {path}: {error.strerror}; name a file of this machine") from None


def _localised(arguments: Sequence[str], files: Mapping[str, str]) -> tuple[tuple[str, ...], dict[str, Path]]:
    """The arguments with local files under the names that the job gets them by, and those names' files."""
    localised: list[str] = []
    sources: dict[str, Path] = {}
    rest = iter(arguments)
    for argument in rest:
        option, joined, value = argument.partition("=")
        if argument == "--":
            localised += [argument, *rest]
        elif option in files and (joined or (value := next(rest, ""))):
            localised += [option, files[option]]
            sources[files[option]] = Path(value)
        else:
            localised.append(argument)
    return tuple(localised), sources


def own_version() -> str | None:
    """Captune's, None where it was not installed."""
    try:
        return version("captune")
    except PackageNotFoundError:
        return None


def _distribution() -> dict[str, bytes]:
    """What makes `importlib.metadata` know captune's version on a cluster where nobody installed it."""
    number = own_version()
    if number is None:
        return {}
    metadata = f"Metadata-Version: 2.1\nName: captune\nVersion: {number}\n"
    return {f"captune-{number}.dist-info/METADATA": metadata.encode()}
