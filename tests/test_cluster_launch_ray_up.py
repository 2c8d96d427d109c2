"""Files for Ray's launcher: Ray takes them, nothing breaks out of them, no secret is in them."""

from __future__ import annotations

import shlex
import stat
import subprocess
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from templates import AWS, GCP, JOB, LOCAL, ODD, comments, header, home, values

from captune.cluster.launch.kuberay import kuberay
from captune.cluster.launch.options import TemplateError
from captune.cluster.launch.ray_up import RayUp, ray_up


@pytest.mark.cluster  # imports Ray, starts none of it
@pytest.mark.parametrize(
    "options",
    [
        AWS,
        replace(AWS, zone="us-west-2a,us-west-2b", ssh_key="~/.ssh/id.pem", key_name="pair", image="ami-1", workers=1),
        replace(AWS, worker_gpus=0, max_workers=9, idle_minutes=3, disk_gb=50),
        GCP,
        replace(GCP, worker_gpus=0, accelerator=None),
        LOCAL,
        replace(LOCAL, worker_hosts=(), head_host="localhost"),
    ],
)
def test_ray_takes_the_file_as_ray_up_reads_it(options: RayUp) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    text = ray_up(options)
    config = prepare_config(yaml.safe_load(text))
    validate_config(config)
    assert config["cluster_name"] == "captune"
    head = config["available_node_types"][config["head_node_type"]]
    if options.provider == "local":
        assert config["max_workers"] == head["min_workers"] == len(options.worker_hosts)
    else:
        worker = config["available_node_types"]["worker"]
        assert head["resources"] == {"CPU": 0}
        assert worker["resources"].get("GPU", 0) == options.worker_gpus
        assert (worker["min_workers"], worker["max_workers"]) == (options.first_workers, options.most_workers)
        assert config["max_workers"] == options.most_workers


@pytest.mark.parametrize("options", [AWS, GCP, LOCAL])
def test_every_ray_of_ray_up_asks_for_the_token_and_shows_its_dashboard_to_loopback_only(options: RayUp) -> None:
    config = yaml.safe_load(ray_up(options))
    starts = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    assert all("RAY_AUTH_MODE=token" in command for command in starts if "ray start " in command)
    assert "--dashboard-host=127.0.0.1" in config["head_start_ray_commands"][1]
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"


def test_machines_that_are_there_are_joined_by_the_autoscaler_that_knows_them() -> None:
    for options in (AWS, GCP, LOCAL):
        start = yaml.safe_load(ray_up(options))["head_start_ray_commands"][1]
        assert ("RAY_enable_autoscaler_v2=0" in start) == (options.provider == "local")


def test_ray_of_a_machine_that_is_there_ends_with_its_head_and_clouds_end_theirs() -> None:
    for options in (AWS, GCP, LOCAL):
        _, *starts = yaml.safe_load(ray_up(options))["worker_start_ray_commands"]
        assert any("--block" in start for start in starts) == (options.provider == "local")
        assert len(starts) == (3 if options.provider == "local" else 1)


def test_token_itself_is_in_no_file(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("0123456789abcdef" * 4)
    assert "0123456789abcdef" not in ray_up(replace(LOCAL, token=str(token)))


def test_wheel_of_the_maker_is_sent_along_and_installed_beside_the_ray_that_is_here() -> None:
    name = f"captune-{version('captune')}-py3-none-any.whl"
    for options, wheel, requirement in (
        (AWS, f"dist/{name}", f"./{name}[gpu]"),
        (LOCAL, f"dist/{name}", f"./{name}"),
        (replace(LOCAL, captune="my wheels/captune-1-py3-none-any.whl"), None, "./captune-1-py3-none-any.whl"),
    ):
        config = yaml.safe_load(ray_up(options))
        assert config["file_mounts"][f"~/{requirement[2:].removesuffix('[gpu]')}"] == wheel or options.captune
        assert shlex.split(config["setup_commands"][2])[-2:] == [requirement, f"ray[default,tune]=={version('ray')}"]
    assert yaml.safe_load(kuberay(JOB))["spec"]["rayClusterSpec"]["rayVersion"] == version("ray")
    with pytest.raises(TemplateError, match="--captune must be a wheel"):
        replace(LOCAL, captune="dist/a b.whl")


@pytest.mark.parametrize("captune", ["captune @ git+https://git.lan/captune@v1", "https://git.lan/captune.whl", *ODD])
def test_setup_commands_hand_pip_the_requirement_as_it_was_given(tmp_path: Path, captune: str) -> None:
    bin_ = tmp_path / "captune-env/bin"
    bin_.mkdir(parents=True)
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray/auth_token").touch()
    (bin_ / "python").write_text('#!/bin/sh\nprintf "%s\\0" "$@" > "$HOME/given"\n')
    (bin_ / "python").chmod(0o755)
    config = yaml.safe_load(ray_up(replace(LOCAL, captune=captune)))
    for command in config["setup_commands"] * 2:
        # Ray hands commands to a shell like this.
        subprocess.run(["bash", "-c", f"true && ({command})"], check=True, env=home(tmp_path), cwd=tmp_path)
    assert (tmp_path / ".bashrc").read_text() == 'export PATH="$HOME/captune-env/bin:$PATH"\n'
    arguments = (tmp_path / "given").read_text().split("\0")[:-1]
    assert arguments == ["-m", "pip", "install", "--quiet", captune, f"ray[default,tune]=={version('ray')}"]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".bashrc", ".ray", "captune-env", "given"]
    assert stat.S_IMODE((tmp_path / ".ray/auth_token").stat().st_mode) == 0o600


@pytest.mark.parametrize("options", [AWS, GCP, LOCAL])
def test_commands_of_ray_up_are_shell(options: RayUp) -> None:
    config = yaml.safe_load(ray_up(options))
    for name, commands in config.items():
        for command in commands if name.endswith("_commands") else ():
            subprocess.run(["bash", "-n", "-c", f"true && ({command})"], check=True)


@settings(deadline=None)
@given(values, values, values)
def test_no_value_changes_the_rest_of_the_file_of_ray_up(captune: str, token: str, key: str) -> None:
    try:
        options = replace(LOCAL, captune=captune, token=token, ssh_key=key)
    except TemplateError:
        return
    text = ray_up(options)
    bare = ray_up(replace(LOCAL, captune="captune"))
    config, plain = yaml.safe_load(text), yaml.safe_load(bare)
    assert config["auth"]["ssh_private_key"] == key
    assert config["file_mounts"] == {"~/.ray/auth_token": token}  # what is drawn is no wheel
    assert shlex.split(config["setup_commands"][2])[5] == captune
    for content in (config, plain):
        del content["auth"]["ssh_private_key"], content["file_mounts"], content["setup_commands"][2]
    assert config == plain
    assert header(text) == len(comments(bare))
