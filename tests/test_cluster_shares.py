"""Searches on one cluster: each gets its share, none starves, and no slot stays empty that one wants."""

import math
from collections import defaultdict
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captune.cluster.nodes.shares import TURN, Claim, allotted, may_hold, parts

WEIGHTS = st.sampled_from([0.5, 1.0, 2.0, 3.0, 10.0])


@st.composite
def claims(draw: st.DrawFn, *, slots: st.SearchStrategy[int], most: int = 5) -> list[Claim]:
    """Of several searches. slots: of the cluster for each."""
    drawn = []
    for key in range(draw(st.integers(1, most))):
        held = draw(st.integers(0, 12))
        wanted = held + draw(st.integers(0, 12))
        drawn.append(Claim(str(key), "run", draw(WEIGHTS), draw(slots), wanted, held, draw(st.floats(-99, 99))))
    return drawn


ALIKE = st.integers(1, 12).flatmap(lambda slots: claims(slots=st.just(slots)))
MIXED = claims(slots=st.integers(1, 12))


def claim(key: str, share: float, slots: int, *, wanted: int | None = None, held: int = 0, owed: float = 0.0) -> Claim:
    return Claim(key, "run", share, slots, slots if wanted is None else wanted, held, owed)


@given(MIXED)
def test_parts_are_all_of_the_cluster_or_all_that_is_wanted_and_by_weight(claims: list[Claim]) -> None:
    shares = parts(claims)
    wanted = [each.wanted / each.slots for each in claims]
    assert sum(shares) == pytest.approx(min(1.0, sum(wanted)))
    short = [place for place in range(len(claims)) if shares[place] < wanted[place] - 1e-9]
    for place in short:  # whoever has less than it wants has no less by weight than anybody else
        for share, other in zip(shares, claims, strict=True):
            assert shares[place] / claims[place].share >= share / other.share - 1e-9


@given(MIXED)
def test_no_slot_is_left_that_one_wants_and_none_is_given_twice(claims: list[Claim]) -> None:
    counts = allotted(claims)
    taken = sum(count / each.slots for count, each in zip(counts, claims, strict=True))
    assert taken <= 1 + 1e-6
    for count, each in zip(counts, claims, strict=True):
        assert count <= each.wanted
        assert count == each.wanted or taken + 1 / each.slots > 1 + 1e-9


@given(ALIKE)
def test_shares_of_like_slots_are_right_within_one(claims: list[Claim]) -> None:
    for count, part, each in zip(allotted(claims), parts(claims), claims, strict=True):
        assert abs(count - part * each.slots) < 1


@given(MIXED, st.randoms())
def test_all_who_ask_come_to_the_same(claims: list[Claim], random: object) -> None:
    answers = dict(zip([each.key for each in claims], allotted(claims), strict=True))
    shuffled = sorted(claims, key=lambda _: random.random())  # type: ignore[attr-defined]
    assert dict(zip([each.key for each in shuffled], allotted(shuffled), strict=True)) == answers


@given(MIXED)
def test_nothing_starts_where_others_still_hold_all(claims: list[Claim]) -> None:
    own, *others = claims
    free = 1 - sum(each.held / each.slots for each in claims)
    starts = may_hold(own, others) - own.held
    assert starts <= 0 or starts / own.slots <= free + 1e-6


def test_later_search_gets_its_third_of_six_slots_as_they_come_free() -> None:
    first = claim("a", 2, 6, held=6)
    second = claim("b", 1, 6)
    assert (may_hold(first, [second]), may_hold(second, [first])) == (4, 0)
    first = replace(first, held=5)
    assert (may_hold(first, [second]), may_hold(second, [first])) == (4, 1)


def test_what_one_does_not_want_is_given_on() -> None:
    assert allotted([claim("a", 2, 6), claim("b", 1, 6, wanted=1)]) == [5, 1]
    assert allotted([claim("a", 2, 6, wanted=0), claim("b", 1, 6)]) == [0, 6]


def test_search_on_gpus_and_one_on_cpus_are_compared_by_their_part() -> None:
    assert allotted([claim("a", 1, 4), claim("b", 1, 32)]) == [2, 16]


def test_odd_slot_stays_until_another_is_owed_more_by_a_turn() -> None:
    first = claim("a", 1, 3, held=2, owed=-TURN / 2 + 1)
    second = claim("b", 1, 3, held=1, owed=TURN / 2 - 1)
    assert allotted([first, second]) == [2, 1]
    assert allotted([replace(first, owed=-TURN / 2 - 1), replace(second, owed=TURN / 2 + 1)]) == [1, 2]


@dataclass
class Simulated:
    """A search whose trials take `seconds` each, from which it cannot be parted."""

    claim: Claim
    seconds: float
    since: float = 0.0  # when it comes
    longest_wait: float = 0.0
    waits: float = 0.0


def simulated(searches: list[Simulated], seconds: int) -> dict[str, float]:
    """Slots that each holds in the mean of the time in which all are there. They ask once a second, in turn."""
    ends: dict[str, list[float]] = defaultdict(list)
    used: dict[str, float] = defaultdict(float)
    everyone = max(search.since for search in searches)
    for now in range(seconds):
        there = [search for search in searches if search.since <= now]
        for search in there:
            key = search.claim.key
            before = len(ends[key])
            ends[key] = [end for end in ends[key] if end > now]
            others = [other.claim for other in there if other is not search]
            own = replace(search.claim, held=len(ends[key]))
            search.claim = own.later(1.0, parts([own, *others])[0], before) if others else replace(own, owed=0.0)
            for _ in range(max(0, may_hold(search.claim, others) - len(ends[key]))):
                ends[key].append(now + search.seconds)
            search.claim = replace(search.claim, held=len(ends[key]))
            search.waits = 0.0 if ends[key] else search.waits + 1
            search.longest_wait = max(search.longest_wait, search.waits)
        assert sum(each.claim.held / each.claim.slots for each in there) <= 1 + 1e-9
        if now >= everyone:
            for search in there:
                used[search.claim.key] += search.claim.held
    return {key: count / (seconds - everyone) for key, count in used.items()}


@pytest.mark.slow
@settings(max_examples=10)  # each is half an hour of several searches
@given(
    st.integers(1, 8),
    st.lists(
        st.tuples(st.sampled_from([1.0, 2.0, 3.0]), st.integers(1, 40), st.integers(0, 100)), min_size=2, max_size=4
    ),
)
def test_slot_seconds_go_by_weight_in_the_long_run_and_nobody_starves(
    slots: int, drawn: list[tuple[float, int, int]]
) -> None:
    searches = [
        Simulated(claim(str(key), share, slots), seconds, since) for key, (share, seconds, since) in enumerate(drawn)
    ]
    used = simulated(searches, 1800)
    weight = sum(search.claim.share for search in searches)
    longest = max(search.seconds for search in searches)
    for search in searches:
        part = search.claim.share / weight
        assert used[search.claim.key] == pytest.approx(part * slots, abs=0.25)
        assert search.longest_wait <= (longest + 2 * TURN) * weight / search.claim.share + longest


def test_two_searches_on_one_slot_take_turns_by_trial() -> None:
    first, second = Simulated(claim("a", 1, 1), 50.0), Simulated(claim("b", 1, 1), 50.0, since=20.0)
    used = simulated([first, second], 1020)
    assert used["a"] == pytest.approx(0.5, abs=0.06) and used["b"] == pytest.approx(0.5, abs=0.06)
    assert math.isclose(first.longest_wait, second.longest_wait, abs_tol=35)
