"""The page of a run: true, small, safe and whole, whatever the run holds."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from html.parser import HTMLParser
from typing import Any

import pytest
from builders import epoch, record

from captune.model.size import Budget
from captune.results.baselines import Baseline
from captune.results.error_analysis import Bin, Doubt, ErrorAnalysis, Example, LabelScores
from captune.results.importance import Importance
from captune.results.records import Record
from captune.results.report_page import plots
from captune.results.report_page.answer import duration, sentences
from captune.results.report_page.facts import Facts, SearchFacts, TestScores, spans
from captune.results.report_page.page import page

MARKUP = "<script>alert(1)</script>"
SEARCH = SearchFacts("run", "captions", "captions", Budget(10 * 2**20), "2026-11-27T09:47:33+00:00", {"python": "3.11"})
SECTIONS = (
    "answer", "progress", "curves", "sizes", "importance", "slices", "trials", "fates", "time", "labels",
    "calibration", "examples", "settings",
)  # fmt: skip
NOTHING = Importance({}, 0, missing="0 scored trials are too few: it takes 8.")


def facts(*records: Record, **changes: Any) -> Facts:
    """Of these trials, a minute each, one after the other."""
    plain: dict[str, Any] = {
        "search": SEARCH, "importance": NOTHING, "searched": ("train.learning_rate",), "running": False,
        "spans": {r.number: (60.0 * place, 60.0 * (place + 1)) for place, r in enumerate(records)},
    }  # fmt: skip
    return Facts(records=tuple(records), **(plain | changes))


def trial(number: int, *scores: float, **changes: Any) -> Record:
    """One of a learning rate of its own."""
    rate = {"train.learning_rate": 0.001 * (number + 1), "train.epochs": 9}
    return record(number, scores, **({"config": rate} | changes))


def scores_on_test(labels: int = 2) -> TestScores:
    per_label = {str(label): 0.5 for label in range(labels)}
    return TestScores(0, 0.81, 0.78, 0.84, 0.8, 0.7, 0.0123, 400, 390, per_label, (0.81, 0.79), 1_000_000, 1_100_000)


AVERAGED = dataclasses.replace(scores_on_test(), members=(0, 4), validation=0.5123, weights_bytes=2 * 2**20)


def analysis(labels: int = 2, text: str = "a dog", picture: str = "") -> ErrorAnalysis:
    example = Example(
        row=7, image_id=text, caption=text, true=(0,), given=(1,), f1=0.0, doubt=Doubt(label=1, probability=0.9),
        picture=picture,
    )  # fmt: skip
    known = [
        LabelScores(id=i, name=text if i == 0 else str(i), f1=0.5, precision=0.25, recall=0.75, support=3, given=9)
        for i in range(labels)
    ]
    bins = (Bin(pairs=90, probability=0.04, share=0.05), Bin(pairs=10, probability=0.9, share=0.8))
    return ErrorAnalysis(
        examples=400, labels=tuple(known), bins=bins, right=(example,), worst=(example,), suspects=(example,)
    )


class Reader(HTMLParser):
    """What a browser would make of a page: its tags with their attributes, and its words."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words += data


