"""What is seen of a running search: it fits the terminal, whatever it holds."""

import io
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from captune.model.part_of_epoch import PartOfEpoch
from captune.results.attributes import FATES
from captune.tuner.api.search_view import chosen, curve, in_words, view
from captune.tuner.decisions.features_pace import Features
from captune.tuner.decisions.progress import Best, Progress, RunningTrial
from captune.tuner.space.units import clock

EVIL = "\x1b[2J\x1b]0;title\x07[red]x[/red]\u202e\x9b\n\r"
SCORES = st.floats(0, 1) | st.just(math.nan)
TRIALS = st.builds(
    RunningTrial,
    number=st.integers(0, 10**5),
    epochs=st.integers(1, 10**4),
    scores=st.lists(SCORES, max_size=40).map(tuple),
    node=st.none() | st.text(max_size=40) | st.just(EVIL),
    phase=st.sampled_from(["waiting for room", "starting a worker", "features, first epoch", "first epoch"]),
    part=st.none() | st.builds(PartOfEpoch, st.integers(1, 10**4), st.floats(0, 1), st.none() | st.floats(0, 1e7)),
)
STATES = st.builds(
    Progress,
    seconds=st.floats(0, 1e7),
    waits=st.lists(st.text(max_size=300) | st.just(EVIL), max_size=3).map(tuple),
    features=st.none() | st.builds(Features, st.integers(0), st.integers(0), st.none() | st.floats(0, 1e7)),
    fates=st.dictionaries(st.sampled_from(FATES), st.integers(0, 10**5)),
    impossible=st.integers(0, 99),
    counted=st.integers(0, 10**5),
    wanted=st.none() | st.integers(1, 10**5),
    seconds_left=st.none() | st.floats(0, 1e7),
    running=st.lists(TRIALS, max_size=12).map(tuple),
    seconds_at_work=st.just(0.0) | st.floats(0.01, 1e7),
    epochs=st.integers(0, 10**6),
    slots=st.integers(0, 40),
    nodes=st.integers(0, 9),
    best=st.none() | st.builds(Best, st.integers(0, 10**5), st.floats(0, 1), st.integers(0, 10**9)),
)


def lines(progress: Progress, width: int = 80, height: int = 24, *, ascii_only: bool = False) -> list[str]:
    out = io.StringIO()
    Console(width=width, height=height, file=out, color_system=None).print(
        view(progress, width, height, ascii_only=ascii_only)
    )
    return [line.rstrip() for line in out.getvalue().split("\n")[:-1]]


def running(count: int, *, nodes: bool = False) -> tuple[RunningTrial, ...]:
    return tuple(
        RunningTrial(
            n, 12, tuple(0.1 * k + n / 1000 for k in range(1, 6)), f"node-{n % 2 + 1}" if nodes else None, "training"
        )
        for n in range(count)
    )


def search(**changes: object) -> Progress:
    plain = {
        "seconds": 151.0, "fates": {"complete": 9, "over_budget": 14, "stopped": 3}, "impossible": 2, "counted": 12,
        "wanted": 40, "running": running(2), "seconds_at_work": 120.0, "epochs": 96, "slots": 2, "nodes": 1,
        "best": Best(7, 0.8123, 4_414_000),
    }  # fmt: skip
    return Progress(**(plain | changes))  # type: ignore[arg-type]


def test_search_says_how_far_it_is_what_is_best_and_what_runs() -> None:
    bar, *rest = lines(search())
    assert bar.startswith("━") and bar.endswith("  12 of 40 trials  about 4:14 left")
    assert rest == [
        "2:31 elapsed, 6.0 trials/min, 48.0 epochs/min",
        "9 complete, 3 stopped",
        "refused: 14 over_budget, 2 infeasible",
        "best mean F1 0.8123, 4.21 MiB, trial 7",
        "2 of 2 slots",
        "trial 0  epoch  5/12  0.5000  ▁▃▄▆█",
        "trial 1  epoch  5/12  0.5010  ▁▃▅▆█",
    ]


def test_log_has_the_same_in_one_line() -> None:
    starting = RunningTrial(9, 12, (), None, "starting a worker")
    waits = ("no trial starts:\nthe disk is full",)
    assert in_words(search(running=(*running(1), starting), waits=waits)) == (
        "12 of 40 trials, about 4:26 left; 2:31 elapsed, 6.0 trials/min, 48.0 epochs/min; 9 complete, 3 stopped; "
        "refused: 14 over_budget, 2 infeasible; best mean F1 0.8123, 4.21 MiB, trial 7; 2 of 2 slots; "
        "1 starting a worker; no trial starts: the disk is full"
    )


def test_long_epochs_show_how_far_they_are() -> None:
    training, first, _ = (replace(trial, part=PartOfEpoch(6, 0.426, 100.0)) for trial in running(3))
    first = RunningTrial(9, 12, (), None, "first epoch", PartOfEpoch(1, 0.1, 250.0))
    unknown = replace(first, number=10, part=PartOfEpoch(1, 0.031))
    assert lines(search(running=(training, *running(2)[1:], first, unknown)), 60)[-4:] == [
        "trial  0  epoch  5/12  0.5000  ▁▃▄▆█  43% of epoch 6",
        "trial  1  epoch  5/12  0.5010  ▁▃▅▆█",
        "trial  9  first epoch, 10%, 3:45 left",
        "trial 10  first epoch, 3%",
    ]
    assert lines(search(running=(training,)), 45)[-1] == "trial 0  epoch  5/12  0.5000  ▁▃▅▆█  43%"


