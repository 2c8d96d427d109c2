"""The refit of a run as a whole, in this process."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from captune.errors import one_line
from captune.results.baselines import ensure
from captune.results.records import load_records
from captune.results.run_folder import RunError
from captune.tuner.run.locations import refitting
from captune.tuner.run.settings import RunSettings, read, refuse_other_files
from captune.tuner.training import runtime
from captune.tuner.winner.choose import ranked, refuse_another
from captune.tuner.winner.latency import LatencyLimit
from captune.tuner.winner.model_card import write_model_card
from captune.tuner.winner.report_page import write_page

if TYPE_CHECKING:
    from captune.tuner.winner.plan import RefitPlan
    from captune.tuner.winner.proof import Proof
    from captune.tuner.winner.step import Message


def refit_run(
    location: str,
    plan: RefitPlan,
    threads: int,
    gpus: float,
    *,
    say: Callable[[Message], None],
) -> Proof:
    """Refits the winner of the run at a path or an address with this process's GPUs, see `refit`.

    Args:
        threads: of one operation on the CPU.
        gpus: that train together; the framework decides if 0.

    Raises:
        RunError: as `refit` does; or another process refits the run, or searches it and that is not planned for; or no
            trial keeps the run's limit of latency.
        UsageError: the run has such a limit, and nothing is installed to measure with.
    """
    with refitting(location) as run, run.refitting(anyway=plan.anyway):  # before minutes go into data and a framework
        refuse_another(run)
        settings, data = read(run)
        whole = RunSettings.of(run)
        refuse_other_files(whole)
        latency = LatencyLimit.of(whole)
        ensure(run, data, say, captions=settings.modality != "image")  # of a search by an earlier captune
        if latency is not None and (plan.average != 1 or plan.confirm):
            raise RunError(
                "--average and --confirm do not know how long networks take, and this search has --latency "
                f"{latency.limit:g}ms; refit without them"
            )
        records = load_records(run)
        able = ranked(records, settings.limit, number=plan.trial)
        record = able[0] if latency is None else latency.first_within(able, say)
        runtime.settle(threads, settings.backend, gpus)
        # Only now: what the framework reads at its start is set.
        from captune.tuner.winner.average import members_for
        from captune.tuner.winner.candidates import Validation
        from captune.tuner.winner.confirm import confirm
        from captune.tuner.winner.portable import write_portable_of
        from captune.tuner.winner.refit import refit

        spread, average, confirmed = runtime.spread(int(gpus)), None, None
        validation = Validation(run, data, say, spread)
        if plan.confirm:
            confirmed = confirm(records, validation, settings.limit, plan.confirm)
            record = record if confirmed is None else confirmed.record
        if plan.average != 1:
            average = members_for(record, records, validation, settings.limit, plan.average)
        proof = refit(
            run, record, data, settings.limit, seeds=plan.seeds, spread=spread, say=say, average=average,
            confirmation=None if confirmed is None else confirmed.confirmation, latency=latency,
        )  # fmt: skip
        if (trouble := write_page(run, run.winner)) is not None:
            say(trouble)
        for what, write in (("model card", write_model_card), ("files for other languages", write_portable_of)):
            try:
                write(run, data)
            except Exception as error:  # a winner must not be lost for what is said of it
                say(f"note: there is no {what} ({one_line(error) or type(error).__name__})")
        return proof
