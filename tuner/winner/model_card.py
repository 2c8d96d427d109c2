"""The model card of a winner, RUN/winner/README.md: Markdown with the front matter that model hubs read.

All of it comes from what the run, its proof and its data say; what only a person knows is left to be filled in.
"""

from __future__ import annotations

import math
import string
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import yaml

from captune.data_prep.manifest import Manifest
from captune.data_prep.split import SPLITS
from captune.data_prep.store import PreparedData
from captune.errors import one_line, visible
from captune.files import written_aside
from captune.model.average import Average, Network
from captune.model.config import TITLES, Metric
from captune.model.flat import unflatten
from captune.model.rule import RuleKind
from captune.model.size import show_bytes, size
from captune.results.baselines import Baseline, Baselines
from captune.results.error_analysis import ErrorAnalysis
from captune.results.run_folder import RunFolder
from captune.tuner.run.settings import RunSettings
from captune.tuner.winner.proof import Proof

FILL_IN = "FILL IN"
_OF_SETS: tuple[Metric, ...] = ("mean_f1", "micro_f1", "macro_f1")  # of labels, which baselines have, too
FEW_ROWS = 30  # of test with a label, below which its F1 says little
_ESCAPED = str.maketrans({mark: f"\\{mark}" for mark in string.punctuation if mark not in ".,;'"})
_TASKS = {"text": "text-classification", "image": "image-classification"}
_RULES: dict[RuleKind, str] = {
    "expected_f1": "the set of labels with the highest expected F1",
    "relative": "the labels whose probability is at least {value:.2f} of the row's largest",
    "threshold": "the labels whose probability is at least {value:.2f}",
}


@dataclass(frozen=True)
class CardFacts:
    """What a card is made of. name: of the run. baselines: scores on test alone."""

    name: str
    created: str  # ISO 8601, of the search
    versions: dict[str, str]
    proof: Proof
    analysis: ErrorAnalysis
    baselines: tuple[Baseline, ...]
    data: Manifest

    @property
    def config(self) -> Network:
        """Of the network."""
        return self.proof.network


def write_model_card(run: RunFolder, data: PreparedData) -> None:
    """Of a run that was refitted, beside its bundle. Raises RunError where a file of it is not as captune wrote it."""
    settings = RunSettings.of(run)
    baselines = Baselines.read(run.baselines).baselines if run.baselines.is_file() else ()
    facts = CardFacts(
        name=settings.facts(run).name,
        created=settings.created,
        versions=settings.versions,
        proof=Proof.read(run.proof),
        analysis=ErrorAnalysis.read(run.error_analysis),
        baselines=tuple(each for each in baselines if each.rows == "test"),
        data=data.manifest,
    )
    with written_aside(run.model_card) as aside:
        aside.write_text(model_card(facts), encoding="utf-8")


def model_card(facts: CardFacts) -> str:
    """Front matter and Markdown, in which nothing of the data is markup."""
    sections = (_what, _to_fill_in, _use, _data, _scores, _labels, _calibration, _size, _limits)
    front = yaml.safe_dump(_front_matter(facts), sort_keys=False, allow_unicode=True)
    return f"---\n{front}---\n\n" + "\n\n".join("\n".join(section(facts)) for section in sections) + "\n"


def plain(text: object) -> str:
    """A text that Markdown and HTML show as it is, in one line."""
    return one_line(visible(str(text))).translate(_ESCAPED).replace("www.", r"www\.")  # a link by itself on hubs


def _front_matter(facts: CardFacts) -> dict[str, Any]:
    config, test = facts.config, facts.proof.test
    both = config.image is not None and config.text is not None
    task = None if both else _TASKS["text" if config.image is None else "image"]
    metrics = [
        {"type": "f1" if name.endswith("f1") else name, "name": f"{name} on test", "value": getattr(test, name)}
        for name in (*_OF_SETS, "map")
        if not math.isnan(getattr(test, name))  # proofs of before it was a metric
    ]
    dataset = {"name": FILL_IN, "type": FILL_IN, "split": "test", "revision": facts.proof.data}
    result = {"task": {"type": task or "other"}, "dataset": dataset, "metrics": metrics}
    return {
        "license": "unknown",
        "library_name": "captune",
        **({} if task is None else {"pipeline_tag": task}),
        "tags": ["multi-label-classification", *(["image"] * (config.image is not None)),
                 *(["text"] * (config.text is not None))],
        "model-index": [{"name": facts.name, "results": [result]}],
    }  # fmt: skip


def _what(facts: CardFacts) -> Iterator[str]:
    labels, test = len(facts.data.label_ids), facts.proof.test
    yield f"# {plain(facts.name)}"
    yield ""
    yield (
        f"Gives each example of {_read(facts.config)} one or more of {labels} labels. Mean F1 {test.mean_f1:.4f} "
        f"(95 % interval {test.low:.4f} to {test.high:.4f}) on {test.examples} test rows that were read once, after "
        "training. Found and trained by captune."
    )


