"""The verbs of trials that are trained again: replay, refit, ablate, export."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from captune.cluster.object_storage.addresses import is_url
from captune.interrupt import exit_status
from captune.tuner.api.progress import say
from captune.tuner.command.arguments import Address, AsJson, RunPath, StorageOption
from captune.tuner.command.cluster import follow_job, is_server, send
from captune.tuner.command.console import fail, print_json, tell, tell_baselines, tell_lines, terminal_width
from captune.tuner.winner.formats.declarations import Kind

if TYPE_CHECKING:
    from captune.model.config import Metric
    from captune.tuner.api.runs import Run


def replay(
    run: RunPath,
    trial: Annotated[int | None, typer.Argument(help="its number")] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="the whole search: each trial again, each decision in the order of the record")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="also where data or versions are not the same")] = False,
    as_json: AsJson = False,
) -> None:
    """Trains a trial again as it was, and compares epoch by epoch. On the same machine's CPU nothing differs."""
    from captune.results.trial_page import without_nan
    from captune.tuner.api.runs import Run

    if everything == (trial is not None):
        fail("give the number of a trial, or --all")
    if (altered := Run(run).altered) is not None:
        say(f"note: {altered}")
    if trial is None:
        _replay_search(Run(run), force, as_json)
        return
    replayed = Run(run).replay(trial, force=force)
    fields = ("epoch", "old", "new", "difference")
    rows = [{name: getattr(epoch, name) for name in fields} for epoch in replayed.epochs]
    if as_json:
        largest, differences = replayed.largest_difference, list(replayed.differences)
        print_json(
            without_nan({"trial": trial, "epochs": rows, "largest_difference": largest, "differences": differences})
        )
        return
    for row in rows:
        tell("epoch {epoch}: mean F1 {old:.6f}, again {new:.6f}, difference {difference:.1e}".format(**row))
    tell(f"largest difference {replayed.largest_difference:.1e}")


def _replay_search(run: Run, force: bool, as_json: bool) -> None:
    from dataclasses import asdict

    replayed = run.replay_search(force=force)
    if as_json:
        print_json(asdict(replayed))
        return
    for difference in replayed.differences:
        tell(difference)
    same = "" if replayed.differences else "; proposals, stops, scores and the best are the same to the last bit"
    tell(f"{replayed.trials} trials, {replayed.epochs} epochs again: {len(replayed.differences)} differences{same}")


def _count(text: str) -> int | str:
    if text == "auto" or text.isdecimal():
        return text if text == "auto" else int(text)
    raise typer.BadParameter(f"a number of networks or auto, got {text}")


def refit(
    context: typer.Context,
    run: RunPath,
    trial: Annotated[int | None, typer.Option(help="refit this one instead of the best")] = None,
    seeds: Annotated[int, typer.Option(help="repeat with further seeds, to see how far the score moves")] = 1,
    average: Annotated[
        Any,
        typer.Option(parser=_count, metavar="K|auto", help="networks that are averaged; auto: where it clearly gains"),
    ] = "1",
    confirm: Annotated[
        str | None, typer.Option(metavar="TIME", help="for training the best trials again with other seeds, as 5m")
    ] = None,
    address: Address = None,
    gpus: Annotated[int | None, typer.Option(help="that share each batch between them, all of one node")] = None,
    cpus: Annotated[float | None, typer.Option(help="of a cluster's node; also the threads")] = None,
    anyway: Annotated[bool, typer.Option("--anyway", help="also while the run is searched: test is read once")] = False,
) -> None:
    """Trains the winner on train + validation, proves it on test, writes RUN/winner."""
    from captune.model.config import TITLES
    from captune.tuner.api.runs import Run

    if is_server(address):
        follow_job(address, send(address, sys.argv[1:], context.parent))
        return
    refitted = Run(run)
    try:
        proof = refitted.refit(
            trial=trial,
            seeds=seeds,
            average=average,
            confirm=confirm or 0,
            address=address,
            gpus=gpus,
            cpus=cpus,
            anyway=anyway,
        ).proof
    except KeyboardInterrupt:
        winner = Path(run) / "winner"
        left = "no winner was written, and the same command trains it anew"
        if is_url(run):
            left = f"where {run}/winner is there it is whole and proved; else the same command trains it anew"
        elif winner.exists():
            left = f"{winner} is whole and proved, but its page, card or files for other languages may be missing"
        fail(f"interrupted; {left}", exit_status(signal.SIGINT))
    test = proof.test
    trials = [member.trial for member in proof.members]
    what = f"average of trials {' and '.join(map(str, trials))}" if trials else f"trial {proof.trial}"
    tell_lines(f"{what}, {proof.epochs} epochs{' in all' if trials else ''} on train + validation")
    chosen = (
        "" if proof.metric == "mean_f1" else f", {TITLES[proof.metric]} {proof.search.score:.4f}, which was maximised,"
    )
    tell_lines(f"search    mean F1 {proof.search.mean_f1:.4f}{chosen} on {proof.search.examples} validation examples")
    interval = f"95 % {test.low:.4f} to {test.high:.4f}"
    tell_lines(f"test      mean F1 {test.mean_f1:.4f} ({interval}), {test.examples} examples")
    if proof.confirmed is not None:
        tell_lines(f"          {proof.confirmed}")
    tell_lines(
        f"          micro F1 {test.micro_f1:.4f}, macro F1 {test.macro_f1:.4f}, mAP {test.map:.4f}, ECE {test.ece:.4f}"
    )
    if len(proof.seeds) > 1:
        tell_lines(f"seeds     mean F1 {', '.join(f'{score:.4f}' for score in proof.seeds)}")
    tell_lines(
        f"reloaded  mean F1 {proof.reloaded.mean_f1:.4f}, "
        f"largest difference of a probability {proof.reloaded.max_difference:.1e}"
    )
    if proof.storage != "float32":
        tell_lines(f"float32   mean F1 {proof.float32.mean_f1:.4f}, before the weights became {proof.storage}")
    tell_lines(f"bundle    {proof.bundle_bytes / 2**20:.2f} MiB in {run}/winner/bundle")
    if (latency := proof.latency) is not None:
        tell_lines(
            f"latency   {latency.milliseconds:.3g} ms a row of {latency.limit:g} allowed, as {latency.format} on one "
            f"thread; {latency.prediction}"
        )
    tell_baselines(refitted.baselines, "test", getattr(test, proof.metric), proof.metric)
    if proof.gain is not None:
        tell_lines(f"gain      {proof.gain}")
    if not proof.bundle_fits:
        say(f"note: the weights keep the budget, the bundle with its vocabulary does not: {proof.bundle_bytes} bytes")


