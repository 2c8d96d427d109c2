"""How many refusals the gate needs, how many configurations it sizes in a second, and what a proposal costs.

    python tests/benchmarks/gate.py

Refusals before 60 configurations fit, in the space of preset `full` under 32 MiB, of which a draw rarely keeps within.
Every admitted configuration is told a score by a formula: larger networks score better, so the sampler is drawn
towards the budget. Beside the gate: configurations drawn evenly and filtered, and TPE told of each refusal as FAIL.
Proposals are timed as CPU time of this process, median of ten, after so many trials that were drawn evenly and scored
by the formula.
"""

from __future__ import annotations

import statistics
import time
from random import Random

import optuna
from optuna.trial import TrialState

from captune.model.config import TrialConfig
from captune.model.size import Budget, Contents, Measure, MiB, size
from captune.tuner.decisions.gate import Gate
from captune.tuner.decisions.sampler import tpe
from captune.tuner.space.config import read_search
from captune.tuner.space.feasibility import FeasibleSpace

SEEDS, FITTING, GIVE_UP = range(5), 60, 3000
BUDGET = Budget(32 * MiB)


def reach_of(budget: Budget) -> FeasibleSpace:
    config = read_search(None, preset="full", default_preset="full", overrides={"trials": 1})
    return FeasibleSpace(config.build_space(), lambda drawn: drawn, budget, Contents.typical(18))


def score(config: TrialConfig, weights: int) -> float:
    """Better with size and with a rate near 1e-3, as scores are."""
    rate = abs(config.train.learning_rate / 1e-3 - 1)
    return weights / (weights + 20 * MiB) - 0.05 * min(rate, 2.0) - 0.1 * config.model.head_dropout


def through_gate(seed: int) -> int:
    study = optuna.create_study(direction="maximize")
    gate = Gate(study, reach_of(BUDGET), seed=seed)
    for _ in range(FITTING):
        admitted = gate.admit()
        gate.tell(admitted.trial, "complete", best=score(admitted.config, admitted.size.weights_bytes))
    return gate.fates["over_budget"]


def drawn_evenly(seed: int) -> int:
    reach, random = reach_of(BUDGET), Random(seed)
    fitting = refused = 0
    while fitting < FITTING:
        if BUDGET.holds(reach.size_of(reach.space.draw(random))):
            fitting += 1
        else:
            refused += 1
    return refused


def told_as_failed(seed: int) -> str:
    """TPE that hears FAIL for what is over the budget; ends after GIVE_UP refusals."""
    reach = reach_of(BUDGET)
    study = optuna.create_study(
        direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True)
    )
    fitting = refused = 0
    while fitting < FITTING and refused < GIVE_UP:
        trial = study.ask()
        config = reach.space.suggest(trial)
        total = reach.size_of(config)
        if BUDGET.holds(total):
            fitting += 1
            study.tell(trial, score(config, total.weights_bytes))
        else:
            refused += 1
            study.tell(trial, state=TrialState.FAIL)
    return f"{refused}" if fitting == FITTING else f"stuck at {fitting} of {FITTING} after {refused}"


def rate(preset: str, measure: Measure, count: int = 10_000) -> float:
    """Configurations a second that are sized and held against the budget, drawn evenly from the space of a preset."""
    space = read_search(None, preset=preset, default_preset=preset, overrides={"trials": 1}).build_space()
    random, budget, contents = Random(0), Budget(32 * MiB, measure), Contents.typical(18)
    drawn = [space.draw(random).model for _ in range(count)]
    started = time.perf_counter()
    for config in drawn:
        budget.holds(size(config, contents))
    return count / (time.perf_counter() - started)


def proposal(preset: str, finished: int, sampler: optuna.samplers.BaseSampler) -> float:
    """Milliseconds a proposal, its trial told, in a study of so many finished trials."""
    space = read_search(None, preset=preset, default_preset=preset, overrides={"trials": 1}).build_space()
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))

    def run() -> float:
        started = time.process_time()
        trial = study.ask()
        config = space.suggest(trial)
        study.tell(trial, score(config, size(config.model, Contents.typical(18)).weights_bytes))
        return 1000 * (time.process_time() - started)

    for _ in range(finished):
        run()
    study.sampler = sampler
    run()  # looks at all of them
    return statistics.median(run() for _ in range(10))


def main() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    reach, random = reach_of(BUDGET), Random(1)
    share = sum(BUDGET.holds(reach.size_of(reach.space.draw(random))) for _ in range(5000)) / 5000
    print(f"space: preset full under {BUDGET}; {1 - share:.0%} of draws do not fit")
    print(f"{'seed':>4} {'gate':>6} {'filter':>7} {'ratio':>6}  TPE told FAIL")
    for seed in SEEDS:
        ours, filtered = through_gate(seed), drawn_evenly(seed)
        print(f"{seed:4} {ours:6} {filtered:7} {ours / filtered:6.2f}  {told_as_failed(seed)}")
    for preset in ("full", "compact"):
        print(
            f"sized and held against a budget of bundle bytes, space {preset}: {rate(preset, 'bundle'):,.0f} a second"
        )
    print(f"{'space':>8} {'finished':>8} {'ms a proposal':>13}")
    for preset in ("compact", "full"):
        for finished in (200, 500, 1000, 2000, 4000):
            print(f"{preset:>8} {finished:8} {proposal(preset, finished, tpe(0)):13.1f}", flush=True)


if __name__ == "__main__":
    main()
