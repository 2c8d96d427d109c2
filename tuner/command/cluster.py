"""The verbs of a cluster: commands sent to its job server, launch files, and how its nodes are."""

from __future__ import annotations

import inspect
import signal
from collections.abc import Callable
from dataclasses import MISSING
from pathlib import Path
from typing import Annotated, Any, TypeGuard

import typer

from captune.cluster.launch.docker import Docker, docker
from captune.cluster.launch.kuberay import KubeRay, kuberay
from captune.cluster.launch.options import Options, declarations
from captune.cluster.launch.ray_up import RayUp, ray_up
from captune.cluster.launch.skypilot import SkyPilot, skypilot
from captune.cluster.launch.slurm import Slurm, slurm
from captune.errors import shell_word, without_colours
from captune.interrupt import exit_status
from captune.tuner.api.progress import say
from captune.tuner.command.arguments import AsJson, Location
from captune.tuner.command.console import fail, print_json, tell

Server = Annotated[str, typer.Argument(help="Ray's job server, e.g. http://head:8265")]

cluster = typer.Typer(no_args_is_help=True, help="Clusters: launch files, and how the nodes are.")
template = typer.Typer(no_args_is_help=True, help="Prints a file that starts a cluster.")
cluster.add_typer(template, name="template")

_FILES = {"--config": "search.yaml"}  # options whose local file is sent along, and its name there
_JOINING = ("search", "resume", "refit")


def submit(context: typer.Context, server: Server) -> None:
    """Sends a captune command to a cluster and returns: captune submit http://head:8265 search DATA --run RUN ..."""
    if not context.args:
        fail("name the command to send, e.g. captune submit http://head:8265 search DATA --run RUN --trials 50")
    tell(send(server, context.args, context.parent))


def send(server: str, arguments: list[str], parent: Any) -> str:
    """Sends a command, all its paths absolute, and returns the job's id.

    Args:
        parent: the context of the command `captune` itself, which knows the verbs.
    """
    from captune.cluster.jobs.submit import submit as send_job

    verb, *rest = arguments
    verbs = parent.command.commands
    if verb not in verbs or verb in ("submit", "cluster", "weights"):
        fail(f"{verb} cannot be sent to a cluster; send search, resume, refit or another verb that works on data")
    with verbs[verb].make_context(verb, list(rest), parent=parent) as context:
        for name, value in context.params.items():
            is_remote = isinstance(value, Location | Path) and f"--{name}" not in _FILES
            if is_remote and Location(value).is_relative:
                fail(f"{value} is relative, and the job has a working folder of its own; name it from / on")
    return send_job(server, arguments, files=_FILES, joins=verb in _JOINING, say=say)


def is_server(address: str | None) -> TypeGuard[str]:
    """Whether an address is that of a job server, to which the command is sent as a whole."""
    return address is not None and address.startswith(("http://", "https://"))


def follow_job(server: str, job: str) -> None:
    """Shows a job's log until it ends, and ends with its status. Ctrl-C leaves the job running, and is no success."""
    from captune.cluster.jobs.follow import follow

    try:
        status = follow(server, job, write=lambda text: tell(without_colours(text), end=""), say=say)
    except KeyboardInterrupt:
        say(f"\n{job} runs on; look again with: ray job logs --address {shell_word(server)} --follow {job}")
        say(f"end it with: ray job stop --address {shell_word(server)} {job}")
        status = exit_status(signal.SIGINT)
    raise SystemExit(status)


@cluster.command()
def status(
    address: Annotated[str, typer.Option(help="a running Ray cluster: auto or host:port")] = "auto",
    as_json: AsJson = False,
) -> None:
    """Nodes, what is taken of them, trials, and memory; searches, and the slots that each has by its share."""
    from captune.cluster.nodes.claims import claims
    from captune.cluster.nodes.inspection import how_nodes_are
    from captune.cluster.nodes.session import session
    from captune.cluster.nodes.shares import allotted

    with session(address) as nodes:
        rows, searches = how_nodes_are(nodes), claims()
    slots = allotted(searches)
    if as_json:
        keys = ("run", "share", "slots", "wanted", "held")
        told = [
            {key: getattr(claim, key) for key in keys} | {"allotted": n}
            for claim, n in zip(searches, slots, strict=True)
        ]
        print_json({"nodes": rows, "searches": told})
        return
    tell(f"{'node':24} {'CPUs':>11} {'GPUs':>11} {'trials':>6} {'memory, GiB':>15} {'GPU memory, GiB':>15}")
    for row in rows:
        used = [f"{row[f'{kind}_taken']:g} of {row[kind]:g}" for kind in ("cpus", "gpus")]
        memory = [
            f"{row[f'{kind}_taken'] / 2**30:.1f} of {row[kind] / 2**30:.1f}" if row[kind] else "-"
            for kind in ("memory", "gpu_memory")
        ]
        state = "  leaving" if row["draining"] else "" if row["answered"] else "  no answer"
        tell(f"{row['node']:24} {used[0]:>11} {used[1]:>11} {row['trials']:>6} {memory[0]:>15} {memory[1]:>15}{state}")
    if searches:
        tell(f"\n{'share':>7} {'its slots':>11} {'held':>6} {'wanted':>6}  search")
    for claim, count in zip(searches, slots, strict=True):
        of = f"{count} of {claim.slots}"
        tell(f"{claim.share:>7g} {of:>11} {claim.held:>6} {claim.wanted:>6}  {shell_word(claim.run)}")


def _printer(options: type[Options], make: Callable[..., str]) -> Callable[..., None]:
    """A verb that prints a launch file, with the options that its class declares. Several values go by commas."""

    def write(**values: Any) -> None:
        lists = {name: tuple(values[name].split(",")) for name in several if values[name] is not None}
        tell(make(options(**{name: value for name, value in (values | lists).items() if value is not None})), end="")

    declared = declarations(options)
    several = [name for name, declaration in declared.items() if declaration.type == tuple[str, ...]]
    parameters = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=... if declaration.default is MISSING else declaration.default or None,
            annotation=Annotated[
                str | None if name in several else declaration.type, typer.Option(help=declaration.option.help)
            ],
        )
        for name, declaration in declared.items()
    ]
    write.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    write.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    write.__doc__ = options.__doc__
    return write


_KINDS = ((RayUp, ray_up), (KubeRay, kuberay), (Slurm, slurm), (SkyPilot, skypilot), (Docker, docker))
for _options, _make in _KINDS:
    template.command(_options.kind)(_printer(_options, _make))
