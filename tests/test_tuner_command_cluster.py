"""What people type wrong at the verbs of a cluster ends in seconds, with one clear line, and reaches no cluster."""

import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conftest import Captune, refused

from captune.cluster.jobs import server as jobs
from captune.cluster.jobs import submit as sending
from captune.cluster.launch.docker import Docker
from captune.cluster.launch.kuberay import KubeRay
from captune.cluster.launch.options import Options, declarations, flag
from captune.cluster.launch.ray_up import RayUp
from captune.cluster.launch.skypilot import SkyPilot
from captune.cluster.launch.slurm import Slurm
from captune.tuner.command.cluster import follow_job, is_server

SERVER = "http://127.0.0.1:1"
SEARCH = ("search", "/data", "--run", "/run", "--trials", "3")


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[str], dict[str, str], bool]]:
    """What would have been sent: server, arguments, options with a local file, whether it joins the cluster."""
    commands: list[tuple[str, list[str], dict[str, str], bool]] = []

    def submit(
        server: str, arguments: list[str], *, files: dict[str, str], joins: bool, say: Callable[[str], None]
    ) -> str:
        commands.append((server, list(arguments), dict(files), joins))
        return "raysubmit_1"

    monkeypatch.setattr(sending, "submit", submit)
    return commands


# Templates


KINDS = ("ray-up", "kuberay", "slurm", "skypilot", "docker")


def test_help_of_template_names_the_kinds_and_an_unknown_one_is_refused(captune: Captune) -> None:
    ran = captune("cluster", "template", "--help")
    assert ran.code == 0 and all(kind in ran.out for kind in KINDS), ran
    refused(captune("cluster", "template", "helm"), "'helm'", "captune cluster template --help")


@pytest.mark.parametrize("kind", KINDS[:-1])
def test_required_option_of_a_template_that_is_missing_is_named(captune: Captune, kind: str) -> None:
    refused(captune("cluster", "template", kind), "Missing option '--", f"template {kind}")


def test_option_of_another_template_is_refused(captune: Captune) -> None:
    refused(captune("cluster", "template", "slurm", "--provider", "aws"), "--provider")


def test_value_that_is_no_number_is_refused(captune: Captune) -> None:
    refused(captune("cluster", "template", "slurm", "--nodes", "many"), "'--nodes'", "whole number")


@pytest.mark.parametrize("options", [RayUp, KubeRay, Slurm, SkyPilot, Docker])
def test_every_option_of_a_template_is_explained(captune: Captune, options: type[Options]) -> None:
    ran = captune("cluster", "template", options.kind, "--help")
    assert ran.code == 0 and ran.err == ""
    text = " ".join(ran.out.replace("│", " ").split())
    for name, declaration in declarations(options).items():
        assert flag(name) in text
        assert declaration.option.help.split()[0] in text


def test_template_takes_lists_by_commas_and_prints_the_command_that_makes_it_again(captune: Captune) -> None:
    words = ["cluster", "template", "slurm", "--data", "d", "--run", "r", "--nodes", "2", "--modules", "cuda,python"]
    ran = captune(*words)
    assert ran.code == 0 and "module load cuda python" in ran.out
    assert ran.out.splitlines()[2].endswith(": captune " + " ".join(words))
    refused(captune(*words, "--time", "8h"), "--time must be [DAYS-]HOURS:MINUTES:SECONDS", "'8h'")


# Sending


def test_submit_without_a_command_is_refused_with_an_example(captune: Captune, sent: list[Any]) -> None:
    refused(captune("submit", SERVER), "name the command to send", "search DATA --run RUN")
    assert not sent


@pytest.mark.parametrize("verb", ["submit", "cluster", "jobs", "serch", "--trials", ""])
def test_verb_that_cannot_be_sent_is_refused(captune: Captune, sent: list[Any], verb: str) -> None:
    refused(captune("submit", SERVER, verb, "x"), f"{verb} cannot be sent", "search, resume, refit")
    assert not sent


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (("search", "/data", "--run", "/run", "--trails", "3"), "--trails"),
        (("search", "/data", "--trials", "3"), "'--run'"),
        (("search", "/data", "--run", "/run", "--trials", "many"), "--trials"),
        (("refit",), "'RUN'"),
    ],
)
def test_command_that_would_be_wrong_here_is_not_sent(
    captune: Captune, sent: list[Any], command: tuple[str, ...], reason: str
) -> None:
    refused(captune("submit", SERVER, *command), reason)
    assert not sent