def ablate(
    run: RunPath,
    without: Annotated[
        list[str] | None,
        typer.Option(
            help="captions, pictures, augmentation, alignment, teacher, image.weights, text.weights, text.wide, "
            "image.head, fusion; all if not given"
        ),
    ] = None,
    trial: Annotated[int | None, typer.Option(help="take this one apart instead of the best")] = None,
    seeds: Annotated[int, typer.Option(help="trainings of each variant, whose scores are averaged")] = 1,
    as_json: AsJson = False,
) -> None:
    """Trains the winner without captions, without pictures, without each of its parts, and scores it on validation."""
    from captune.model.config import TITLES
    from captune.tuner.api.runs import Run

    try:
        frame = Run(run).ablate(without=without or (), trial=trial, seeds=seeds)
    except KeyboardInterrupt:
        fail("interrupted; the same command goes on with what is not trained yet", exit_status(signal.SIGINT))
    if as_json:
        print_json(frame.to_dict("records"))
        return
    title = TITLES[cast("Metric", frame.columns[1])]
    longest, wide = max(map(len, frame["without"])), max(7, len(title))
    lines = [(f"{'without':{longest}}  {title:{wide}}  {'difference (95 % in pairs)':28}", "    MiB", "  seconds")]
    row: Any
    for row in frame.itertuples():
        difference = f"{row.difference:+.4f} ({row.low:+.4f} to {row.high:+.4f})" if row.without != "nothing" else ""
        score = f"{row.without:{longest}}  {row[2]:{wide}.4f}  {difference:28}"
        lines.append((score, f" {row.weights_bytes / 2**20:6.2f}", f"  {row.seconds:7.0f}"))
    width = terminal_width() or 1000
    shown = sum(sum(map(len, lines[0][:place])) <= width for place in (1, 2, 3))  # else the last columns stay out
    for line in lines:
        tell("".join(line[:shown]).rstrip())
    for row in frame.itertuples():
        if row.note:
            say(f"note: without {row.without}: {row.note}")


def export(
    run: RunPath,
    to: Annotated[Path, typer.Option(help="what to write; must not exist yet")] = ...,  # type: ignore[assignment]
    format: Annotated[Kind, typer.Option(help="bundle and savedmodel are folders, the others files")] = "bundle",  # noqa: A002
    storage: StorageOption = None,
) -> None:
    """Copies the proved winner, loads the copy in a fresh process, and compares what it answers."""
    from captune.model.size import show_bytes
    from captune.tuner.api.winners import Winner

    done = Winner(run).export(to, format=format, storage=storage)
    tell(f"{done.path}: {show_bytes(done.bytes)}, weights as {done.storage}")
    tell(f"test probabilities within {done.max_difference:.1e} of the winner's")
    for rows, milliseconds in done.milliseconds.items():
        tell(f"{milliseconds:.3g} ms for {rows} {'row' if rows == 1 else 'rows'}, the median of a fresh process")
    tell(f"test mean F1 {done.winner_mean_f1:.4f} of the winner, {done.mean_f1:.4f} of the export")
    tell(f"for other languages: {done.path}.portable, see FORMAT.md in it")
