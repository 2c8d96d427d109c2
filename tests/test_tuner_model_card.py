"""The model card of a winner: numbers from the run's own records, and nothing of the data is markup."""

import dataclasses
from typing import Any

import pytest
import yaml
from markdown_it import MarkdownIt

from captune.data_prep.captions import CaptionSettings
from captune.data_prep.manifest import VERSION, Manifest
from captune.model.config import ImageConfig, ModelConfig, TextConfig, TrialConfig
from captune.model.flat import flatten, replace
from captune.model.rule import DecisionRule
from captune.results.baselines import COMMONEST, Baseline
from captune.results.error_analysis import Bin, ErrorAnalysis, LabelScores
from captune.tuner.winner.model_card import CardFacts, model_card, plain
from captune.tuner.winner.proof import (
    Gain,
    HeldOutScores,
    LatencyProof,
    Proof,
    ReloadedScore,
    SearchScore,
    UnroundedScore,
)

NAMES = ("dog", "<script>alert(1)</script> | *b* `c` [x](http://y) https://z www.z.com\n# h", "&lt;\x1b[31m_e_")
TEXT = TextConfig(vocabulary_size=500, max_tokens=16, embedding=8, units=8)


def facts(config: TrialConfig, **changes: Any) -> CardFacts:
    """Of three labels. A dotted name changes the proof."""
    proof = Proof(
        trial=7, config=flatten(config), epochs=3, rule=DecisionRule(0.4, "relative", 1.25, -0.5),
        search=SearchScore(mean_f1=0.8111, examples=120),
        test=HeldOutScores(
            mean_f1=0.8222, micro_f1=0.7333, macro_f1=0.6444, map=0.5666, ece=0.0123,
            per_label={"1": 0.9, "2": 0.5, "5": 0.0}, examples=130, low=0.8011, high=0.8433,
        ),
        reloaded=ReloadedScore(mean_f1=0.8222, max_difference=0.0), seeds=(0.8222, 0.8199), storage="int8",
        weights_bytes=1_048_576, bundle_bytes=2_097_152, budget_bytes=10_485_760, measure="bundle", bundle_fits=True,
        data="ab" * 32, float32=UnroundedScore(mean_f1=0.8225),
    )  # fmt: skip
    labels = tuple(
        LabelScores(id=label, name=name, f1=f1, precision=0.25, recall=0.75, support=support, given=41)
        for label, name, f1, support in zip((1, 2, 5), NAMES, (0.9, 0.5, 0.0), (90, 60, 4), strict=True)
    )
    manifest = Manifest(
        version=VERSION, fingerprint="ab" * 32, counts={"train": 1000, "validation": 120, "test": 130}, rows_read=1260,
        rows_skipped=10, label_ids=(1, 2, 5), label_names=NAMES, label_counts=(700, 400, 31),
        side=None if config.model.image is None else 64, max_tokens=20, vocabulary_size=402,
        captions=CaptionSettings(), inputs={}, files={}, repeated_captions={"test": 17},
    )  # fmt: skip
    analysis = ErrorAnalysis(
        examples=130,
        labels=labels,
        bins=(Bin(pairs=390, probability=0.2, share=0.25),),
        right=(),
        worst=(),
        suspects=(),
    )
    plain_facts = CardFacts(
        name="my *run*", created="2026-01-02T03:04:05+00:00", versions={"captune": "0.1.0", "keras": "3.15.1"},
        proof=proof, analysis=analysis, data=manifest,
        baselines=(Baseline(COMMONEST, "test", 0.3001, 0.2002, 0.1003, (0.5, 0.0, 0.0)),),
    )  # fmt: skip
    return dataclasses.replace(plain_facts, **changes)


def both(**image: Any) -> TrialConfig:
    return TrialConfig(model=ModelConfig(image=ImageConfig(side=64, **image), text=TEXT, num_labels=3, storage="int8"))


def captions() -> TrialConfig:
    return TrialConfig(model=ModelConfig(image=None, text=TEXT, num_labels=3, storage="int8"))


def parts(card: str) -> tuple[dict[str, Any], str]:
    """Front matter and Markdown."""
    _, front, body = card.split("---\n", 2)
    return yaml.safe_load(front), body


def test_front_matter_is_what_a_hub_reads() -> None:
    front, _ = parts(model_card(facts(captions())))
    assert (front["license"], front["pipeline_tag"]) == ("unknown", "text-classification")
    (model,) = front["model-index"]
    (result,) = model["results"]
    assert model["name"] == "my *run*"
    assert result["dataset"]["revision"] == "ab" * 32
    scores = {metric["name"]: metric["value"] for metric in result["metrics"]}
    names = ("mean_f1", "micro_f1", "macro_f1", "map")
    assert scores == dict(zip((f"{name} on test" for name in names), (0.8222, 0.7333, 0.6444, 0.5666), strict=True))
    assert "pipeline_tag" not in parts(model_card(facts(both())))[0], "no task of a hub reads pictures with captions"


