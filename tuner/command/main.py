"""The `captune` command. TensorFlow, Ray and the rest are loaded inside the verbs that need them: help is instant."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.exceptions import TyperException

from captune.errors import Error
from captune.tuner.command.cluster import add_verbs, follow_job, is_server, send
from captune.tuner.command.console import (
    Where,
    at_least,
    bar,
    exit_status,
    fail,
    fail_usage,
    live,
    numbers,
    one_of,
    print_json,
    print_table,
    say,
)
from captune.tuner.command.options import settings_verb

if TYPE_CHECKING:
    from captune.cluster.object_storage.mirror import Mirror
    from captune.results.run_folder import RunFolder

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

RunPath = Annotated[
    Where, typer.Argument(parser=Where, metavar="RUN", help="a run that `search` made: its folder or its address")
]
AsJson = Annotated[bool, typer.Option("--json", help="one JSON document on stdout")]
STORAGES = ("float32", "float16", "int8")
StorageOption = Annotated[
    str | None, typer.Option("--storage", help="float32, float16 or int8: what kernels and embeddings are shipped as")
]
Address = Annotated[
    str | None, typer.Option(help="a running Ray cluster: auto or host:port, or its job server: http://head:8265")
]


def main() -> None:
    """Entry point: people's mistakes end with one line and status 2, failed work with status 1."""
    try:
        status = app(prog_name="captune", standalone_mode=False)
    except TyperException as error:
        fail_usage(error)
    except (Error, OSError) as error:
        status = exit_status(error)
        if status is None:
            raise  # a bug: its traceback is what helps
        fail(str(error), status=status)
    raise SystemExit(status)


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="print the version")] = False
) -> None:
    """Searches for the best image-caption classifier that fits a size budget."""
    if version:
        from importlib.metadata import version as version_of

        print(f"captune {version_of('captune')}")
    elif context.invoked_subcommand is None:
        print(context.get_help(), end="")
        raise typer.Exit(2)


@app.command()
def demo(out: Annotated[Path, typer.Option(help="folder to make")] = Path("captune-demo")) -> None:
    """The whole path on drawn data, in minutes: prepare, search, table, refit, proof, export, predict."""
    from captune.tuner.command.demo import run_demo

    run_demo(out, say=say)


@app.command()
def prepare(
    csv: Annotated[Path, typer.Argument(help="CSV (ImageID,Labels,Caption), or COCO annotations with --format coco")],
    images: Annotated[Path | None, typer.Argument(help="folder of the pictures; leave out for captions alone")] = None,
    out: Annotated[
        Where,
        typer.Option(parser=Where, metavar="DATA", help="folder of the prepared data set, or an address: s3://, gs://"),
    ] = ...,  # type: ignore[assignment]
    format: Annotated[str, typer.Option(help="kaggle or coco")] = "kaggle",  # noqa: A002
    side: Annotated[int, typer.Option(help="pixels a side that pictures are decoded to, 8 to 1024")] = 224,
    on_bad: Annotated[
        str, typer.Option(help="bad rows: error stops at the first, skip lists them in a file")
    ] = "error",
    split: Annotated[str, typer.Option(help="percent train/validation/test")] = "80/10/10",
    seed: Annotated[int, typer.Option(help="of the split")] = 0,
    stop_words: Annotated[bool, typer.Option("--stop-words/--no-stop-words", help="drop English stop words")] = True,
    stems: Annotated[bool, typer.Option("--stems/--no-stems", help="reduce words to Porter stems")] = True,
    max_tokens: Annotated[int, typer.Option(help="tokens of a caption that are kept at most")] = 64,
    vocabulary: Annotated[int, typer.Option(help="words kept at most")] = 20_000,
    min_count: Annotated[int, typer.Option(help="times that a word must stand in the training captions")] = 1,
    labels: Annotated[
        str | None, typer.Option(help="label numbers allowed, e.g. 1-11,13-19; others are errors")
    ] = None,
    per_caption: Annotated[bool, typer.Option(help="coco: one example per caption, not per image")] = False,
    categories: Annotated[str | None, typer.Option(help="coco: category ids to keep, e.g. 1-19")] = None,
    address: Annotated[
        str | None, typer.Option(help="a running Ray cluster whose nodes decode: auto or host:port")
    ] = None,
) -> None:
    """Decodes pictures and captions once into a memory-mapped data set."""
    from captune.data_prep.captions import CaptionSettings
    from captune.data_prep.split import parse_shares
    from captune.data_prep.store import prepare as prepare_data
    from captune.tuner.run.locations import preparing

    one_of("--format", format, ("kaggle", "coco"))
    one_of("--on-bad", on_bad, ("error", "skip"))
    if format == "coco" and labels is not None:
        fail("--labels is for --format kaggle; choose COCO categories with --categories")
    if format == "kaggle" and (per_caption or categories is not None):
        fail("--per-caption and --categories are for --format coco; restrict a CSV's labels with --labels")
    decode = None
    if address is not None:
        from captune.cluster.nodes.decoding import ray_decoder

        if images is None:
            fail("--address is for decoding pictures; name their folder, or leave --address out")
        decode = ray_decoder(address, images)
    settings = CaptionSettings(
        remove_stop_words=stop_words,
        stem=stems,
        max_tokens=max_tokens,
        vocabulary_limit=vocabulary,
        min_count=min_count,
    )
    try:
        with preparing(out) as folder, bar("pictures") as progress:
            data = prepare_data(
                csv,
                images,
                folder,
                format=format,  # type: ignore[arg-type]
                side=side,
                on_bad=on_bad,  # type: ignore[arg-type]
                shares=parse_shares(split),
                seed=seed,
                captions=settings,
                known_labels=numbers("--labels", labels),
                per_caption=per_caption,
                categories=numbers("--categories", categories),
                decode=decode,
                progress=progress,
            )
    except KeyboardInterrupt:
        fail("interrupted; the same command goes on where it was", status=1)
    found = data.manifest
    counts = ", ".join(f"{count} {name}" for name, count in found.counts.items())
    print(f"{out}: {found.rows_read - found.rows_skipped} of {found.rows_read} rows: {counts}")
    if found.rows_skipped:
        print(f"{found.rows_skipped} rows skipped, each with its reason in {out}/bad_rows.csv")


