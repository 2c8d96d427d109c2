"""What is left out of a network to see what it gives, and how its scores stand beside the whole's."""

import json
from pathlib import Path

import pytest
from conftest import Captune, refused
from hypothesis import given, settings
from hypothesis import strategies as st

from captune.data_prep.store import PreparedData
from captune.model.config import TrialConfig
from captune.model.flat import flatten, replace
from captune.model.presets import PRESETS
from captune.model.size import size
from captune.results.ablation import Ablation, Variant
from captune.results.records import load_records
from captune.results.run_folder import RunFolder
from captune.tuner.command import winner
from captune.tuner.winner.ablations import ablations, note_on

CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "text.wide": st.booleans(),
        "image.head": st.sampled_from(["pooled", "positions", "queries"]),
        "train.augment.flip": st.booleans(),
        "modality_dropout": st.sampled_from([0.0, 0.2]),
        "train.alignment": st.sampled_from([0.0, 0.1]),
    },
)


def drawn(preset: str, changes: dict[str, object]) -> TrialConfig:
    base = PRESETS[preset]
    if base.model.image is None:
        changes = {name: value for name, value in changes.items() if "image" not in name and "augment" not in name}
    return replace(base, changes)


@given(st.sampled_from(sorted(PRESETS)), CHANGES)
@settings(max_examples=60, deadline=None)
def test_network_without_a_part_is_possible_and_no_larger_but_for_what_takes_its_place(
    preset: str, changes: dict[str, object]
) -> None:
    try:
        config = drawn(preset, changes)
    except ValueError:  # impossible together
        return
    whole = size(config.model).parameters
    for part, without in ablations(config).items():
        assert flatten(without) != flatten(config), part
        if part in ("captions", "pictures", "text.wide"):
            assert size(without.model).parameters < whole, part
        if part in ("captions", "pictures"):
            assert without.model.modality == {"captions": "image", "pictures": "caption"}[part]
        else:
            assert without.model.modality == config.model.modality
        if part == "image.weights":
            assert without.model.image is not None and size(without.model).parameters == whole


def test_each_part_is_left_out_by_itself() -> None:
    config = replace(PRESETS["compact"], {"text.wide": True, "train.augment.shift": 0.1})
    assert list(ablations(config)) == ["captions", "pictures", "augmentation", "text.wide", "image.head", "fusion"]
    left = ablations(config)
    assert left["augmentation"].train.augment.shift == 0.0 and left["augmentation"].model == config.model
    assert left["text.wide"].train == config.train
    assert left["fusion"].model.fusion == "concatenation"
    assert ablations(PRESETS["captions"]).keys() <= {"text.wide"}
    taught = replace(PRESETS["captions"], {"train.teacher": "bundle"})
    assert ablations(taught)["teacher"] == PRESETS["captions"]
    tower = replace(PRESETS["captions"], {"text.encoder": "transformer", "text.weights": "x", "text.frozen": True})
    without = ablations(replace(tower, {"train.cached_features": True}))["text.weights"]
    assert without == replace(tower, {"text.pretrained": False, "text.frozen": False})
    assert "the tower, else frozen, is trained" in note_on(without, tower) and note_on(without, without) == ""
    aligned = ablations(replace(config, {"train.alignment": 0.1}))
    assert aligned["alignment"] == config and {part: aligned[part].train.alignment for part in aligned} == {
        **dict.fromkeys(aligned, 0.1),
        **dict.fromkeys(("captions", "pictures", "alignment"), 0.0),
    }


def test_differences_are_of_the_same_examples_and_their_interval_holds_them() -> None:
    whole = Variant(without="nothing", shares=(1.0, 0.5, 0.0, 1.0) * 50, weights_bytes=100, seconds=1.0)
    worse = Variant(without="captions", shares=(0.5, 0.5, 0.0, 1.0) * 50, weights_bytes=60, seconds=1.0)
    ablation = Ablation(trial=0, config={}, epochs=2, seeds=1, data="f", metric="mean_f1", variants=(whole, worse))
    first, second = ablation.rows()
    assert (first.difference, first.low, first.high) == (0.0, 0.0, 0.0)
    assert second.score == 0.5 and second.difference == -0.125
    assert second.low < second.difference < second.high < 0, "pairs tell what means of 0.5 and 0.625 do not"


@pytest.mark.soak
@pytest.mark.slow
@pytest.mark.cluster
def test_ablation_scores_as_the_search_did_and_goes_on_where_it_was(
    captune: Captune, captions_data: PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(tmp_path / "run")
    (tmp_path / "search.yaml").write_text(
        "preset: captions\ntrials: 1\nfixed: {train.epochs: 2, text.units: 8, text.embedding: 8, text.wide: true}\n"
        "space: {train.learning_rate: {low: 1e-3, high: 1e-2, log: true}}\n"
    )
    ran = captune("search", captions_data.path, "--run", run.path, "--config", tmp_path / "search.yaml")
    assert ran.code == 0, ran.err
    ran = captune("ablate", run.path, "--json")
    assert ran.code == 0, ran.err
    whole, without = json.loads(ran.out)
    assert (whole["without"], without["without"]) == ("nothing", "text.wide")
    assert without["weights_bytes"] < whole["weights_bytes"]
    kept = Ablation.read(run.ablation)
    [record] = load_records(run)
    assert whole["mean_f1"] == pytest.approx(record.curve[kept.epochs - 1].mean_f1, abs=1e-6)
    run.ablation.write_text(kept.model_copy(update={"variants": kept.variants[:1]}).to_json())  # killed in the second
    ran = captune("ablate", run.path)
    assert ran.code == 0, ran.err
    again = Ablation.read(run.ablation)
    assert again.variants[0] == kept.variants[0], "it was not trained again"
    assert again.variants[1].shares == kept.variants[1].shares
    assert [line.split()[0] for line in ran.out.splitlines()[1:]] == ["nothing", "text.wide"]
    for width, last in ((120, "seconds"), (60, "MiB"), (50, "pairs)")):
        monkeypatch.setattr(winner, "terminal_width", lambda width=width: width)
        lines = captune("ablate", run.path).out.splitlines()
        assert lines[0].endswith(last) and max(map(len, lines)) <= width, "whole columns are left out"
    for arguments, told in (
        (("--seeds", 2), "ablation.json is of trial 0 with 1 seeds"),
        (("--without", "captions"), "--without: trial 0 can be tried without text.wide, got captions"),
        (("--seeds", 0), "--seeds"),
    ):
        ran = captune("ablate", run.path, *arguments)
        assert ran.code == 2 and told in ran.err and len(ran.err.splitlines()) == 1, ran.err


@pytest.mark.slow
def test_run_whose_network_has_no_part_to_spare_is_told_so(captune: Captune, old: Path) -> None:
    refused(captune("ablate", old / "run"), "trial 0 has no part to leave out")