def test_log_says_when_the_first_epoch_is_done_and_that_the_limit_comes_before() -> None:
    first = RunningTrial(0, 12, (), None, "first epoch", PartOfEpoch(1, 0.1, 250.0))
    begun = Progress(40.0, seconds_left=20.0, running=(first,), slots=1, seconds_at_work=25.0)
    assert in_words(begun) == (
        "0 trials, 0:20 left (time limit); 0:40 elapsed; 1 of 1 slots; 1 first epoch; the first in about 3:45; the "
        "time limit ends the search before its first epoch is done, without a score: give it more time, smaller "
        "pictures or smaller networks"
    )


def test_search_that_has_not_begun_says_what_it_waits_for() -> None:
    progress = Progress(3.0, ("starting Ray on this machine",))
    assert lines(progress)[1:] == ["0:03 elapsed", "starting Ray on this machine"]
    assert in_words(progress) == "0:03 elapsed; starting Ray on this machine"


@pytest.mark.parametrize(
    ("left", "said"), [(60.0, "1:00 left (time limit)"), (3600.0, "about 4:14 left"), (None, "about 4:14 left")]
)
def test_what_ends_first_is_what_is_left(left: float | None, said: str) -> None:
    assert lines(search(seconds_left=left))[0].endswith(f"12 of 40 trials  {said}")


@pytest.mark.parametrize(
    ("counted", "wanted", "said"),
    [(1, None, "1 trial"), (2, None, "2 trials"), (1, 2, "1 of 2 trials"), (0, 1, "0 of 1 trial")],
)
def test_one_trial_is_one(counted: int, wanted: int | None, said: str) -> None:
    assert lines(search(counted=counted, wanted=wanted, seconds_left=60.0))[0].split("  ")[-2].strip() == said


@pytest.mark.parametrize("width", [60, 80, 120])
def test_many_trials_leave_room_for_how_many_are_not_shown(width: int) -> None:
    waits = ("no trial starts: the disk is full",)
    page = lines(search(running=running(32, nodes=True), slots=32, nodes=2, waits=waits), width, 20)
    shown = [line for line in page if line.startswith("trial ")]
    assert len(page) == 20 and page[-2:] == [f"+{32 - len(shown)} more", *waits]
    assert shown[-1].startswith("trial 31") and shown[-1].endswith("node-2"), "the best ones"
    assert shown == sorted(shown), "in an order that stays"


def test_node_is_named_only_where_there_is_more_than_one() -> None:
    assert "node-1" not in "".join(lines(search(running=running(2, nodes=True))))


def test_letters_of_a_plain_terminal_are_enough() -> None:
    assert "\n".join(lines(search(), ascii_only=True)[1:]).isascii()


@given(progress=STATES, width=st.integers(20, 140), height=st.integers(3, 50))
def test_search_fits_its_terminal_and_holds_nothing_that_a_terminal_obeys(
    progress: Progress, width: int, height: int
) -> None:
    page = lines(progress, width, height)
    assert len(page) <= height
    assert max(map(cell_len, page)) <= width
    assert not set("\x1b\x07\u202e\x9b\r") & set("".join(page))
    assert "\n" not in in_words(progress)


@given(scores=st.lists(SCORES, max_size=60), width=st.integers(0, 30))
def test_curve_has_a_bar_for_each_epoch_as_far_as_there_is_room_and_ends_with_the_last(
    scores: list[float], width: int
) -> None:
    finite = [score for score in scores if math.isfinite(score)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    bars = curve(scores, low, high, width)
    assert len(bars) == min(len(scores), width)
    if bars:
        assert (bars[-1] == " ") == math.isnan(scores[-1])
    if bars and high > low and scores[-1] == high:
        assert bars[-1] == "█"


@given(st.lists(TRIALS, max_size=12, unique_by=lambda trial: trial.number), st.integers(-3, 15))
def test_trials_that_are_shown_and_those_that_are_counted_are_all(trials: list[RunningTrial], room: int) -> None:
    shown, left_out = chosen(trials, room)
    assert len(shown) + left_out == len(trials)
    assert len(shown) + bool(left_out) <= max(room, 1)


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.9, "0:59"), (3599, "59:59"), (90_061, "25:01:01")])
def test_clock_is_read_as_people_write_it(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_price_so_far_stands_beside_the_slots_and_the_score_has_its_name() -> None:
    rest = lines(search(slot_hours=1.5, price=2.5, metric="macro_f1"))
    assert "best macro F1 0.8123, 4.21 MiB, trial 7" in rest
    assert "2 of 2 slots, 1.50 slot hours, 3.75 at 2.5" in rest
    assert "2 of 2 slots, 1.50 slot hours" in lines(search(slot_hours=1.5))