@settings_verb(app, only=("preset", "budget", "measure", "storage"))
def size(
    settings: dict[str, Any],
    config: Annotated[Path | None, typer.Option(help="YAML: preset, and dotted names that change it")] = None,
    as_json: AsJson = False,
) -> None:
    """Bytes of a configuration, before anything is built. Exit status 1 when it does not fit."""
    from captune.model.presets import PRESETS
    from captune.model.size import DEFAULT_BUDGET, Budget, refusal, show_bytes, would_fit
    from captune.model.size import size as count
    from captune.tuner.space.config import read_trial_config

    if config is not None and "preset" in settings:
        fail("--preset and --config exclude each other; a config file may name its preset")
    chosen = read_trial_config(config).model if config else PRESETS[settings.get("preset", "paper")].model
    if "storage" in settings:
        chosen = chosen.model_copy(update={"storage": settings["storage"]})
    held = Budget(settings.get("budget", DEFAULT_BUDGET), settings.get("measure", "weights"))
    found = count(chosen)
    why = refusal(found, held)
    changes = would_fit(chosen, held) if why is not None else []
    if as_json:
        print_json(
            {
                "parameters": found.parameters,
                "trainable": found.trainable,
                "frozen": found.frozen,
                "weights_bytes": found.weights_bytes,
                "bundle_bytes": found.bundle_bytes,
                "storage": found.storage,
                "budget_bytes": held.limit,
                "measure": held.measure,
                "margin_bytes": held.limit - held.bytes_of(found),
                "fits": why is None,
                "would_fit": changes,
                "parts": found.parts,
            }
        )
    else:
        print(f"parameters     {found.parameters:,} ({found.trainable:,} trainable, {found.frozen:,} frozen)")
        for part, share in found.parts.items():
            print(f"{part:14} {show_bytes(share)}")
        print(f"weights        {show_bytes(found.weights_bytes)} as {found.storage}")
        print(f"bundle         {show_bytes(found.bundle_bytes)} at most, with vocabulary and container")
        print(f"budget         {held}: {'fits' if why is None else 'does not fit'}")
    if why is not None:
        say(f"{why}; would fit: {'; '.join(changes) or 'several smaller settings together'}; or raise --budget")
        raise typer.Exit(1)


@settings_verb(app, only=("preset",))
def space(settings: dict[str, Any]) -> None:
    """Prints a search.yaml to edit, that of preset compact if none is named."""
    from captune.tuner.space.config import shipped_space

    print(shipped_space(settings.get("preset", "compact")), end="")


@app.command()
def explain(
    name: Annotated[str | None, typer.Argument(help="e.g. time_limit or train.learning_rate; none: list all")] = None,
) -> None:
    """Says what a setting is: its unit, its range or choices, its default in each preset."""
    from captune.tuner.space.explain import explanation, listing

    print(explanation(name) if name else listing())


