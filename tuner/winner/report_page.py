"""The page of a run: its settings, study and proof set beside each other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from captune.errors import one_line
from captune.files import written_aside
from captune.model.config import Modality
from captune.results import baselines
from captune.results.error_analysis import ErrorAnalysis
from captune.results.report_page.facts import Facts, SearchFacts, TestScores, facts_of
from captune.results.run_folder import RunFolder
from captune.tuner.run.settings import RunSettings
from captune.tuner.winner.proof import Proof

_READ: dict[Modality, str] = {"both": "captions and pictures", "image": "pictures", "caption": "captions"}


def page_of(run: RunFolder, *, running: bool, progress: Callable[[int, int], None] | None = None) -> str:
    """One file of HTML, also while the search writes on.

    Args:
        running: whether a process searches there.
        progress: called now and then with (read, all) bytes of the journal.

    Raises:
        RunError: there is no run, or a file of it is not as captune wrote it.
    """
    from captune.results.report_page.page import page

    return page(_facts(run, running, progress))


def write_page(run: RunFolder, folder: Path) -> str | None:
    """The page of a run that was refitted, into a folder: best effort, as a winner must not be lost for it.

    Returns:
        Why there is none, in a line; None where it was written.
    """
    try:
        text = page_of(run, running=False)
        with written_aside(folder / run.report.name) as aside:
            aside.write_text(text, encoding="utf-8")
    except Exception as error:
        return f"note: no report was written ({one_line(error) or type(error).__name__}); `captune report` does it"
    return None


def _facts(run: RunFolder, running: bool, progress: Callable[[int, int], None] | None) -> Facts:
    settings = RunSettings.of(run)
    search = SearchFacts(
        name=str(run),
        preset=settings.search.preset,
        read=_READ[settings.search.modality],
        budget=settings.search.limit,
        created=settings.created,
        versions=settings.versions,
        metric=settings.search.metric,
        price=settings.search.price,
    )
    test = _test_scores(Proof.read(run.proof)) if run.proof.is_file() else None
    analysis = ErrorAnalysis.read(run.error_analysis) if test is not None and run.error_analysis.is_file() else None
    return facts_of(
        run, search, running=running, baselines=baselines.read(run), test=test, analysis=analysis, progress=progress
    )


def _test_scores(proof: Proof) -> TestScores:
    test = proof.test
    confirmed = "" if proof.confirmation is None else f"{proof.confirmation}; {proof.confirmed}."
    latency, fast = proof.latency, None
    if latency is not None:
        fast = f"{latency.milliseconds:.3g} ms of {latency.limit:g} allowed ({latency.prediction}; {latency.machine})"
    return TestScores(
        trial=proof.trial, mean_f1=test.mean_f1, low=test.low, high=test.high, micro_f1=test.micro_f1,
        macro_f1=test.macro_f1, ece=test.ece, examples=test.examples, validation_examples=proof.search.examples,
        per_label=test.per_label, seeds=proof.seeds, weights_bytes=proof.weights_bytes, bundle_bytes=proof.bundle_bytes,
        members=tuple(member.trial for member in proof.members),
        validation=proof.searched,
        confirmed=confirmed, map=test.map,
        latency=fast, gain="" if proof.gain is None else str(proof.gain),
    )  # fmt: skip
