"""What the files that start a cluster have in common. Text from options; nothing is started. Pure.

Options are frozen values that are checked when they are made. A name that could be read as something else by YAML, by a
shell or by a comment is quoted where quoting holds, and refused where it does not.
"""

from __future__ import annotations

import re
import shlex
import textwrap
from abc import ABC, abstractmethod
from dataclasses import MISSING, dataclass, fields
from importlib.metadata import version

import yaml

from captune.cluster.nodes.resources import Request, ResourceError
from captune.errors import UsageError

LABEL = r"[a-z]([-a-z0-9]*[a-z0-9])?"  # a name that AWS, GCP and Kubernetes take alike
DASHBOARD = 8265


class TemplateError(UsageError):
    """Options that no file can be made of."""


@dataclass(frozen=True, kw_only=True)
class Options(ABC):
    """Values of a command line: each field is the option of its name."""

    def __post_init__(self) -> None:
        for option in fields(self):
            value = getattr(self, option.name)
            for text in value if isinstance(value, tuple) else (value,):
                if isinstance(text, str) and option.name != "search_options":
                    _check_text(flag(option.name), text)
        self._check()

    @abstractmethod
    def _check(self) -> None:
        """Raises TemplateError where values do not suit each other."""


@dataclass(frozen=True, kw_only=True)
class Search(Options):
    """A search on a cluster."""

    data: str
    run: str
    gpus_per_trial: float = 1.0
    cpus_per_trial: float = 4.0
    search_options: str = ""

    def words(self) -> list[str]:
        """The command that searches."""
        each = ["--gpus-per-trial", f"{self.gpus_per_trial:g}", "--cpus-per-trial", f"{self.cpus_per_trial:g}"]
        return ["captune", "search", self.data, "--run", self.run, "--address", "auto", *each, *self._further()]

    def resume_words(self) -> list[str]:
        """The command that goes on with the same run."""
        return ["captune", "resume", self.run, "--address", "auto"]

    def _further(self) -> list[str]:
        _one_line("--search-options", self.search_options)
        try:
            words = shlex.split(self.search_options)
        except ValueError as error:
            raise TemplateError(f"--search-options {self.search_options!r}: {str(error).lower()}") from error
        for word in words:
            if word.partition("=")[0] in ("--run", "--address", "--gpus-per-trial", "--cpus-per-trial"):
                raise TemplateError(f"--search-options holds {word}, which the template sets itself; leave it out")
        return words

    def check_trial(self, cpus: int, gpus: int) -> None:
        """Raises TemplateError where one trial asks for more than a node has."""
        self._further()
        try:
            Request(self.cpus_per_trial, self.gpus_per_trial)
        except ResourceError as error:
            raise TemplateError(str(error)) from error
        for option, asked, there in (
            ("--cpus-per-trial", self.cpus_per_trial, cpus),
            ("--gpus-per-trial", self.gpus_per_trial, gpus),
        ):
            if asked > there:
                raise TemplateError(f"{option} must be {there} or less, as one node has no more, got {asked:g}")


def as_yaml(value: object) -> str:
    """YAML in the order of the keys, no line broken."""
    return yaml.safe_dump(value, sort_keys=False, width=1_000_000, allow_unicode=True)


def header(verb: str, options: Options, notes: str) -> str:
    """Comments: what the file is, how it was made, how it is used. Values are one line each, so they stay comments."""
    made = f"Made by captune {version('captune')}: {_command(verb, options)}"
    first, _, rest = textwrap.dedent(notes).strip().partition("\n")
    return "".join(f"# {line}".rstrip() + "\n" for line in [first, made, *rest.splitlines()])


def _command(verb: str, options: Options) -> str:
    """The command that makes the same file again."""
    words = ["captune", "cluster", "template", verb]
    for option in fields(options):
        value = getattr(options, option.name)
        default = option.default_factory() if option.default_factory is not MISSING else option.default
        if value != default:
            text = ",".join(value) if isinstance(value, tuple) else f"{value:g}" if isinstance(value, float) else value
            words += [flag(option.name), str(text)]
    return shlex.join(words)


def flag(name: str) -> str:
    """The option of a field."""
    return "--" + name.replace("_", "-")


def _one_line(option: str, text: str) -> None:
    """Also keeps out what only YAML takes for the end of a line, and signs that change the direction of writing."""
    if not text.isprintable():
        raise TemplateError(f"{option} must be one line of printable characters, got {text!r}")


def _check_text(option: str, text: str) -> None:
    _one_line(option, text)
    if not text.strip() or text.startswith("-"):
        raise TemplateError(f"{option} must not be empty nor start with a dash, got {text!r}")


def check_pattern(option: str, text: str, pattern: str, rule: str) -> None:
    """Raises TemplateError, which says the rule, where the whole text is not of the pattern."""
    if re.fullmatch(pattern, text) is None:
        raise TemplateError(f"{option} must be {rule}, got {text!r}")


def at_least(option: str, value: int | None, least: int) -> None:
    """Raises TemplateError for a value below `least`."""
    if value is not None and value < least:
        raise TemplateError(f"{option} must be {least} or more, got {value}")


def check_workers(first: int, most: int) -> None:
    """Raises TemplateError where there is no worker at first, or fewer at most than at first."""
    at_least("--workers", first, 1)
    if most < first:
        raise TemplateError(f"--max-workers must be {first}, as --workers, or more, got {most}")
