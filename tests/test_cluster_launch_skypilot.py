"""Tasks for SkyPilot: its own schema takes them, their commands are shell, nothing breaks out of them."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from templates import TASK, comments, header, values

from captune.cluster.launch.options import TemplateError
from captune.cluster.launch.skypilot import SkyPilot, skypilot

TASKS = [
    TASK,
    replace(TASK, infra=None, gpu=None, gpus_per_node=1, gpus_per_trial=0.0, captune="captune @ git+https://a"),
]
SCHEMAS = """
import json, sys
import jsonschema
from sky.utils import schemas
task = json.load(sys.stdin)
jsonschema.Draft202012Validator(schemas.get_task_schema()).validate(task)
jsonschema.Draft7Validator(schemas.get_resources_schema()).validate(task["resources"])
"""


@pytest.mark.skipif("CAPTUNE_SKYPILOT" not in os.environ, reason="CAPTUNE_SKYPILOT names no Python with SkyPilot")
@pytest.mark.parametrize("options", TASKS)
def test_task_is_as_skypilots_own_schema_demands(options: SkyPilot) -> None:
    task = json.dumps(yaml.safe_load(skypilot(options)))
    subprocess.run([os.environ["CAPTUNE_SKYPILOT"], "-c", SCHEMAS], input=task, text=True, check=True)


@pytest.mark.parametrize("options", TASKS)
def test_commands_of_the_task_are_shell(options: SkyPilot) -> None:
    task = yaml.safe_load(skypilot(options))
    for name in ("setup", "run"):
        subprocess.run(["bash", "-n"], input=task[name], text=True, check=True)


def test_task_asks_for_machines_that_hold_its_trials_and_for_a_token_that_is_not_in_it() -> None:
    task = yaml.safe_load(skypilot(TASK))
    assert task["num_nodes"] == 3
    assert task["resources"] == {
        "infra": "aws/us-east-1",
        "accelerators": "L4:2",
        "cpus": "8+",
        "memory": "32+",
        "disk_size": 100,
    }
    assert task["secrets"] == {"RAY_AUTH_TOKEN": None}
    assert "RAY_AUTH_MODE=token" in task["run"] and "--dashboard-host=127.0.0.1" in task["run"]


RAY = """#!/bin/bash
echo "ray $*" >> "$HOME/notes"
case "$*" in
  *--head*) exec sleep 60 ;;
  status*) exec grep --quiet -e --head "$HOME/notes" ;;
esac
"""


@pytest.mark.parametrize("status", [0, 3])
def test_first_machine_starts_the_head_and_ends_as_its_search_does(tmp_path: Path, status: int) -> None:
    _commands(tmp_path, f'#!/bin/bash\necho "captune $*" >> "$HOME/notes"\nexit {status}\n')
    ran = _run(tmp_path, rank=0)
    assert ran.returncode == status, ran.stderr
    *calls, search = (tmp_path / "notes").read_text().splitlines()
    [head] = [call for call in calls if call.startswith("ray start")]
    assert "--head" in head and "--num-gpus=2" in head
    assert search.startswith("captune search s3://bucket/data --run s3://bucket/run --resume-if-there --address auto ")


def test_other_machines_join_the_first_and_search_nothing(tmp_path: Path) -> None:
    _commands(tmp_path, "#!/bin/bash\nexit 9\n")
    assert _run(tmp_path, rank=1).returncode == 0
    [line] = (tmp_path / "notes").read_text().splitlines()
    assert line.endswith("--address=10.0.0.1:6379")


def _commands(home: Path, captune: str) -> None:
    (home / "captune-env/bin").mkdir(parents=True)
    for name, script in (("ray", RAY), ("captune", captune)):
        (home / "captune-env/bin" / name).write_text(script)
        (home / "captune-env/bin" / name).chmod(0o755)


def _run(home: Path, rank: int) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "SKYPILOT_NODE_RANK": str(rank)}
    environment |= {"SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2", "SKYPILOT_NUM_GPUS_PER_NODE": "2"}
    run = yaml.safe_load(skypilot(TASK))["run"].replace("/tmp/captune", shlex.quote(str(home / "tmp")))
    return subprocess.run(["bash", "-c", run], env=environment, text=True, capture_output=True, timeout=50)


@settings(deadline=None, max_examples=40)
@given(values, values, values)
def test_no_value_changes_the_rest_of_the_task(run: str, captune: str, option: str) -> None:
    try:
        options = replace(TASK, run=f"s3://{run}", captune=captune, search_options=f"--config {shlex.quote(option)}")
    except TemplateError:
        return
    text = skypilot(options)
    task, plain = yaml.safe_load(text), yaml.safe_load(skypilot(replace(TASK, captune="captune")))
    last = task["run"].splitlines()[-1]
    assert shlex.split(last)[3:5] == ["--run", f"s3://{run}"] and shlex.split(last)[-1] == option
    assert shlex.split(task["setup"].splitlines()[-1])[5] == captune
    for name in ("run", "setup"):
        assert task.pop(name).splitlines()[:-1] == plain.pop(name).splitlines()[:-1]
    assert task == plain
    assert header(text) == len(comments(skypilot(replace(TASK, captune="captune"))))
