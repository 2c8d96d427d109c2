"""The refit of a run on a node of a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from captune.cluster.nodes.inspection import NodeRequirements, check_nodes, versions
from captune.cluster.nodes.remote_task import run_on_node
from captune.cluster.nodes.resources import ResourceError, Room, default_request, shortage
from captune.cluster.nodes.session import session
from captune.tuner.run.locations import absolute, reading
from captune.tuner.run.settings import RunSettings
from captune.tuner.winner.choose import refuse_another
from captune.tuner.winner.refit_run import refit_run

if TYPE_CHECKING:
    from captune.tuner.winner.plan import RefitPlan
    from captune.tuner.winner.proof import Proof
    from captune.tuner.winner.step import Message


def refit_on_cluster(
    address: str,
    location: str,
    plan: RefitPlan,
    cpus: float | None,
    gpus: float | None,
    *,
    say: Callable[[Message], None],
) -> Proof:
    """`refit_run` on a node of a running Ray cluster, which must see the run and its data as this machine does.

    Args:
        address: "auto" or "host:port".
        cpus, gpus: of the node; None for an even share of its CPUs, and for one GPU if there are any.

    Raises:
        RunError: as `refit_run` does.
        ClusterError, ResourceError: the address cannot be joined, no node has so
            much, or a node that has lacks run or data.
    """
    location = absolute(location)
    with reading(location, leave=frozenset({"tracebacks"})) as run, run.refitting(anyway=plan.anyway):
        refuse_another(run)
        settings = RunSettings.of(run)
    with session(address) as nodes:
        request = default_request(nodes, cpus=cpus, gpus=gpus)
        if (why := shortage(nodes, request, "the refit", "--cpus or --gpus")) is not None:
            raise ResourceError(why)
        able = [node for node in nodes if Room.of([node], request).slots]
        for note in check_nodes(able, NodeRequirements(settings.data, settings.fingerprint, location, versions())):
            say(note)
        threads = max(1, int(request.cpus))
        return run_on_node(_refit_once, location, plan, threads, request.gpus, request=request, say=say)


def _refit_once(location: str, plan: RefitPlan, *arguments: Any, say: Callable[[Message], None]) -> Proof:
    """`refit_run`, begun as often as nodes are lost: one may have gone after the winner was there."""
    with reading(location, leave=frozenset({"tracebacks"})) as run:
        if run.proof.exists():
            from captune.tuner.winner.proof import Proof

            proof = Proof.read(run.proof)
            if plan.trial not in (None, proof.trial):  # of another refit, which ended meanwhile
                refuse_another(run)
            return proof
    return refit_run(location, plan, *arguments, say=say)
