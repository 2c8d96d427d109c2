"""What the end of a trial means: every kind of end, after every course that makes a difference."""

import math
import subprocess
import sys
from typing import Any

import pytest
from builders import epoch
from hypothesis import given
from hypothesis import strategies as st

from captune.tuner.decisions.fates import (
    MAX_FAILURES,
    MAX_FAILURES_LATER,
    MAX_LOSSES,
    Again,
    Course,
    Streak,
    TrialLimits,
    Verdict,
    cut_off,
    judge,
)
from captune.tuner.decisions.trial_events import (
    CodeMissing,
    Completed,
    End,
    Failed,
    NodeBroken,
    Preempted,
    TurnedAway,
    Worker,
    WorkerDied,
)

LIMITS = TrialLimits(retries=2, timeout=60.0, min_free=0)
NODE = Worker("spot", "0a1b")
FAILED = Failed("ValueError: no", "Traceback ...\nValueError: no")
OUT_OF_MEMORY = Failed("out of memory", "...", out_of_memory=True)
DIED = WorkerDied("its worker died: gone")
NAN = epoch(3, math.nan)

# Every decision about an end, one a line: the end, how far the trial had come, the fate, a part of the reason, how it
# is handed out again. The director's tests hold the same decisions against the study.
DECISIONS: list[tuple[str, End, Course, str | None, str, Again | None]] = [
    ("all epochs trained", Completed(), Course(epoch(6), 0.5), "complete", "", None),
    ("cut by halving", Completed(), Course(epoch(2), 0.5, stopped_at=2), "stopped", "halving at epoch 2", None),
    ("score is no number", Completed(), Course(NAN, 0.5), "diverged", "epoch 3", None),
    ("loss is no number", Completed(), Course(epoch(3, loss=math.inf), 0.5), "diverged", "epoch 3", None),
    ("diverged at a rung", Completed(), Course(NAN, 0.5, stopped_at=3), "diverged", "epoch 3", None),
    ("raised", FAILED, Course(epoch(1), 0.5), "failed", "ValueError: no", None),
    ("raised on a whole GPU for want of memory", OUT_OF_MEMORY, Course(gpus=1.0), "failed", "out of memory", None),
    ("no memory on a CPU", OUT_OF_MEMORY, Course(gpus=0.0), "failed", "out of memory", None),
    ("no memory in a share of a GPU", OUT_OF_MEMORY, Course(gpus=0.25), "lost", "again in 0.5", Again(1, 0.5)),
    ("never more than a whole GPU", OUT_OF_MEMORY, Course(gpus=0.75), "lost", "again in 1", Again(1, 1.0)),
    ("worker died", DIED, Course(tries=2), "lost", "its worker died", Again(3)),
    ("worker died once too often", DIED, Course(tries=3), "lost", "its worker died", None),
    ("node cannot work", NodeBroken(NODE, "no device"), Course(), "lost", "no device", Again(2)),
    ("node is taken away", Preempted(NODE), Course(tries=3), "lost", "spot is taken away", Again(3)),
    ("node rests", TurnedAway(NODE), Course(tries=3), None, "spot rests", Again(3)),
    ("too long, no score", DIED, Course(overdue=True), "failed", "not done after 60 s", None),
    ("too long, a score", DIED, Course(epoch(1), 0.5, overdue=True), "stopped", "not done after 60 s", None),
    ("captune is not there", CodeMissing("No module"), Course(), "lost", "No module", Again(1)),
]


@pytest.mark.parametrize(
    ("end", "course", "fate", "reason", "again"), [row[1:] for row in DECISIONS], ids=[row[0] for row in DECISIONS]
)
def test_end_means(end: End, course: Course, fate: str | None, reason: str, again: Again | None) -> None:
    verdict = judge(end, course, LIMITS)
    assert (verdict.fate, verdict.again) == (fate, again)
    assert reason in (verdict.reason or "")
    assert (verdict.reason is None) == (fate == "complete")
    assert (verdict.traceback is not None) == (fate == "failed")


@pytest.mark.parametrize(
    ("course", "resumable", "fate", "reason"),
    [
        (Course(epoch(2), 0.5), False, "stopped", "over"),
        (Course(None, 0.5), False, "stopped", "over"),  # of an earlier attempt
        (Course(), False, "lost", "over before its first epoch"),
        (Course(epoch(2), 0.5), True, "lost", "over"),
        (Course(), True, "lost", "over"),
    ],
)
def test_trial_that_the_end_of_the_search_cuts_off_is_done_only_with_a_score(
    course: Course, resumable: bool, fate: str, reason: str
) -> None:
    verdict = cut_off(course, "over", resumable=resumable)
    assert (verdict.fate, verdict.reason, verdict.again) == (fate, reason, None)