@pytest.mark.parametrize(
    ("command", "path"),
    [
        (("search", "data", "--run", "/run", "--trials", "3"), "data"),
        (("search", "/data", "--run", "run", "--trials", "3"), "run"),
        (("search", "/data", "--run=../run", "--trials", "3"), "../run"),
        (("search", "/data", "--trials", "3", "--run", "/run", "--warm-start", "old"), "old"),
        (("resume", "run"), "run"),
        (("search", "./data", "--run", "/run", "--config", "search.yaml"), "data"),
    ],
)
def test_relative_path_is_refused_as_the_job_has_a_folder_of_its_own(
    captune: Captune, sent: list[Any], command: tuple[str, ...], path: str
) -> None:
    refused(captune("submit", SERVER, *command), f"{path} is relative", "from / on")
    assert not sent


def test_relative_path_is_refused_by_search_itself_too(captune: Captune, sent: list[Any]) -> None:
    refused(captune("search", "data", "--run", "/run", "--trials", "3", "--address", SERVER), "data is relative")
    assert not sent


def test_settings_file_may_be_relative_as_it_is_sent_along(captune: Captune, sent: list[Any]) -> None:
    ran = captune("submit", SERVER, *SEARCH, "--config", "my/search.yaml")
    assert (ran.code, ran.out.strip()) == (0, "raysubmit_1")
    [(server, arguments, files, joins)] = sent
    assert server == SERVER and arguments == [*SEARCH, "--config", "my/search.yaml"]
    assert files == {"--config": "search.yaml"} and joins


@pytest.mark.parametrize(("command", "joins"), [(("resume", "/run"), True), (("trials", "/run"), False)])
def test_only_what_trains_trials_joins_the_cluster(
    captune: Captune, sent: list[Any], command: tuple[str, ...], joins: bool
) -> None:
    assert captune("submit", SERVER, *command).code == 0
    assert [command[3] for command in sent] == [joins]


def test_settings_file_that_is_not_there_is_refused(captune: Captune) -> None:
    refused(captune("submit", SERVER, *SEARCH, "--config", "none.yaml"), "none.yaml", "of this machine", code=1)


def test_interrupted_following_says_how_to_look_again_and_how_to_end_the_job(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("captune.cluster.jobs.follow.follow", interrupted)
    with pytest.raises(SystemExit, match="130"):  # the job runs on: nothing that follows may begin
        follow_job(SERVER, "raysubmit_1")
    lines = capsys.readouterr().err
    assert f"ray job logs --address {SERVER} --follow raysubmit_1" in lines
    assert f"ray job stop --address {SERVER} raysubmit_1" in lines


# Servers


@pytest.fixture
def silent() -> Iterator[str]:
    """A server that accepts and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.mark.cluster  # imports Ray, starts none of it
def test_server_that_is_not_there_is_refused_in_seconds(captune: Captune) -> None:
    started = time.monotonic()
    refused(captune("submit", SERVER, *SEARCH), "no Ray job server can be reached", SERVER, "8265", code=1)
    assert time.monotonic() - started < 10


@pytest.mark.cluster  # imports Ray, starts none of it
def test_server_that_never_answers_is_given_ten_seconds_and_no_more(
    captune: Captune, silent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert jobs._REACH_SECONDS == 10
    monkeypatch.setattr(jobs, "_REACH_SECONDS", 1)
    started = time.monotonic()
    refused(captune("submit", silent, *SEARCH), "no Ray job server can be reached", silent, code=1)
    assert 1 <= time.monotonic() - started < 3


@pytest.mark.parametrize("server", ["127.0.0.1:1", "head", "ray://127.0.0.1:10001", "http://", "http://head:x", ""])
def test_address_that_is_no_servers_is_refused_with_the_form_it_has(captune: Captune, server: str) -> None:
    refused(captune("submit", server, *SEARCH), "http://host:8265", repr(server), code=1)


def test_only_http_addresses_are_servers() -> None:
    assert is_server("http://head:8265") and is_server("https://head")
    assert not any(map(is_server, (None, "auto", "head:6379", "ray://head:10001", "")))


@pytest.mark.cluster  # imports Ray, starts none of it
def test_status_of_a_cluster_that_is_not_there_is_refused_in_seconds(captune: Captune) -> None:
    started = time.monotonic()
    refused(captune("cluster", "status", "--address", "127.0.0.1:1"), "127.0.0.1:1", "6379", code=1)
    refused(captune("cluster", "status", "--address", SERVER), SERVER, "host:port", code=1)
    assert time.monotonic() - started < 10
