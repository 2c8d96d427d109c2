"""What people ask of a search is taken up while it runs."""

from typing import Any, cast

import pytest
from test_tuner_director import Search, search  # noqa: F401 - the fixture

from captune.cluster.nodes.resources import Request
from captune.tuner.ray_tune.rounds import Rounds
from captune.tuner.run.requests import Request as Asked
from captune.tuner.run.requests import Requests
from captune.tuner.space.config import read_search


def test_requests_are_taken_up_once_and_a_wrong_one_stays(
    search: Search,  # noqa: F811
) -> None:
    directed, said = search.direct(), list[str]()
    for name in "ab":
        directed.start(name)
    director = directed.director
    config = read_search(None, preset="compact", default_preset="compact", overrides={"trials": "9"})
    rounds = Rounds(
        search.run,
        config,
        director.gate._feasible,
        director,
        Request(1, 0),
        cast(Any, None),
        None,
        said.append,
        most_slots=1,
        fitting=1,
    )
    requests = Requests(search.run)
    wrong = {"text.embedding": 7}
    for one in ({"pin": 0}, {"stop": 1}, {"stop": 5}, {"pin": 5}, {"configurations": (wrong,)}):
        requests.add(Asked(**one))  # type: ignore[arg-type]
    rounds.take_up_requests(lambda number: director.drop(number) is not None)
    assert (director.running["a"].pinned, director.running["b"].dropped) == (True, True)
    assert [note.partition(", ")[0] for note in said[:2]] == ["note: trial 5 does not run"] * 2
    assert "is refused: 1: text.embedding" in said[2]
    (left,) = requests.names()
    assert requests.read(left).configurations == (wrong,)
    rounds.take_up_requests(pytest.fail)
    assert len(said) == 3
