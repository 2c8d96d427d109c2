"""Runs read to be held beside each other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from captune.errors import ArgumentError
from captune.files import written_aside
from captune.tuner.api.caller import left_as_it_was
from captune.tuner.api.runs import Run, page_to_write
from captune.tuner.run.locations import ALL_BUT_RECORDS, reading
from captune.tuner.run.settings import RunSettings

if TYPE_CHECKING:
    from captune.results.comparison import Comparison, RunResult


@left_as_it_was()
def compare(runs: Sequence[str | Path | Run], *, out: str | Path | None = None) -> Comparison:
    """What some runs came to, what each cost, and in which settings they and their best trials differ.

    Args:
        runs: two or more, by path, address or as opened; also while they are searched.
        out: a file to write as a page of HTML, besides; one that is there gives way.

    Raises:
        ArgumentError: fewer than two.
        RunError, StorageError: one is no run, or cannot be reached, or there is no folder for `out`.

    Example:
        >>> comparison = captune.compare(["run", captune.open_run("run")])
        >>> comparison.same_data, [row.best for row in comparison.runs]
        (True, [0, 0])
    """
    from captune.results.comparison import compare as beside_each_other

    if len(runs) < 2:
        raise ArgumentError("runs", f"two or more are compared, got {len(runs)}")
    page = None if out is None else page_to_write(out)
    comparison = beside_each_other([_result(run if isinstance(run, Run) else Run(str(run))) for run in runs])
    if page is not None:
        from captune.results.report_page.comparison_page import comparison_page

        with written_aside(page) as aside:
            aside.write_text(comparison_page(comparison), encoding="utf-8")
    return comparison


def _result(run: Run) -> RunResult:
    from captune.results import baselines
    from captune.results.comparison import RunResult
    from captune.results.records import left_behind, load_records
    from captune.tuner.winner.proof import Proof

    with reading(run.where, leave=ALL_BUT_RECORDS) as folder:
        is_written = folder.is_written
        records = load_records(folder)
        facts = RunSettings.of(folder).facts(folder)
        simple = baselines.read(folder)
        proof = Proof.read(folder.proof) if folder.proof.is_file() else None
    return RunResult(
        where=run.where,
        facts=facts,
        records=tuple(records if is_written else map(left_behind, records)),
        baselines=simple,
        test=None if proof is None else proof.test.mean_f1,
        shipped=() if proof is None else tuple(member.trial for member in proof.members) or (proof.trial,),
        shipped_bytes=None if proof is None else proof.weights_bytes,
    )
