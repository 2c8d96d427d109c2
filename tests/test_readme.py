"""What the pages tell people to type exists, what they name is there, and what they promise is held by a test."""

import re
import shlex
import tomllib
from functools import cache
from pathlib import Path

import pytest
import typer
from packaging.version import Version
from typer.main import get_command

from captune.tuner.command.main import app

ROOT = Path(__file__).parent.parent
PAGES = {
    name: (ROOT / name).read_text(encoding="utf-8")
    for name in (
        "README.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "HISTORY.md",
        "CHANGELOG.md",
        "cluster/README.md",
        "tuner/space/README.md",
        "tuner/winner/formats/README.md",
        "tuner/serving/README.md",
        "tests/benchmarks/README.md",
    )
}
README, ARCHITECTURE = PAGES["README.md"], PAGES["ARCHITECTURE.md"]
OF_NOW = [name for name in PAGES if name not in ("HISTORY.md", "CHANGELOG.md")]  # the others tell of what was
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
FOLDERS = ("tuner", "results", "cluster", "model", "data_prep", "tests")
VERBS = get_command(app).commands  # type: ignore[attr-defined]
MAKE_TARGETS = set(re.findall(r"^(\w[\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def blocks(text: str, language: str = r"[^\n]*") -> list[str]:
    """The contents of fenced blocks."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def lines_to_type(text: str) -> list[str]:
    """Every line behind a prompt in a console block, and every command between backticks."""
    typed = [line[2:] for block in blocks(text, "console") for line in block.splitlines() if line.startswith("$ ")]
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return typed + re.findall(r"`((?:captune|make) [^`]+)`", prose.replace("\n", " "))


def commands(text: str) -> list[list[str]]:
    """Every `captune ...` of a page, as words."""
    found = []
    for line in lines_to_type(text):
        for part in re.split(r"\s(?:&&|\|)\s|;\s", line):
            if match := re.match(r"captune(\s.*)?$", part.strip()):
                found.append(shlex.split((match[1] or "").replace("\N{HORIZONTAL ELLIPSIS}", ""), comments=True))
    return found


def followed(words: list[str]) -> tuple[typer.core.TyperCommand, list[str]]:
    """The verb of a command, and the words behind it."""
    verb = get_command(app)
    while words and words[0] in getattr(verb, "commands", ()):
        verb, words = verb.commands[words[0]], words[1:]  # type: ignore[attr-defined]
    return verb, words  # type: ignore[return-value]


def options_of(verb: typer.core.TyperCommand) -> set[str]:
    own = {name for parameter in verb.params for name in (*parameter.opts, *parameter.secondary_opts)}
    return own | {"--help", "-h"}


@cache
def known_tests(name: str) -> set[str]:
    path = ROOT / "tests" / name
    return set(re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE) if path.exists() else ())


def test_readme_is_short_enough_to_be_read() -> None:
    assert len(README.encode()) <= 9 * 1024


def test_pages_show_commands() -> None:
    assert len(commands(README)) >= 10
    assert len(commands(PAGES["cluster/README.md"])) >= 10


def unknown_in(text: str) -> list[str]:
    """Verbs and options of the commands of a page that do not exist."""
    unknown = []
    for words in commands(text):
        verb, rest = followed(words)
        if words and words[0] == "submit":  # the server, then a command of its own
            verb, rest = followed(rest[1:])
        if hasattr(verb, "commands") and rest and not rest[0].startswith("-"):
            unknown.append(" ".join(words))
        options = [word.partition("=")[0] for word in rest if word.startswith("-")]
        unknown += [f"{' '.join(words)}: {option}" for option in set(options) - options_of(verb)]
    return unknown


@pytest.mark.parametrize("page", OF_NOW)
def test_every_command_of_a_page_exists_with_its_options(page: str) -> None:
    assert not unknown_in(PAGES[page])


def test_verb_and_option_that_do_not_exist_are_found() -> None:
    page = "`captune jobs SERVER`\n```console\n$ captune show run 7 --speed 2   # fast\n$ captune refit run\n```\n"
    assert unknown_in(page) == ["show run 7 --speed 2: --speed", "jobs SERVER"]


def test_every_verb_is_on_readme_or_a_page_that_it_links_to() -> None:
    linked = [page for page in OF_NOW if page == "README.md" or f"]({page})" in README]
    # `make demo` sets up the environment that `captune demo` needs, so it may be the one that is shown.
    assert set(VERBS) - {"demo"} <= {words[0] for page in linked for words in commands(PAGES[page]) if words}


@pytest.mark.parametrize("verb", VERBS)
def test_verb_and_its_options_have_help(verb: str) -> None:
    command = VERBS[verb]
    assert command.help
    bare = [p.name for p in command.params if isinstance(p, typer.core.TyperOption) and not p.help]
    assert not bare


def test_first_commands_of_readme_are_the_demo_and_the_tests() -> None:
    typed = [line.split("#")[0].split() for line in lines_to_type(README) if line.startswith("make ")]
    assert typed[:2] == [["make", "demo"], ["make", "test"]]


@pytest.mark.parametrize("page", OF_NOW)
def test_every_make_target_of_a_page_is_in_the_makefile(page: str) -> None:
    used = {line.split()[1] for line in lines_to_type(PAGES[page]) if line.startswith("make ")}
    assert used <= MAKE_TARGETS


@pytest.mark.parametrize("page", PAGES)
def test_every_link_of_a_page_leads_somewhere(page: str) -> None:
    targets = re.findall(r"\]\(([^)#:\s]+)(?:#[\w-]*)?\)", PAGES[page])
    assert not [target for target in targets if not (ROOT / page).parent.joinpath(target).exists()]


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_a_page_names_exists(page: str) -> None:
    named = re.findall(rf"(?<![\w./-])(?:{'|'.join(FOLDERS)})/[\w./-]*\.(?:py|yaml|md|sh)\b", PAGES[page])
    named += re.findall(r"\.src/[\w./]+\.py\b", PAGES[page])
    assert not [name for name in sorted(set(named)) if not (ROOT / name).exists()]


def test_every_benchmark_is_on_the_page_of_measurements() -> None:
    named = set(re.findall(r"^\| `(\w+\.py)\b", PAGES["tests/benchmarks/README.md"], re.MULTILINE))
    assert named == {path.name for path in (ROOT / "tests" / "benchmarks").glob("*.py")}


def test_file_map_lists_every_module_of_every_folder_and_no_other() -> None:
    mapped = {
        f"{folder}/{name}"
        for folder, rows in re.findall(r"^### `([\w./]+)`\n(.*?)(?=^#|\Z)", ARCHITECTURE, re.MULTILINE | re.DOTALL)
        for name in re.findall(r"^\| `(\w+\.py)` \| \S", rows, re.MULTILINE)
    }
    modules = {path.relative_to(ROOT) for folder in set(FOLDERS) - {"tests"} for path in (ROOT / folder).rglob("*.py")}
    own = {str(path.relative_to(ROOT)) for path in (ROOT / ".src" / "captune").glob("*.py")}
    assert mapped == own | {str(path) for path in modules if path.name != "__init__.py"}


def test_every_invariant_names_a_test_or_a_contract_that_exists() -> None:
    section = re.search(r"^## Invariants\n(.*?)^## ", ARCHITECTURE, re.MULTILINE | re.DOTALL)
    assert section
    holders = [row.split(" | ")[1] for row in section[1].splitlines() if row.startswith("| ")][1:]
    contracts = {contract["name"] for contract in PYPROJECT["tool"]["importlinter"]["contracts"]}
    assert len(holders) > 20
    for holder in holders:
        tests, named = re.findall(r"`tests/(test_\w+\.py)::(test_\w+)`", holder), set(re.findall(r'"([^"]+)"', holder))
        assert tests or named, holder
        assert not [f"{file}::{name}" for file, name in tests if name not in known_tests(file)]
        assert named <= contracts


def test_newest_release_is_that_of_the_citation_and_the_package_is_it_or_on_the_way_to_the_next() -> None:
    changes = PAGES["CHANGELOG.md"]
    version, date = re.findall(r"^## (\d+\.\d+\.\d+) - (\S+)$", changes, re.MULTILINE)[0]
    package = Version(PYPROJECT["project"]["version"])
    if "\n## Unreleased\n" in changes:
        assert package.is_devrelease and package > Version(version)
    else:
        assert package == Version(version)
    assert f'\nversion: {version}\ndate-released: "{date}"\n' in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


def test_every_source_folder_is_imported_as_part_of_captune_and_under_no_name_of_its_own() -> None:
    links = {path.name: path.resolve() for path in (ROOT / ".src" / "captune").iterdir() if path.is_symlink()}
    assert links == {name: ROOT / name for name in set(FOLDERS) - {"tests"}}
    assert PYPROJECT["tool"]["setuptools"]["packages"] == {"find": {"where": [".src"]}}
    assert PYPROJECT["project"]["scripts"] == {"captune": "captune.tuner.command.main:main"}