CASES = {
    "no trial": facts(),
    "one trial without a score": facts(trial(0, fate="failed", reason="it broke")),
    "one trial that runs": facts(trial(0, 0.5, fate="running", seconds=None), running=True),
    "one epoch that is no number": facts(trial(0, math.nan, fate="diverged")),
    "refused ones alone": facts(trial(0, fate="over_budget", weights_bytes=10**9)),
    "one trial": facts(trial(0, 0.4, 0.6)),
    "equal scores": facts(*(trial(number, 0.5) for number in range(9))),
    "score of zero": facts(trial(0, 0.0), trial(1, 0.0)),
    "a setting of words and of none": facts(
        trial(0, 0.5, config={"train.learning_rate": "a"}), trial(1, 0.6, config={"train.learning_rate": None}),
        trial(2, 0.6, config={"train.learning_rate": "b"}),
    ),
    "refit by an earlier captune": facts(trial(0, 0.5), test=scores_on_test()),
    "refit": facts(trial(0, 0.5), test=scores_on_test(), analysis=analysis(picture="AAAA")),
    "an average": facts(trial(0, 0.5), trial(4, 0.49), test=AVERAGED, analysis=analysis()),
    "confirmed by other seeds": facts(
        trial(0, 0.5), test=dataclasses.replace(scores_on_test(), confirmed="By other seeds it is best."),
        analysis=analysis(),
    ),
    "a thousand labels": facts(trial(0, 0.5), test=scores_on_test(1000), analysis=analysis(1000)),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_every_run_has_every_section_headings_in_order_and_names_for_what_is_drawn(case: str) -> None:
    read = Reader(page(CASES[case]))
    assert tuple(a["id"] for tag, a in read.tags if tag == "section") == SECTIONS
    levels = [int(tag[1]) for tag, _ in read.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert {"header", "nav", "main", "footer"} <= {tag for tag, _ in read.tags}
    assert all(a.get("aria-label") for tag, a in read.tags if tag == "svg")
    assert all(a.get("alt") for tag, a in read.tags if tag == "img")
    assert all(a.get("scope") in ("row", "col") for tag, a in read.tags if tag == "th")
    assert not re.search(r"\bnan\b|\bNone\b|#01010", read.words.replace("None is contradicted", ""))


@pytest.mark.parametrize("case", CASES)
def test_nothing_is_fetched_and_no_id_stands_twice(case: str) -> None:
    read = Reader(page(CASES[case]))
    ids = [a["id"] for _, a in read.tags if "id" in a]
    assert len(ids) == len(set(ids))
    targets = [a.get(name) for _, a in read.tags for name in ("src", "href", "xlink:href") if a.get(name)]
    assert all(str(target).startswith(("#", "data:image/jpeg;base64,")) for target in targets)
    assert all(str(target)[1:] in ids for target in targets if str(target).startswith("#"))
    assert "script" not in {tag for tag, _ in read.tags}


def test_page_is_the_same_each_time() -> None:
    assert page(CASES["refit"]) == page(CASES["refit"])


def test_markup_is_text_wherever_it_comes_from() -> None:
    config = {"train.learning_rate": MARKUP, f"{MARKUP}": 1}
    hostile = facts(
        trial(0, 0.5, config=config), trial(1, 0.6, config={"train.learning_rate": "$x_{$"}),
        trial(2, fate="failed", reason=MARKUP), search=dataclasses.replace(SEARCH, name=MARKUP),
        searched=("train.learning_rate", MARKUP), test=scores_on_test(), analysis=analysis(text=MARKUP),
        importance=Importance({MARKUP: 1.0}, 9, (MARKUP,)),
        baselines=(
            Baseline(MARKUP, "test", 0.5, 0.5, 0.5, (0.1, 0.2)), Baseline(MARKUP, "validation", 0.5, 0.5, 0.5, ())
        ),
    )  # fmt: skip
    text = page(hostile)
    assert "<script" not in text
    assert Reader(text).words.count(MARKUP) >= 8


def test_controls_and_halves_of_characters_become_a_page_of_utf_8() -> None:
    text = "a\x1b[31m\u202eb\udc80c"
    broken = trial(1, fate="failed", reason=text)
    odd = facts(trial(0, 0.5), broken, test=scores_on_test(), analysis=analysis(text=text),
                search=dataclasses.replace(SEARCH, name=text))  # fmt: skip
    written = page(odd).encode()
    assert b"\x1b" not in written and "\u202e".encode() not in written


def test_the_answer_says_what_how_good_beside_what_how_large_how_sure_and_what_it_cost() -> None:
    best = trial(3, curve=(epoch(1, 0.8, standard_error=0.01),))
    near, far = trial(4, 0.795, weights_bytes=500_000), trial(5, 0.5)
    baseline = Baseline("commonest label", "validation", 0.6, 0.5, 0.1, ())
    said = " ".join(sentences(facts(best, near, far, trial(6, fate="over_budget"), baselines=(baseline,))))
    for words in (
        "within 10.00 MiB of weights",
        "The best is trial 3: mean F1 0.8000",
        "0.7804 to 0.8196",
        "not proved yet",
        "commonest label 0.6000; this has 0.2000 more",
        "take 0.95 MiB, 9.5 % of the budget",
        "as good within chance is trial 4 with 0.48 MiB",
        "1 other trial is within one standard error",
        "3 trials: 3 complete; 1 more was refused",
        "It took 4 min of search",
    ):
        assert words in said, said


def test_the_answer_says_how_fast_a_file_of_the_winner_is_where_there_was_a_limit() -> None:
    fast = dataclasses.replace(scores_on_test(), latency="4 ms of 20 allowed")
    said = sentences(facts(trial(0, 0.8), test=fast))
    assert len(said) <= 10 and "; a row takes its file on one thread 4 ms of 20 allowed." in " ".join(said)
    assert "one thread" not in " ".join(sentences(facts(trial(0, 0.8), test=scores_on_test())))


def test_what_was_refused_as_too_slow_is_called_so_and_is_not_drawn_over_the_budget() -> None:
    over, slow = trial(1, fate="over_budget", weights_bytes=10**9), trial(2, fate="over_budget", weights_bytes=1000)
    assert "1 more was refused untrained, over the budget." in " ".join(sentences(facts(trial(0, 0.8), over)))
    said = " ".join(sentences(facts(trial(0, 0.8), over, slow)))
    assert "2 more were refused untrained, over the budget or too slow." in said
    drawn = [plots.sizes(facts(trial(0, 0.8), *more)) for more in ([], [slow], [over])]
    assert drawn[0] == drawn[1] != drawn[2]


def test_score_below_what_is_had_for_nothing_is_called_so() -> None:
    baseline = Baseline("commonest label", "test", 0.9, 0.5, 0.1, (0.1, 0.2))
    said = " ".join(sentences(facts(trial(0, 0.8), test=scores_on_test(), baselines=(baseline,))))
    assert "0.0900 less: it is no better than these" in said
    assert "held against 400 test rows" in said and "0.7800 to 0.8400" in said
    paired = dataclasses.replace(scores_on_test(), gain="mean F1 -0.0900 in pairs")
    said = " ".join(sentences(facts(trial(0, 0.8), test=paired, baselines=(baseline,))))
    assert "commonest label 0.9000; this has mean F1 -0.0900 in pairs." in said


def test_winner_that_is_an_average_names_its_trials_and_has_the_size_of_all() -> None:
    said = " ".join(sentences(CASES["an average"]))
    assert "shipped as the average of trials 0, 4, chosen on validation, where they have mean F1 0.5123" in said
    assert "take 2.00 MiB, 20 % of the budget" in said
    assert "By other seeds it is best." in sentences(CASES["confirmed by other seeds"])


@pytest.mark.parametrize("case", CASES)
def test_there_are_ten_sentences_at_most_and_each_is_one(case: str) -> None:
    said = sentences(CASES[case])
    assert 1 <= len(said) <= 10
    assert all(line.endswith(".") and "nan" not in line and "None" not in line for line in said)


@pytest.mark.parametrize(
    ("seconds", "words"), [(0, "0 s"), (99, "99 s"), (100, "2 min"), (5940, "99 min"), (12_000, "3 h 20 min")]
)
def test_durations_are_said_as_people_say_them(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_time_in_which_nothing_ran_does_not_count() -> None:
    first, beside, later = trial(0, 0.5, began=1000.0), trial(1, 0.5, began=1004.0), trial(2, 0.5, began=90_000.0)
    waiting, running = trial(3, began=0.0), trial(4, 0.5, 0.6, began=90_001.0, seconds=None, fate="running")
    assert spans([later, first, beside, waiting, running]) == {
        0: (0.0, 10.0), 1: (4.0, 14.0), 2: (14.0, 24.0), 4: (15.0, 21.0)
    }  # fmt: skip


def test_winner_that_was_chosen_by_number_is_the_one_shown() -> None:
    shown = facts(trial(0, 0.5), trial(1, 0.9), test=scores_on_test())
    assert shown.best is not None and shown.best.number == 0
    assert "The winner is trial 0" in " ".join(sentences(shown))


def test_best_so_far_is_that_of_all_that_have_a_score_while_it_runs() -> None:
    going = facts(trial(0, 0.6), trial(1, 0.8, fate="running", seconds=None), running=True)
    assert going.best is not None and going.best.number == 1
    assert "The best so far is trial 1: mean F1 0.8000" in " ".join(sentences(going))


def test_thinning_keeps_the_best_and_the_order() -> None:
    values = list(range(5000))
    thin = plots.thinned(values, lambda value: value, 100)
    assert len(thin) == 100 and thin == sorted(thin) and set(range(4980, 5000)) <= set(thin)
    assert plots.thinned(values[:100], lambda value: value, 100) == values[:100]


def test_axis_begins_where_most_scores_are() -> None:
    assert plots.floor([0.0, *(0.8 + 0.001 * place for place in range(40))]) > 0.7
    assert plots.floor([0.5]) == 0.5 and plots.floor([]) == 0.0


def test_numbers_at_an_axis_are_not_cut() -> None:
    text = plots.of_setting(facts(trial(0, 0.8125), trial(1, 0.8175)), "train.learning_rate", 0)
    words = Reader(text).words.split()
    assert {"0.814", "0.816"} & set(words) or {"0.8150"} & set(words) or {"0.815"} & set(words), words
    assert "mathdefault" not in text


def test_page_of_long_captions_and_pictures_stays_below_two_megabytes() -> None:
    example = analysis(1000, "caption " * 50, picture="A" * 8000)
    many = example.model_copy(update={kind: getattr(example, kind) * 12 for kind in ("right", "worst", "suspects")})
    trials = [trial(number, 0.5 + number / 10_000, fate="stopped") for number in range(2000)]
    assert len(page(facts(*trials, test=scores_on_test(1000), analysis=many)).encode()) < 2 * 2**20


def test_answer_is_in_the_metric_and_the_money_of_the_search() -> None:
    curve = (epoch(1, 0.5, map=0.9, micro_f1=0.7, metric="micro_f1", standard_error=0.01),)
    best = record(0, curve=curve, best_epoch=1, mean_f1=0.5, seconds=7200.0)
    search = dataclasses.replace(SEARCH, metric="micro_f1", price=2.5)
    said = " ".join(sentences(Facts(search, (best,), {0: (0.0, 7200.0)}, Importance({}, 1), (), False)))
    assert "micro F1 0.7000" in said and "2.00 slot hours, which cost 5.00 at 2.5 each" in said
