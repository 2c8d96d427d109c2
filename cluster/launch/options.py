"""Options of launch files: frozen values, declared once with their help, and checked when they are made. Pure.

A name that could be read as something else by YAML, by a shell or by a comment is quoted where quoting holds, and
refused where it does not.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, fields
from importlib.metadata import version
from typing import Annotated, Any, ClassVar, NamedTuple, get_type_hints

from captune.cluster.nodes.resources import Request, ResourceError
from captune.errors import UsageError

LABEL = r"[a-z]([-a-z0-9]*[a-z0-9])?"  # a name that AWS, GCP and Kubernetes take alike
LABEL_RULE = "lower case letters, digits and dashes"


class TemplateError(UsageError):
    """Options that no file can be made of."""


@dataclass(frozen=True)
class Option:
    """What is declared of an option beside its name, type and default.

    Attributes:
        help: for people. least: smallest number.
        pattern: that each whole text must match, and rule: how a message says so.
    """

    help: str
    least: int | None = None
    pattern: str | None = None
    rule: str = ""

    def check(self, name: str, value: object) -> None:
        """Raises TemplateError for a value that is not allowed. None is allowed: the option is left out."""
        if isinstance(value, tuple):
            for each in value:
                self.check(name, each)
        elif isinstance(value, str):
            # Also keeps out what only YAML takes for a line's end, and signs that change the direction of writing.
            if not value.isprintable():
                raise TemplateError(f"{flag(name)} must be one line of printable characters, got {value!r}")
            if name != "search_options" and (not value.strip() or value.startswith("-")):
                raise TemplateError(f"{flag(name)} must not be empty nor start with a dash, got {value!r}")
            if self.pattern is not None and re.fullmatch(self.pattern, value) is None:
                raise TemplateError(f"{flag(name)} must be {self.rule}, got {value!r}")
        elif self.least is not None and isinstance(value, int) and value < self.least:
            raise TemplateError(f"{flag(name)} must be {self.least} or more, got {value}")


Image = Annotated[
    str,
    Option("container image with captune, and the Ray of --ray", pattern=r"\S+", rule="an image's name without blanks"),
]
Python = Annotated[
    str, Option("command that makes the virtual environment; the same version everywhere, 3.11 or newer")
]
RayVersion = Annotated[
    str | None,
    Option(
        "version of Ray; the one installed here if left out",
        pattern=r"[0-9]+\.[0-9]+\.[0-9]+",
        rule="a version, e.g. 2.60.0",
    ),
]


Package = Annotated[
    str | None,
    Option(
        "what pip installs: a wheel on this machine, which is sent along, or a requirement such as "
        "`captune @ git+https://...`; dist/captune-VERSION-py3-none-any.whl if left out"
    ),
]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Values of a command line: each field is the option of its name, its annotation an Option."""

    kind: ClassVar[str]  # of file: `captune cluster template KIND` prints it

    def __post_init__(self) -> None:
        for name, declaration in declarations(type(self)).items():
            declaration.option.check(name, getattr(self, name))
        self.check_together()

    def check_together(self) -> None:
        """Raises TemplateError where values do not suit each other."""

    def command(self) -> list[str]:
        """The command that makes the same file again."""
        words = ["captune", "cluster", "template", self.kind]
        for field in fields(self):
            value = getattr(self, field.name)
            if value != field.default:
                number = isinstance(value, float)
                text = ",".join(value) if isinstance(value, tuple) else f"{value:g}" if number else str(value)
                words += [flag(field.name), text]
        return words


_OWN = ("--run", "--resume-if-there", "--address", "--gpus-per-trial", "--cpus-per-trial")


@dataclass(frozen=True, kw_only=True)
class Search(Options):
    """A search on a cluster."""

    data: Annotated[str, Option("data set, at a path or an address that all nodes see")]
    run: Annotated[str, Option("run, at a path or an address that all nodes see")]
    gpus_per_trial: Annotated[float, Option("that one trial asks for; may be a fraction")] = 1.0
    cpus_per_trial: Annotated[float, Option("that one trial asks for")] = 4.0
    search_options: Annotated[str, Option("further options of `captune search`, as on its command line")] = ""

    def search_command(self) -> list[str]:
        """The command that searches, or goes on with the same run: files are started again, by people and machines."""
        start = ["captune", "search", self.data, "--run", self.run, "--resume-if-there", "--address", "auto"]
        resources = ["--gpus-per-trial", f"{self.gpus_per_trial:g}", "--cpus-per-trial", f"{self.cpus_per_trial:g}"]
        return [*start, *resources, *self._further()]

    def _further(self) -> list[str]:
        try:
            words = shlex.split(self.search_options)
        except ValueError as error:
            raise TemplateError(f"--search-options {self.search_options!r}: {str(error).lower()}") from error
        for word in words:
            if word.partition("=")[0] in _OWN:
                raise TemplateError(f"--search-options holds {word}, which the template sets itself; leave it out")
        return words

    def check_trial(self, cpus: int, gpus: int) -> None:
        """Raises TemplateError where one trial asks for more than a node has."""
        self._further()
        try:
            Request(self.cpus_per_trial, self.gpus_per_trial)
        except ResourceError as error:
            raise TemplateError(str(error)) from error
        for name, size, limit in (
            ("--cpus-per-trial", self.cpus_per_trial, cpus),
            ("--gpus-per-trial", self.gpus_per_trial, gpus),
        ):
            if size > limit:
                raise TemplateError(f"{name} must be {limit} or less, as one node has no more, got {size:g}")


class Declaration(NamedTuple):
    """An option as its class declares it."""

    type: Any
    default: Any  # dataclasses.MISSING where it has none
    option: Option


def declarations(options: type[Options]) -> dict[str, Declaration]:
    """The options of a class by name."""
    hints = get_type_hints(options, include_extras=True)
    return {
        field.name: Declaration(hints[field.name].__origin__, field.default, hints[field.name].__metadata__[0])
        for field in fields(options)
    }


def ray_version(options: Any) -> str:
    """Of the cluster: what its `ray` says, or what is installed here."""
    return options.ray or version("ray")


class Install(NamedTuple):
    """What pip installs as captune, and the file on this machine that it is in, None for none."""

    requirement: str
    wheel: str | None
    name: str | None  # of the wheel where it is sent to


def install(captune: str | None, *, gpus: bool) -> Install:
    """What an option of type Package says, with captune's own extra for GPUs where a wheel is sent along.

    Raises:
        TemplateError: no wheel has such a name.
    """
    package = captune or f"dist/captune-{version('captune')}-py3-none-any.whl"
    if not package.endswith(".whl") or "://" in package:
        return Install(package, None, None)
    name = package.rpartition("/")[2]
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.+!-]*", name) is None:
        raise TemplateError(
            f"--captune must be a wheel as pip names them, captune-VERSION-py3-none-any.whl, got {name}"
        )
    return Install(f"./{name}[gpu]" if gpus else f"./{name}", package, name)


def flag(name: str) -> str:
    """The option of a field on the command line."""
    return "--" + name.replace("_", "-")


def check_workers(first: int, most: int) -> None:
    """Raises TemplateError where there are fewer workers at most than at first."""
    if most < first:
        raise TemplateError(f"--max-workers must be {first}, as --workers, or more, got {most}")
