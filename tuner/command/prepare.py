"""The verbs that make data: prepare, and the demonstration."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated, Literal

import typer

from captune.interrupt import exit_status
from captune.tuner.api.progress import say
from captune.tuner.command.arguments import Location
from captune.tuner.command.console import fail, tell


def demo(out: Annotated[Path, typer.Option(help="folder to make")] = Path("captune-demo")) -> None:
    """The whole path on drawn data, in minutes: prepare, search, table, refit, proof, export, predict."""
    from captune.tuner.command.demo import run_demo

    run_demo(out)


def prepare(
    csv: Annotated[Path, typer.Argument(help="CSV (ImageID,Labels,Caption), or COCO annotations with --format coco")],
    images: Annotated[Path | None, typer.Argument(help="folder of the pictures; leave out for captions alone")] = None,
    out: Annotated[
        Location,
        typer.Option(
            parser=Location,
            metavar="DATA",
            help="folder of the prepared data set, or an address: s3://, gs://, abfss://",
        ),
    ] = ...,  # type: ignore[assignment]
    format: Annotated[Literal["kaggle", "coco"], typer.Option(help="of the input")] = "kaggle",  # noqa: A002
    side: Annotated[int, typer.Option(help="pixels a side that pictures are decoded to, 8 to 1024")] = 224,
    on_bad: Annotated[
        Literal["error", "skip"], typer.Option(help="bad rows: error stops at the first, skip lists them in a file")
    ] = "error",
    split: Annotated[str, typer.Option(help="percent train/validation/test")] = "80/10/10",
    seed: Annotated[int, typer.Option(help="of the split")] = 0,
    stop_words: Annotated[bool, typer.Option("--stop-words/--no-stop-words", help="drop English stop words")] = True,
    stems: Annotated[bool, typer.Option("--stems/--no-stems", help="reduce words to Porter stems")] = True,
    characters: Annotated[
        bool, typer.Option("--characters", help="make tokens of characters in scripts without blanks, e.g. Chinese")
    ] = False,
    max_tokens: Annotated[int, typer.Option(help="tokens of a caption that are kept at most")] = 64,
    vocabulary: Annotated[int, typer.Option(help="words kept at most")] = 20_000,
    min_count: Annotated[int, typer.Option(help="times that a word must stand in the training captions")] = 1,
    labels: Annotated[
        str | None, typer.Option(help="label numbers allowed, e.g. 1-11,13-19; others are errors")
    ] = None,
    names: Annotated[
        Path | None, typer.Option(help="CSV of label numbers and names, as 18,dog; labels may then be names")
    ] = None,
    per_caption: Annotated[bool, typer.Option(help="coco: one example per caption, not per image")] = False,
    categories: Annotated[str | None, typer.Option(help="coco: category ids to keep, e.g. 1-19")] = None,
    group_duplicates: Annotated[
        bool, typer.Option("--group-duplicates", help="keep rows of the same picture or caption in one split")
    ] = False,
    address: Annotated[
        str | None, typer.Option(help="a running Ray cluster whose nodes decode: auto or host:port")
    ] = None,
) -> None:
    """Decodes pictures and captions once into a memory-mapped data set."""
    from captune.tuner.api.datasets import prepare as prepare_data

    try:
        data = prepare_data(
            csv,
            images,
            out=out,
            format=format,
            side=side,
            on_bad=on_bad,
            split=split,
            seed=seed,
            stop_words=stop_words,
            stems=stems,
            characters=characters,
            max_tokens=max_tokens,
            vocabulary=vocabulary,
            min_count=min_count,
            labels=labels,
            names=names,
            per_caption=per_caption,
            categories=categories,
            group_duplicates=group_duplicates,
            address=address,
        )
    except KeyboardInterrupt:
        fail("interrupted; the same command goes on where it was", exit_status(signal.SIGINT))
    rows = data.prepared.manifest.rows_read
    counts = ", ".join(f"{count} {split}" for split, count in data.counts.items())
    tell(f"{out}: {rows - data.skipped} of {rows} rows: {counts}")
    captions = f"{data.captioned} rows, {len(data.prepared) - data.captioned} have none"
    captions = captions if data.prepared.has_captions else "none"
    tell(f"labels: {len(data.labels)} on {len(data.prepared)} rows; captions: {captions}")
    if data.skipped:
        tell(f"{data.skipped} rows skipped, each with its reason in {out}/bad_rows.csv")
    for note in data.notes:
        say(f"note: {note}")