def _read(config: Network) -> str:
    if config.image is None or config.text is None:
        return "pictures" if config.text is None else "captions"
    return "pictures and captions"


def _to_fill_in(facts: CardFacts) -> Iterator[str]:
    yield "## To be filled in by whoever publishes it"
    yield ""
    rows = [("licence of these weights (and `license` above)", FILL_IN), ("licence of the data", FILL_IN)]
    config = facts.config
    models = tuple(config.models) if isinstance(config, Average) else (config,)
    images = [model.image for model in models if model.image is not None and model.image.weights != "none"]
    texts = [model.text for model in models if model.text is not None and model.text.begins_with_weights]
    pretrained = [(image.backbone, image.weights) for image in images] + [(t.encoder, t.weights) for t in texts]
    for weights in dict.fromkeys(f"{what}, {PurePath(file).name}" for what, file in pretrained):
        rows.append((f"licence of the pretrained weights that it began with ({plain(weights)})", FILL_IN))
    yield from _table(("", ""), [*rows, ("name of the data (and `dataset` above)", FILL_IN), ("contact", FILL_IN)])


def _use(facts: CardFacts) -> Iterator[str]:
    captions, pictures = facts.config.text is not None, facts.config.image is not None
    inputs = ['captions=["a dog on a beach"]'] * captions + ['images=["dog.jpg"]'] * pictures
    yield from ("## Use", "", "In Python, with `pip install captune`:", "", "```python", "import captune", "")
    yield 'classifier = captune.load("bundle")'
    yield f"labels = classifier.predict({', '.join(inputs)})"
    yield from ("print([[classifier.labels[label] for label in row] for row in labels])", "```", "")
    yield (
        "In JavaScript, with `npm install onnxruntime-node`, on what `captune export RUN --to classifier.onnx "
        "--format onnx` writes:"
    )
    yield from ("", "```javascript", 'import ort from "onnxruntime-node";')
    yield f'import {{ Classifier{", square" * pictures} }} from "./classifier.onnx.portable/captune.mjs";'
    yield 'const classifier = await Classifier.load("classifier.onnx.portable", "classifier.onnx", ort);'
    if pictures:
        # What decodes pictures is another package's affair.
        yield "const pictures = [square(pixels, width, height, classifier.contents.image.side)]; // RGB of a picture"
    inputs = ['captions: ["a dog on a beach"]'] * captions + ["pictures"] * pictures
    yield f"console.log((await classifier.answer({{ {', '.join(inputs)} }}))[0].labels);"
    yield from ("```", "", "In other languages as `bundle.portable/FORMAT.md` says.")


def _data(facts: CardFacts) -> Iterator[str]:
    data = facts.data
    yield from ("## Data", "")
    rows = [(f"rows of {split}", str(data.counts[split])) for split in SPLITS]
    rows.append(("rows left out when it was prepared", str(data.rows_skipped)))
    if facts.config.image is not None:
        rows.append(("pixels a side of its pictures", str(data.side)))
    rows.append(("fingerprint (SHA-256)", f"`{facts.proof.data}`"))
    yield from _table(("", ""), rows)
    yield ""
    yield "The search chose by the validation rows; the network was then trained on train and validation together."
    configurations = [member.config for member in facts.proof.members] or [facts.proof.config]
    for train in dict.fromkeys(unflatten(each).train for each in configurations):
        if train.has_teacher:
            name = "/".join(PurePath(train.teacher).parts[-3:])  # RUN/winner/bundle, say
            yield f"It was taught by another network, {plain(name)}: {train.teacher_share:.0%} of its targets."


def _scores(facts: CardFacts) -> Iterator[str]:
    proof, test = facts.proof, facts.proof.test
    yield from ("## Scores on test", "")
    rows = [("this classifier", *(f"{getattr(test, name):.4f}" for name in _OF_SETS))]
    rows += [(plain(each.name), *(f"{getattr(each, name):.4f}" for name in _OF_SETS)) for each in facts.baselines]
    yield from _table(("", *(TITLES[name] for name in _OF_SETS)), rows)
    yield ""
    searched = f"{TITLES[proof.metric]} {proof.searched:.4f}"
    yield (
        f"95 % interval of mean F1, by the bootstrap over rows: {test.low:.4f} to {test.high:.4f}. Mean average "
        f"precision {test.map:.4f}. In the search it had {searched} on {proof.search.examples} validation rows, by "
        "which it was chosen."
    )
    if proof.gain is not None:
        yield f"It has {plain(proof.gain)}."
    if proof.confirmation is not None:
        yield f"{proof.confirmation}; {proof.confirmed}."
    if proof.metric not in ("mean_f1", "map"):  # for both the rule is fitted for mean F1, as a reader expects
        yield f"The decision rule was fitted for {TITLES[proof.metric]}."
    if len(proof.seeds) > 1:
        yield f"Trained with other seeds it had {', '.join(f'{score:.4f}' for score in proof.seeds[1:])}."


