"""What is had for nothing: scores of answers that no search is needed for, kept with the run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from captune.results.documents import Document
from captune.results.run_folder import RunFolder


@dataclass(frozen=True)
class Baseline:
    """Scores of one simple answer on the rows of one split, all from 0 to 1.

    name: of how it answers, "commonest label" or "TF-IDF + logistic regression". per_label: F1 of each label, in the
    order of the data's.
    """

    name: str
    rows: Literal["validation", "test"]
    mean_f1: float
    micro_f1: float
    macro_f1: float
    per_label: tuple[float, ...]


class Baselines(Document):
    """What RUN/baselines.json holds."""

    baselines: tuple[Baseline, ...]


def read(run: RunFolder) -> tuple[Baseline, ...]:
    """Those of a run, of test only where its winner was proved; none where the search was of an earlier captune.

    Raises:
        RunError: the file is not as a search wrote it.
    """
    if not run.baselines.is_file():
        return ()
    proved = run.proof.is_file()
    return tuple(each for each in Baselines.read(run.baselines).baselines if proved or each.rows != "test")
