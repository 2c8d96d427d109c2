"""The verbs of a cluster: commands sent to its job server, launch files, and how its nodes are."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Annotated, Any, TypeGuard, get_args, get_type_hints

import typer

from captune.tuner.api.progress import say
from captune.tuner.command.arguments import Where
from captune.tuner.command.console import fail, print_json

Server = Annotated[str, typer.Argument(help="Ray's job server, e.g. http://head:8265")]
JobId = Annotated[str, typer.Argument(help="as `captune jobs` lists it")]

cluster = typer.Typer(no_args_is_help=True, help="Clusters: launch files, and how the nodes are.")
PASSING = {"allow_extra_args": True, "ignore_unknown_options": True}

_FILES = {"--config": "search.yaml"}  # options whose local file is sent along, and its name there
_JOINING = ("search", "resume", "refit")


def add_verbs(app: typer.Typer) -> None:
    """Adds submit, jobs, logs, cancel and cluster to the command."""
    app.command(context_settings=PASSING)(submit)
    for verb in (jobs, logs, cancel):
        app.command()(verb)
    app.add_typer(cluster, name="cluster")


def submit(context: typer.Context, server: Server) -> None:
    """Sends a captune command to a cluster and returns: captune submit http://head:8265 search DATA --run RUN ..."""
    if not context.args:
        fail("name the command to send, e.g. captune submit http://head:8265 search DATA --run RUN --trials 50")
    print(send(server, context.args, context.parent))


def send(server: str, arguments: list[str], parent: Any) -> str:
    """Sends a command, all its paths absolute, and returns the job's id.

    Args:
        parent: the context of the command `captune` itself, which knows the verbs.
    """
    from captune.cluster.jobs.client import submit as send_job

    verb, *rest = arguments
    known = parent.command.commands
    if verb not in known or verb in ("submit", "jobs", "logs", "cancel", "cluster"):
        fail(f"{verb} cannot be sent to a cluster; send search, resume, refit or another verb that works on data")
    with known[verb].make_context(verb, list(rest), parent=parent) as given:
        for name, value in given.params.items():
            named = isinstance(value, Where | Path) and f"--{name}" not in _FILES
            if named and Where(value).is_relative:
                fail(f"{value} is relative, and the job has a working folder of its own; name it from / on")
    return send_job(server, arguments, files=_FILES, joins=verb in _JOINING, say=say)


def is_server(address: str | None) -> TypeGuard[str]:
    """Whether an address is that of a job server, to which the command is sent as a whole."""
    return address is not None and address.startswith(("http://", "https://"))


def follow_job(server: str, job: str) -> None:
    """Shows a job's log until it ends, and ends with its status. Ctrl-C leaves the job running."""
    from captune.cluster.jobs.client import follow

    try:
        status = follow(server, job, write=lambda text: print(text, end="", flush=True), say=say)
    except KeyboardInterrupt:
        say(f"\n{job} runs on; look again with: captune logs {server} {job} --follow")
        say(f"end it with: captune cancel {server} {job}")
        return
    raise SystemExit(status)


def jobs(server: Server) -> None:
    """Lists the captune commands that a cluster was sent, newest first."""
    from captune.cluster.jobs.client import jobs as listed

    for job in listed(server):
        started = job.started.isoformat(sep=" ", timespec="seconds") if job.started else "-"
        print(f"{job.id}  {job.status:9}  {started}  {job.command}")


def logs(
    server: Server,
    job: JobId,
    follow: Annotated[bool, typer.Option("--follow", help="until it ends, and end with its status")] = False,
) -> None:
    """Prints what a job has said."""
    if follow:
        follow_job(server, job)
    from captune.cluster.jobs.client import logs as said

    print(said(server, job), end="")


def cancel(server: Server, job: JobId) -> None:
    """Ends a job cleanly; a search can be resumed."""
    from captune.cluster.jobs.client import cancel as end

    print(f"{job}: {end(server, job).status}")


@cluster.command()
def status(
    address: Annotated[str, typer.Option(help="a running Ray cluster: auto or host:port")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="one JSON document on stdout")] = False,
) -> None:
    """Nodes, what is taken of them, trials, and memory."""
    from captune.cluster.nodes.inspection import how_nodes_are
    from captune.cluster.nodes.session import session

    with session(address) as nodes:
        rows = how_nodes_are(nodes)
    if as_json:
        print_json(rows)
        return
    print(f"{'node':24} {'CPUs':>11} {'GPUs':>11} {'trials':>6} {'memory, GiB':>15} {'GPU memory, GiB':>15}")
    for row in rows:
        used = [f"{row[f'{kind}_taken']:g} of {row[kind]:g}" for kind in ("cpus", "gpus")]
        memory = [
            f"{row[f'{kind}_taken'] / 2**30:.1f} of {row[kind] / 2**30:.1f}" if row[kind] else "-"
            for kind in ("memory", "gpu_memory")
        ]
        state = "  leaving" if row["draining"] else "" if row["answered"] else "  no answer"
        print(f"{row['node']:24} {used[0]:>11} {used[1]:>11} {row['trials']:>6} {memory[0]:>15} {memory[1]:>15}{state}")


@cluster.command(context_settings=PASSING, add_help_option=False)
def template(
    context: typer.Context, kind: Annotated[str, typer.Argument(help="ray-up, kuberay or slurm; then its options")]
) -> None:
    """Prints a file that starts a cluster: ray-up, kuberay or slurm, each with options of its own (--help)."""
    import click

    from captune.cluster.launch.kuberay import KubeRay, kuberay
    from captune.cluster.launch.ray_up import RayUp, ray_up
    from captune.cluster.launch.slurm import Slurm, slurm

    kinds: dict[str, tuple[type, Callable[..., str]]] = {
        "ray-up": (RayUp, ray_up),
        "kuberay": (KubeRay, kuberay),
        "slurm": (Slurm, slurm),
    }
    options, make = kinds[kind]
    hints, told = get_type_hints(options), _helps(options)

    def write(**given: Any) -> None:
        values = {
            name: tuple(value.split(",")) if hints[name] == tuple[str, ...] else value
            for name, value in given.items()
            if value is not None
        }
        print(make(options(**values)), end="")

    parameters: list[click.Parameter] = [
        click.Option(
            [f"--{field.name.replace('_', '-')}"],
            type=_plain(hints[field.name]),
            required=field.default is MISSING and field.default_factory is MISSING,
            help=told[field.name],
        )
        for field in fields(options)
    ]
    command = click.Command(kind, params=parameters, callback=write, help=(options.__doc__ or "").splitlines()[0])
    command.main(context.args, prog_name=f"captune cluster template {kind}")


def _plain(hint: Any) -> type:
    """The type that the command line reads for a field."""
    return next((kind for kind in (int, float) if hint is kind or kind in get_args(hint)), str)


def _helps(options: type) -> dict[str, str]:
    """What the docstring of an options class says of each of its fields."""
    found: dict[str, str] = {}
    names: list[str] = []
    for line in inspect.cleandoc(options.__doc__ or "").partition("Attributes:")[2].splitlines():
        head, colon, text = line.strip().partition(": ")
        if line.startswith("    ") and not line.startswith("     ") and colon:
            names = head.split(", ")
            found |= dict.fromkeys(names, text)
        else:
            found |= {name: f"{found[name]} {line.strip()}".strip() for name in names}
    return found