def _labels(facts: CardFacts) -> Iterator[str]:
    yield from ("## Labels", "", "On test; `rows` have the label, `given` were given it.", "")
    headings = ("id", "name", "F1", "precision", "recall", "rows", "given", "rows of train")
    counts = dict(zip(facts.data.label_ids, facts.data.label_counts, strict=True))
    yield from _table(
        headings,
        [
            (each.id, plain(each.name), f"{each.f1:.4f}", f"{each.precision:.4f}", f"{each.recall:.4f}",
             each.support, each.given, counts[each.id])
            for each in facts.analysis.labels
        ],
    )  # fmt: skip


def _calibration(facts: CardFacts) -> Iterator[str]:
    rule, analysis = facts.proof.rule, facts.analysis
    yield from ("## Calibration", "")
    yield (
        f"Expected calibration error {facts.proof.test.ece:.4f} on test, of all pairs of row and label. The network's "
        f"probabilities p are calibrated as sigmoid({rule.scale:g} logit(p) + {rule.shift:g}); given are "
        f"{_RULES[rule.kind].format(value=rule.value)}, and the likeliest label always."
    )
    yield ""
    yield from _table(
        ("pairs", "mean probability", "share that is true"),
        [(each.pairs, f"{each.probability:.4f}", f"{each.share:.4f}") for each in analysis.bins],
    )


def _size(facts: CardFacts) -> Iterator[str]:
    proof, config = facts.proof, facts.config
    yield from ("## Size", "")
    yield from _table(
        ("", ""),
        [
            ("parameters", f"{size(config).parameters:,}"),
            ("weights", f"{show_bytes(proof.weights_bytes)} as {proof.storage}"),
            ("bundle on disk", show_bytes(proof.bundle_bytes)),
            ("budget", f"{show_bytes(proof.budget_bytes)} of {proof.measure}"),
            *_latency(proof),
            ("made with", plain(", ".join(f"{name} {number}" for name, number in facts.versions.items()))),
            ("searched", plain(facts.created)),
            ("trial", str(proof.trial))
            if not proof.members
            else ("trials, averaged", ", ".join(str(member.trial) for member in proof.members)),
        ],
    )


def _latency(proof: Proof) -> Iterator[tuple[str, str]]:
    if (latency := proof.latency) is not None:
        yield (
            f"milliseconds a row as {latency.format}, one thread",
            f"{latency.milliseconds:.3g} ({latency.prediction})",
        )
        yield "milliseconds a row allowed", f"{latency.limit:g}"
        yield "measured on", plain(latency.machine)


def _limits(facts: CardFacts) -> Iterator[str]:
    config, data = facts.config, facts.data
    yield from ("## Limits", "")
    yield "- It knows the labels above and no others, and gives every row at least one, be it about nothing of them."
    yield "- The scores hold for rows drawn as those of test were. What else it is given may go worse."
    few = [plain(each.name) for each in facts.analysis.labels if each.support < FEW_ROWS]
    if few:
        yield f"- Fewer than {FEW_ROWS} test rows have these labels, so their F1 is hardly known: {', '.join(few)}."
    never = [plain(each.name) for each in facts.analysis.labels if each.support and not each.given]
    if never:
        yield f"- Test rows have these labels, and it gave them to none: {', '.join(never)}."
    for what, repeated in (("caption", data.repeated_captions), ("picture", data.repeated_pictures)):
        if repeated.get("test"):
            rows = "1 test row has" if repeated["test"] == 1 else f"{repeated['test']} test rows have"
            yield f"- {rows} the {what} of a row of train: there it may remember."
    if config.text is not None and config.text.encoder == "transformer":
        yield (
            f"- Of a caption it reads the first {config.text.max_tokens - 2} word pieces and knows "
            f"{config.text.vocabulary_size - config.text.marks}, those of its training captions."
        )
    elif config.text is not None and data.captions is not None:
        words = min(config.text.vocabulary_size - 2, (data.vocabulary_size or 2) - 2)
        stems = " (stems of English words)" if data.captions.stem else ""
        yield (
            f"- Of a caption it reads the first {config.text.max_tokens} words, without function words, and knows "
            f"{words}{stems}; all others are one unknown word to it."
            if data.captions.remove_stop_words
            else f"- Of a caption it reads the first {config.text.max_tokens} words and knows {words}{stems}; all "
            "others are one unknown word to it."
        )
    if config.image is not None:
        stored, seen = config.image.side, config.image.seen_side
        enlarged = f", and enlarged to {seen}, which adds no detail" if seen > stored else ""
        least = min(stored, seen)
        yield f"- Pictures are stretched to {least} pixels a side{enlarged}: proportions and details are lost."
    if config.image is not None and config.text is not None:
        yield (
            "- Either the picture or the caption may be missing in Python; an exported file answers to an empty "
            "caption by the picture alone."
            if config.has_parts
            else "- It reads both. A black picture or an empty caption in place of a missing one is nothing that it "
            "was scored on."
        )


def _table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    yield f"| {' | '.join(headings)} |"
    yield "|" + "---|" * len(headings)
    for row in rows:
        yield f"| {' | '.join(map(str, row))} |"