@settings_verb(app)
def search(
    context: typer.Context,
    settings: dict[str, Any],
    data: Annotated[
        Where,
        typer.Argument(parser=Where, metavar="DATA", help="a data set that `prepare` made: its folder or its address"),
    ],
    run: Annotated[
        Where,
        typer.Option(parser=Where, metavar="RUN", help="folder or address of the run; nothing may be there yet"),
    ] = ...,  # type: ignore[assignment]
    config: Annotated[Path | None, typer.Option(help="search.yaml; `captune space` prints one")] = None,
    address: Address = None,
    warm_start: Annotated[
        Where | None,
        typer.Option(parser=Where, metavar="RUN", help="a run of the same space and data to learn from first"),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="check everything, start nothing")] = False,
) -> None:
    """Searches for the best configuration inside the budget.

    Without --preset and --config it starts from compact, or from captions where the data has no pictures. What is given
    here wins over the file. `captune explain NAME` says more about a setting.
    """
    from captune.tuner.decisions.preflight import inspect, lines
    from captune.tuner.run.locations import open_data, reading, searching
    from captune.tuner.run.settings import check, create, discard
    from captune.tuner.space.config import read_search

    if is_server(address):
        follow_job(address, send(address, sys.argv[1:], context.parent))
        return
    prepared = open_data(data)
    asked = read_search(
        config,
        preset=settings.pop("preset", None),
        default_preset="compact" if prepared.has_images else "captions",
        overrides=settings,
    )
    feasible = check(asked, prepared)
    if warm_start is not None:
        from captune.tuner.decisions.warm_start import check as check_older

        with reading(warm_start) as older:
            check_older(older, asked, prepared.manifest.fingerprint)
    report = lines(inspect(asked, feasible), feasible.space, run)
    if dry_run:
        print("\n".join(report))
        return
    with searching(run, new=True) as (folder, mirror):
        # First: a folder that is taken is told in one line, as any other mistake.
        create(folder, asked, prepared, source=data, warm_start=warm_start)
        say("\n".join(report))
        try:
            _search(folder, mirror, address)
        except Exception:
            discard(folder)
            raise


@settings_verb(app, only=("trials", "time_limit"))
def resume(context: typer.Context, run: RunPath, settings: dict[str, Any], address: Address = None) -> None:
    """Goes on with a search: unfinished trials first, from their checkpoints. Finished ones stay as they are.

    --trials is a new total, --time-limit counts from now.
    """
    from captune.tuner.run.locations import searching

    if is_server(address):
        follow_job(address, send(address, sys.argv[1:], context.parent))
        return
    with searching(run) as (folder, mirror):
        _search(folder, mirror, address, settings)


@app.command()
def trials(
    run: RunPath,
    format: Annotated[str, typer.Option(help="table, csv, json, parquet or markdown")] = "table",  # noqa: A002
    sort: Annotated[str | None, typer.Option(help="a column; scores best first")] = None,
    where: Annotated[str | None, typer.Option(help="e.g. \"fate == 'complete' and mean_f1 > 0.8\"")] = None,
    columns: Annotated[str | None, typer.Option(help="names, separated by commas")] = None,
    limit: Annotated[int | None, typer.Option(help="rows at most")] = None,
    frontier: Annotated[bool, typer.Option("--frontier", help="only the best score for each size")] = False,
) -> None:
    """The table of trials, also while the search runs."""
    from captune.results import table
    from captune.results.records import load_records
    from captune.tuner.run.locations import reading

    one_of("--format", format, table.FORMATS)
    at_least("--limit", limit, 1)
    with reading(run) as folder:
        records = load_records(folder)
        if frontier:
            from captune.results.frontier import frontier as unbeaten
            from captune.tuner.run.settings import read_config

            records = unbeaten(records, read_config(folder).limit)
    chosen = [name.strip() for name in columns.split(",")] if columns else None
    if format == "table":
        print_table(table.terminal(records, columns=chosen, sort=sort, where=where, limit=limit))
        return
    content = table.render(records, format, columns=chosen, sort=sort, where=where, limit=limit)
    if format == "parquet" and sys.stdout.isatty():
        fail("Parquet is not for a terminal; send it to a file: captune trials RUN --format parquet > trials.parquet")
    sys.stdout.buffer.write(content)


@app.command()
def show(run: RunPath, trial: Annotated[int, typer.Argument(help="its number")], as_json: AsJson = False) -> None:
    """One trial: configuration, curve, cost, fate."""
    from dataclasses import asdict

    from captune.results import report
    from captune.results.records import load_records
    from captune.tuner.run.locations import reading

    with reading(run) as folder:
        record = next((r for r in load_records(folder) if r.number == trial), None)
    if record is None:
        fail(f"the run has no trial {trial}; `captune trials {run}` lists them")
    if as_json:
        print_json(report.without_nan({**record.row(), "curve": [asdict(epoch) for epoch in record.curve]}))
        return
    for part in report.trial(record):
        print_table(part)