@pytest.mark.parametrize(
    "line",
    [
        "| this classifier | 0.8222 | 0.7333 | 0.6444 |",
        "| commonest label | 0.3001 | 0.2002 | 0.1003 |",
        "0.8011 to 0.8433",
        "mean F1 0.8111 on 120 validation rows",
        "with other seeds it had 0.8199",
        "| 1 | dog | 0.9000 | 0.2500 | 0.7500 | 90 | 41 | 700 |",
        "error 0.0123 on test",
        "sigmoid(1.25 logit(p) + -0.5); given are the labels whose probability is at least 0.40 of the row's largest",
        "| 390 | 0.2000 | 0.2500 |",
        "| weights | 1.00 MiB (1.05 MB) as int8 |",
        "| bundle on disk | 2.00 MiB (2.10 MB) |",
        "| rows of train | 1000 |",
        "| rows left out when it was prepared | 10 |",
        f"`{'ab' * 32}`",
        "17 test rows have the caption of a row of train",
        "first 16 words, without function words, and knows 400 (stems of English words)",
        "Pictures are stretched to 64 pixels",
        "| licence of the data | FILL IN |",
    ],
)
def test_card_has_the_numbers_of_the_records(line: str) -> None:
    assert line in model_card(facts(both()))


@pytest.mark.parametrize(
    ("difference", "low", "verdict"),
    [(0.02, 0.01, "label."), (0.02, -0.01, "label, which may be chance."), (-0.02, -0.03, "label: it is no better.")],
)
def test_gain_over_a_baseline_is_told_with_what_it_is_worth(difference: float, low: float, verdict: str) -> None:
    card = facts(both())
    gain = Gain(baseline=COMMONEST, metric="mean_f1", difference=difference, low=low, high=0.03)
    said = model_card(dataclasses.replace(card, proof=card.proof.model_copy(update={"gain": gain})))
    expected = (
        f"It has {plain(f'mean F1 {difference:+.4f} (95 % in pairs {low:+.4f} to +0.0300) over commonest {verdict}')}"
    )
    assert f"{expected}\n" in said
    assert "in pairs" not in model_card(card), "of an earlier captune"


def test_label_that_no_row_was_given_is_named() -> None:
    card = facts(both())
    first, *others = card.analysis.labels
    unused = card.analysis.model_copy(update={"labels": (first.model_copy(update={"given": 0}), *others)})
    assert "gave them to none: dog." in model_card(dataclasses.replace(card, analysis=unused))
    assert "gave them to none" not in model_card(card)


def test_latency_stands_beside_its_limit_and_what_was_predicted() -> None:
    card = facts(both())
    assert "milliseconds" not in model_card(card)
    latency = LatencyProof(
        limit=20, milliseconds=4, predicted=5, format="onnx", storage="int8", machine="A | *processor*"
    )
    body = model_card(dataclasses.replace(card, proof=card.proof.model_copy(update={"latency": latency})))
    assert "| milliseconds a row as onnx, one thread | 4 (predicted 5 ms, +25%) |" in body
    assert "| milliseconds a row allowed | 20 |" in body
    assert rf"| measured on | {plain(latency.machine)} |" in body


def test_labels_that_test_hardly_has_are_named() -> None:
    _, body = parts(model_card(facts(captions())))
    (line,) = [line for line in body.splitlines() if line.startswith("- Fewer than 30 test rows")]
    assert line.endswith(f": {plain(NAMES[2])}.")


def test_names_of_labels_are_shown_as_they_are_and_are_no_markup() -> None:
    card = model_card(facts(captions()))
    assert "\x1b" not in card
    html = MarkdownIt("commonmark").enable("table").render(parts(card)[1])
    assert "<script" not in html and "<em>" not in html and 'href="http://y"' not in html
    assert html.count("<h1>") == 1 and "<h1>my *run*</h1>" in html
    assert "<td>&lt;script&gt;alert(1)&lt;/script&gt; | *b* `c` [x](http://y) https://z www.z.com # h</td>" in html
    assert all(row.count("<td>") in (0, 2, 3, 4, 8) for row in html.split("<tr>")), "no name adds a column"
    assert "https://" not in card and "www." not in card, "which hubs make links of"


def test_pretrained_weights_are_named_without_the_place_where_they_lie() -> None:
    config = both(backbone="EfficientNetLite0", weights="/home/me/secret/lite0.safetensors", frozen=True)
    card = model_card(facts(config))
    assert "(EfficientNetLite0, lite0.safetensors)" in card
    assert "secret" not in card
    assert "pretrained" not in model_card(facts(both())), "a network that began with random weights"


def test_teacher_is_named_by_its_run() -> None:
    config = replace(captions(), {"train.teacher": "/home/me/runs/large/winner/bundle", "train.teacher_share": 0.7})
    assert r"It was taught by another network, large\/winner\/bundle: 70% of its targets." in model_card(facts(config))
    assert "taught" not in model_card(facts(captions()))


def test_code_calls_only_what_the_network_reads() -> None:
    of_captions, of_both = (model_card(facts(config)) for config in (captions(), both()))
    assert 'classifier.predict(captions=["a dog on a beach"])' in of_captions
    assert "square" not in of_captions
    assert 'classifier.predict(captions=["a dog on a beach"], images=["dog.jpg"])' in of_both
    assert 'import { Classifier, square } from "./classifier.onnx.portable/captune.mjs";' in of_both


def test_licences_of_all_pretrained_weights_are_to_be_filled_in() -> None:
    image = ImageConfig(side=64, backbone="EfficientNetLite0", weights="/w/lite0.safetensors")
    text = TEXT.model_copy(update={"encoder": "transformer", "weights": "/w/MiniLM"})
    config = TrialConfig(model=ModelConfig(image=image, text=text, num_labels=3, storage="int8"))
    rows = [line for line in model_card(facts(config)).splitlines() if "licence of the pretrained weights" in line]
    assert len(rows) == 2 and "EfficientNetLite0, lite0" in rows[0] and "transformer, MiniLM" in rows[1]
    assert "licence of the pretrained weights" not in model_card(facts(both()))
