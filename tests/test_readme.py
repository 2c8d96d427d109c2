"""What README.md tells people to type exists, and what it says is there is there."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest
import typer
from typer.main import get_command

from captune.tuner.command.main import app

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
FOLDERS = ("tuner", "results", "cluster", "model", "data_prep", "tests")
VERBS = get_command(app).commands  # type: ignore[attr-defined]

needs_text = pytest.mark.skipif(not README.strip(), reason="README.md is empty")


def blocks(text: str) -> list[str]:
    """The contents of all fenced blocks."""
    return re.findall(r"^```[^\n]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[list[str]]:
    """Every `captune ...` that stands in a fenced block or between backticks, as words."""
    lines = [line for block in blocks(text) for line in block.replace("\\\n", " ").splitlines()]
    plain = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    lines += re.findall(r"`(captune [^`]+)`", plain.replace("\n", " "))
    found = []
    for line in lines:
        for part in re.split(r"\s(?:&&|\|)\s|;\s", line.strip().removeprefix("$ ")):
            match = re.match(r"(?:\.venv/bin/)?captune(\s.*)?$", part.strip())
            if match:
                found.append(shlex.split((match[1] or "").split("  ")[0], comments=True))
    return found


def options_of(verb: str) -> set[str]:
    return {name for parameter in VERBS[verb].params for name in (*parameter.opts, *parameter.secondary_opts)} | {
        "--help"
    }


@needs_text
def test_readme_shows_commands() -> None:
    assert len(commands(README)) >= 5


@needs_text
def test_every_command_in_the_readme_is_a_verb() -> None:
    unknown = [words for words in commands(README) if words and words[0] not in VERBS and words[0] != "--help"]
    assert not unknown


@needs_text
def test_every_option_in_the_readme_exists() -> None:
    unknown = [
        (words[0], word)
        for words in commands(README)
        if words and words[0] in VERBS
        for word in words[1:]
        if word.startswith("--") and word.split("=")[0] not in options_of(words[0])
    ]
    assert not unknown


@needs_text
def test_every_verb_is_in_the_readme() -> None:
    # `make demo` sets up the environment that `captune demo` needs, so it may be the one that is shown.
    assert set(VERBS) - {"demo"} <= {words[0] for words in commands(README) if words}


@pytest.mark.parametrize("verb", VERBS)
def test_verb_and_its_options_have_help(verb: str) -> None:
    command = VERBS[verb]
    assert command.help
    bare = [p.name for p in command.params if isinstance(p, typer.core.TyperOption) and not p.help]
    assert not bare


@needs_text
@pytest.mark.parametrize("target", ["demo", "test"])
def test_make_target_of_the_readme_is_in_the_makefile(target: str) -> None:
    assert re.search(rf"^\s*(?:\$ )?make {target}\b", "\n".join(blocks(README)), re.MULTILINE)
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@needs_text
def test_every_make_target_in_the_readme_is_in_the_makefile() -> None:
    targets = set(re.findall(r"^(\w[\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    used = set(re.findall(r"`make (\w[\w-]*)", README)) | set(
        re.findall(r"^\s*(?:\$ )?make (\w[\w-]*)", "\n".join(blocks(README)), re.MULTILINE)
    )
    assert used <= targets


@needs_text
def test_every_file_that_the_readme_names_exists() -> None:
    """Paths that begin with one of the source folders, or end like a file at the top: none is a relic."""
    named = set(re.findall(rf"\b(?:{'|'.join(FOLDERS)})/[\w./-]*\.(?:py|yaml)\b", README))
    named |= set(re.findall(r"\]\(([\w./-]+\.(?:md|py|yaml|toml))(?:#[\w-]*)?\)", README))
    assert not [name for name in sorted(named) if not (ROOT / name).exists()]


@needs_text
def test_every_module_in_a_file_map_exists_and_the_map_is_whole() -> None:
    """Where README lists a folder's modules, it lists them all."""
    named = set(re.findall(r"\b(\w+\.py)\b", README))
    modules = {path.name: path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")}
    assert named <= modules.keys() | {path.name for path in (ROOT / "tests" / "benchmarks").glob("*.py")}
    if len(named) > 10:
        sources = {name for name, path in modules.items() if path.parent.name != "tests" and name != "__init__.py"}
        assert sources <= named


def test_newest_version_of_the_changelog_is_that_of_the_package() -> None:
    changelog = ROOT / "CHANGELOG.md"
    if not changelog.exists():
        pytest.skip("no CHANGELOG.md")
    versions = re.findall(r"^##\s+\[?v?(\d+\.\d+\.\d+)", changelog.read_text(encoding="utf-8"), re.MULTILINE)
    assert versions
    assert versions[0] == PYPROJECT["project"]["version"]


def test_every_source_folder_is_imported_as_part_of_captune_and_under_no_name_of_its_own() -> None:
    links = {path.name: path.resolve() for path in (ROOT / ".src" / "captune").iterdir() if path.is_symlink()}
    assert links == {name: ROOT / name for name in set(FOLDERS) - {"tests"}}
    assert PYPROJECT["tool"]["setuptools"]["packages"] == {"find": {"where": [".src"]}}
    assert PYPROJECT["project"]["scripts"] == {"captune": "captune.tuner.command.main:main"}
