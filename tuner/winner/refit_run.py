"""The refit of a run as a whole, in this process."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from captune.errors import one_line
from captune.results.baselines import ensure
from captune.results.records import load_records
from captune.tuner.run.locations import refitting
from captune.tuner.run.settings import read
from captune.tuner.training import runtime
from captune.tuner.winner.choose import choose, refuse_another
from captune.tuner.winner.model_card import write_model_card
from captune.tuner.winner.report_page import write_page

if TYPE_CHECKING:
    from captune.tuner.winner.proof import Proof
    from captune.tuner.winner.step import Message


def refit_run(
    location: str,
    trial: int | None,
    seeds: int,
    anyway: bool,
    threads: int,
    gpus: float,
    *,
    say: Callable[[Message], None],
) -> Proof:
    """Refits the winner of the run at a path or an address with this process's GPUs, see `refit`.

    Args:
        trial: to be refitted instead of the best.
        anyway: also while another process searches the run.
        threads: of one operation on the CPU.
        gpus: that train together; the framework decides if 0.

    Raises:
        RunError: as `refit` does; or another process refits the run, or searches it and `anyway` is False.
    """
    with refitting(location) as run, run.refitting(anyway=anyway):  # before minutes go into data and a framework
        refuse_another(run)
        settings, data = read(run)
        ensure(run, data, say, captions=settings.modality != "image")  # of a search by an earlier captune
        record = choose(load_records(run), settings.limit, number=trial)
        runtime.settle(threads, settings.backend, gpus)
        # Only now: what the framework reads at its start is set.
        from captune.tuner.winner.portable import write_portable_of
        from captune.tuner.winner.refit import refit

        proof = refit(run, record, data, settings.limit, seeds=seeds, spread=runtime.spread(int(gpus)), say=say)
        if (trouble := write_page(run, run.winner)) is not None:
            say(trouble)
        for what, write in (("model card", write_model_card), ("files for other languages", write_portable_of)):
            try:
                write(run, data)
            except Exception as error:  # a winner must not be lost for what is said of it
                say(f"note: there is no {what} ({one_line(error) or type(error).__name__})")
        return proof