@app.command()
def replay(
    run: RunPath,
    trial: Annotated[int, typer.Argument(help="its number")],
    force: Annotated[bool, typer.Option("--force", help="also where data or versions are not the same")] = False,
    as_json: AsJson = False,
) -> None:
    """Trains a trial again as it was, and compares epoch by epoch. On the same machine's CPU nothing differs."""
    from captune.tuner.run.locations import reading
    from captune.tuner.winner.replay import prepare, replay_trial

    with reading(run) as folder:
        plan = prepare(folder, trial, force=force)
    for difference in plan.differences:
        say(f"note: {difference}")
    _settle(plan.threads, plan.backend)
    found = replay_trial(plan, say=say)
    if as_json:
        print_json(found)
        return
    for row in found["epochs"]:
        print("epoch {epoch}: mean F1 {old:.6f}, again {new:.6f}, difference {difference:.1e}".format(**row))
    print(f"largest difference {found['largest_difference']:.1e}")


@app.command()
def refit(
    context: typer.Context,
    run: RunPath,
    trial: Annotated[int | None, typer.Option(help="refit this one instead of the best")] = None,
    seeds: Annotated[int, typer.Option(help="repeat with further seeds, to see how far the score moves")] = 1,
    address: Address = None,
    gpus: Annotated[int | None, typer.Option(help="that share each batch between them, all of one node")] = None,
    cpus: Annotated[float | None, typer.Option(help="of a cluster's node; also the threads")] = None,
) -> None:
    """Trains the winner on train + validation, proves it on test, writes RUN/winner."""
    from captune.tuner.winner.refit_run import refit_on_cluster, refit_run

    if is_server(address):
        follow_job(address, send(address, sys.argv[1:], context.parent))
        return
    at_least("--seeds", seeds, 1)
    at_least("--gpus", gpus, 0)
    if address is None:
        if cpus is not None:
            fail("--cpus is for a node of a cluster; name one with --address, or leave --cpus out")
        proof = refit_run(run, trial, seeds, os.cpu_count() or 1, gpus or 0, say=say)
    else:
        proof = refit_on_cluster(address, run, trial, seeds, cpus, gpus, say=say)
    test = proof["test"]
    print(f"trial {proof['trial']}, {proof['epochs']} epochs on train + validation")
    print(f"search    mean F1 {proof['search']['mean_f1']:.4f} on {proof['search']['examples']} validation examples")
    interval = f"95 % {test['low']:.4f} to {test['high']:.4f}"
    print(f"test      mean F1 {test['mean_f1']:.4f} ({interval}), {test['examples']} examples")
    print(f"          micro F1 {test['micro_f1']:.4f}, macro F1 {test['macro_f1']:.4f}, mAP {test['map']:.4f}")
    if len(proof["seeds"]) > 1:
        print(f"seeds     mean F1 {', '.join(f'{score:.4f}' for score in proof['seeds'])}")
    print(
        f"reloaded  mean F1 {proof['reloaded']['mean_f1']:.4f}, "
        f"largest difference of a probability {proof['reloaded']['max_difference']:.1e}"
    )
    if proof["storage"] != "float32":
        print(f"float32   mean F1 {proof['float32']['mean_f1']:.4f}, before the weights became {proof['storage']}")
    print(f"bundle    {proof['bundle_bytes'] / 2**20:.2f} MiB in {run}/winner/bundle")
    if not proof["bundle_fits"]:
        say(
            f"note: the weights keep the budget, the bundle with its vocabulary does not: {proof['bundle_bytes']} bytes"
        )


@app.command()
def export(
    run: RunPath,
    to: Annotated[Path, typer.Option(help="what to write; must not exist yet")] = ...,  # type: ignore[assignment]
    format: Annotated[str, typer.Option(help="bundle or keras")] = "bundle",  # noqa: A002
    storage: StorageOption = None,
) -> None:
    """Copies the proved winner, loads the copy in a fresh process, and compares what it answers."""
    from captune.tuner.run.locations import reading
    from captune.tuner.run.settings import read

    one_of("--format", format, ("bundle", "keras"))
    if storage is not None:
        one_of("--storage", storage, STORAGES)
        if format == "keras" and storage != "float32":
            fail("a Keras file holds float32; use --format bundle for --storage " + storage)
    with reading(run, leave=frozenset()) as folder:
        settings, data = read(folder)
        _settle(backend=settings.backend)
        from captune.model.size import show_bytes
        from captune.tuner.winner.refit import export as write

        done = write(folder, data, settings.limit, to, format, storage)  # type: ignore[arg-type]
    print(f"{done['path']}: {show_bytes(done['bytes'])}, weights as {done['storage']}")
    print(f"test probabilities within {done['max_difference']:.1e} of the winner's")
    print(f"test mean F1 {done['mean_f1']['winner']:.4f} of the winner, {done['mean_f1']['export']:.4f} of the export")