def test_every_kind_of_end_is_decided() -> None:
    assert {type(end) for _, end, *_ in DECISIONS} == set(End.__args__)


def after(ends: list[End], *, scored: bool = False, at_once: int = 1) -> list[str | None]:
    """What is said of the search after each of these ends in a row."""
    streak, complaints = Streak(scored=scored), []
    for end in ends:
        verdict = judge(end, Course(epoch(6), 0.5, gpus=0.5), TrialLimits(10**9, None, 0))
        streak = streak.after(end, verdict)
        complaints.append(streak.complaint(end, verdict, at_once))
    return complaints


@pytest.mark.parametrize(("scored", "most"), [(False, MAX_FAILURES), (True, MAX_FAILURES_LATER)])
def test_failures_in_a_row_end_the_search_later_where_there_is_a_score(scored: bool, most: int) -> None:
    *before, last = after([FAILED] * most, scored=scored)
    assert before == [None] * (most - 1)
    assert last == "the trials cannot work: ValueError: no"
    assert after([*[FAILED] * (most - 1), Completed(), FAILED], scored=scored) == [None] * (most + 1)
    assert after([*[FAILED] * (most - 1), DIED, FAILED], scored=scored)[-1], "a lost trial does not excuse the others"


def test_failure_that_every_trial_would_meet_ends_the_search_at_once() -> None:
    (fatal,) = after([Failed("WeightsError: none", "", fatal=True)], scored=True)
    assert fatal == "the trials cannot work: WeightsError: none"
    (missing,) = after([CodeMissing("ImportError: no keras")])
    assert missing is not None and "workers cannot load captune: ImportError: no keras" in missing


@pytest.mark.parametrize(("at_once", "most"), [(1, MAX_LOSSES), (8, 24)])
def test_workers_that_die_before_an_epoch_end_the_search_unless_a_machine_took_them_along(
    at_once: int, most: int
) -> None:
    *before, last = after([DIED] * most, at_once=at_once)
    assert before == [None] * (most - 1)
    assert last is not None and f"{most} trials in a row were lost before an epoch was trained" in last
    harmless: list[End] = [Preempted(NODE), TurnedAway(NODE), OUT_OF_MEMORY]
    assert after(harmless * most, at_once=at_once) == [None] * (3 * most)


def test_epoch_begins_the_count_of_losses_anew() -> None:
    streak = Streak()
    for _ in range(MAX_LOSSES - 1):
        streak = streak.after(DIED, judge(DIED, Course(), LIMITS))
    assert streak.losses == MAX_LOSSES - 1
    assert streak.epoch(scored=False) == Streak()
    assert streak.epoch(scored=True).scored


ENDS = st.sampled_from([end for _, end, *_ in DECISIONS])
COURSES = st.builds(
    Course,
    last=st.none() | st.builds(epoch, st.integers(1, 9), st.just(0.5) | st.just(math.nan)),
    best=st.none() | st.floats(0, 1),
    gpus=st.sampled_from([0.0, 0.25, 0.5, 1.0, 2.0]),
    tries=st.integers(1, 5),
    stopped_at=st.none() | st.integers(1, 9),
    overdue=st.booleans(),
)


@given(ENDS, COURSES, st.integers(0, 3))
def test_only_what_is_lost_or_was_not_begun_is_handed_out_again(end: End, course: Course, retries: int) -> None:
    verdict = judge(end, course, TrialLimits(retries, 60.0, 0))
    assert isinstance(verdict, Verdict)
    if verdict.again is not None:
        assert verdict.fate in ("lost", None)
        assert verdict.again.tries <= max(course.tries, retries + 1)
        assert verdict.again.gpus is None or course.gpus < verdict.again.gpus <= 1
    if verdict.fate == "complete":
        assert course.last is not None and math.isfinite(course.last.mean_f1)


def test_decisions_are_taken_without_ray_and_without_a_framework() -> None:
    modules = "director fates attempts trial_events gate halving recovery preflight warm_start"
    imports = ", ".join(f"captune.tuner.decisions.{name}" for name in modules.split())
    code = f"import sys, {imports}; print({{'ray', 'keras', 'tensorflow'}} & sys.modules.keys())"
    done: Any = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