@app.command()
def evaluate(
    bundle: Annotated[Path, typer.Argument(help="a bundle folder")],
    csv: Annotated[Path, typer.Argument(help="CSV with Labels")],
    images: Annotated[Path | None, typer.Argument(help="folder of the pictures")] = None,
    as_json: AsJson = False,
) -> None:
    """Scores a bundle on labelled rows."""
    _settle()
    from captune.model.bundle import Bundle
    from captune.tuner.winner.predict import evaluate as score
    from captune.tuner.winner.predict import read_rows

    loaded = Bundle.load(bundle)
    scores = score(loaded, *read_rows(loaded, csv, images, need_labels=True))
    if as_json:
        print_json(scores)
        return
    for name in ("mean_f1", "micro_f1", "macro_f1", "map"):
        print(f"{name:9} {scores[name]:.4f}")
    names = dict(zip(map(str, loaded.label_ids), loaded.label_names, strict=True))
    for label, f1 in scores["per_label"].items():
        print(f"label {label:>3} {f1:.4f}  {names[label]}")
    print(f"examples  {scores['examples']}")


@app.command()
def predict(
    bundle: Annotated[Path, typer.Argument(help="a bundle folder")],
    csv: Annotated[Path, typer.Argument(help="CSV, with or without Labels")],
    images: Annotated[Path | None, typer.Argument(help="folder of the pictures")] = None,
    out: Annotated[Path, typer.Option(help="CSV to write: ImageID,Labels")] = ...,  # type: ignore[assignment]
) -> None:
    """Writes the labels that a bundle gives, one row for each row of the CSV."""
    if out.exists():
        fail(f"{out} exists; name a file that does not")
    _settle()
    from captune.model.bundle import Bundle
    from captune.tuner.winner.predict import read_rows, write_submission

    loaded = Bundle.load(bundle)
    records, pictures = read_rows(loaded, csv, images, need_labels=False)
    write_submission(loaded, records, pictures, out)
    print(f"{out}: {len(records.examples)} rows")


def _search(
    folder: RunFolder,
    mirror: Mirror | None,
    address: str | None,
    changes: dict[str, Any] | None = None,
) -> None:
    """Runs or goes on with a search and prints how it ended."""
    from captune.tuner.ray_tune.search import run_search
    from captune.tuner.run.settings import read

    settings, data = read(folder)
    settings = type(settings).model_validate({**settings.model_dump(), **(changes or {})})
    with live() as show_progress:
        summary = run_search(folder, settings, data, address=address, show=show_progress, say=say, mirror=mirror)
    fates = ", ".join(f"{count} {fate}" for fate, count in summary["trials"].items()) or "no trials"
    print(f"{folder}: {fates}; {summary['epochs']} epochs in {summary['wall_seconds']:.0f} s")
    if summary["trained_share"]["all"] is not None:
        others = [kind for kind in summary["busy_seconds"] if kind not in ("train", "evaluate")]
        print(
            f"slots: {summary['trained_share']['all']:.0%} of their time in training and evaluation; "
            + ", ".join(f"{kind} {summary['busy_seconds'][kind]:.0f} s" for kind in others)
        )
    if summary["halving_saved"]["epochs"]:
        print("halving saved {epochs} epochs, about {seconds:.0f} s of a slot".format(**summary["halving_saved"]))
    if summary["best"] is not None:
        print(f"best: trial {summary['best']['number']}, mean F1 {summary['best']['mean_f1']:.4f} on validation")
    if summary["interrupted"]:
        say(f"interrupted; go on with: captune resume {folder}")
        if summary["best"] is None:
            return
    if summary["best"] is None:
        fail("no trial has a score; `captune trials` shows why", status=1)
    print(f"next: captune trials {folder} --sort mean_f1; captune refit {folder}")


def _settle(threads: int | None = None, backend: str | None = None) -> None:
    """Framework settings of this process, for the verbs that run a network themselves."""
    from captune.tuner.training.runtime import settle

    settle(threads or os.cpu_count() or 1, backend)


add_verbs(app)

if __name__ == "__main__":
    main()
