"""`kompilo records`: look at tuning records, share them, and clear them up."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import UsageError
from ..number_words import count, size_text, time_text
from . import console
from .arguments import a_folder
from .options import AsJson, MoreRecords

if TYPE_CHECKING:
    from ..schedule.op_spec import OpSpec
    from ..tune.evidence import Known
    from ..tune.library import RecordLibrary
    from ..tune.record_file import Problem
    from ..tune.store import RecordStore

app = typer.Typer(help="List, show, merge, prune, export or import tuning records.", no_args_is_help=True)

_SHOWN_PROBLEMS = 10

Folder = Annotated[
    Path | None,
    typer.Option("--records", metavar="DIR", parser=a_folder, help="Work on this folder of records instead of yours."),
]
Wanted = Annotated[
    str | None, typer.Option("--target", "-t", help="A target, or the key of one (see kompilo targets).")
]


@app.command("list")
def list_records(records: MoreRecords = None, target: Wanted = None, as_json: AsJson = False) -> None:
    """List all files of records: yours, those installed with Kompilo, and of the folders named."""
    library = _library(records)
    key = _key(target, library.stores)
    facts, problems = [], []
    for store in library.stores:
        for name in store.targets():
            if key in (None, name):
                for file in store.indexed(name):
                    found = file.all()
                    problems += file.problems
                    facts.append(
                        {
                            "place": store.label,
                            "target": name,
                            "file": str(file.path),
                            "records": len(found),
                            "failed": sum(not r.measurement.ok for r in found),
                            "operators": len({r.op for r in found}),
                            "newest": max((r.created for r in found), default=""),
                            "unreadable": len(file.problems),
                        }
                    )
    places = [{"place": s.label, "folder": str(s.folder)} for s in library.stores]
    if as_json:
        console.print_json({"places": places, "files": facts, "problems": [str(p) for p in problems]})
        return
    columns = ("place", "target", "file", ">records", ">failed", ">operators", "newest", ">unreadable")
    rows = [[*f.values()] for f in facts]
    for row in rows:
        row[2] = Path(str(row[2])).name
    console.print_table("Records", columns, rows)
    for place in places:
        console.say(f"{place['place']}: {place['folder']}")
    _print_problems(problems)


@app.command("show")
def show(
    text: Annotated[
        str,
        typer.Argument(
            metavar="TEXT",
            help="Only operators whose text, or words in a session, contain this.",
        ),
    ] = "",
    records: MoreRecords = None,
    target: Wanted = "cpu",
    as_json: AsJson = False,
) -> None:
    """Show the best known config of each operator; of a single operator, all that was tried."""
    from ..tune.upkeep import holds_now

    library = _library(records)
    key = _key(target, library.stores) or ""
    every = {str(r.op): r.op for store in library.stores for r in store.read(key)[0]}
    ops = {name: op for name, op in every.items() if text in name or text in _words(op)}
    holds = holds_now(key)
    known = {name: list(library.known(op, key, holds).values()) for name, op in ops.items()}
    known = {name: points for name, points in known.items() if points}
    if as_json:
        facts = [{"operator": n, "points": [_point_facts(k) for k in _sorted(points)]} for n, points in known.items()]
        console.print_json({"target": key, "operators": facts})
    elif not known:
        console.say(f"no records of {key}" + (f" with {text!r}" if text else "") + " that hold today")
    elif len(known) == 1:
        _print_points(*next(iter(known.items())))
    else:
        _print_operators(key, known)


@app.command("merge")
def merge(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Folders of records.", show_default=False)],
    records: Folder = None,
    as_json: AsJson = False,
) -> None:
    """Copy the records of other folders into yours; what is there already is not copied again."""
    for folder in folders:
        if not folder.is_dir():
            raise UsageError(f"expected a folder of records, found {str(folder)!r}.", "kompilo records import FILE")
    _take_over(folders, records, as_json)


@app.command("import")
def import_records(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Files that export wrote.", show_default=False)
    ],
    records: Folder = None,
    as_json: AsJson = False,
) -> None:
    """Add the records of exported files to yours."""
    for file in files:
        if file.is_dir():
            raise UsageError(
                f"expected a file of records, found the folder {str(file)!r}.", "kompilo records merge DIR"
            )
    _take_over(files, records, as_json)


@app.command("export")
def export(
    output: Annotated[
        Path, typer.Argument(metavar="FILE", help="FILE.jsonl, or FILE.jsonl.gz to pack it.", show_default=False)
    ],
    records: Folder = None,
    target: Wanted = None,
    as_json: AsJson = False,
) -> None:
    """Write your records as one file, to be imported elsewhere."""
    from ..tune.upkeep import write_out
    from .outputs import check_output

    if not output.name.endswith((".jsonl", ".jsonl.gz")):
        raise UsageError(f"expected a file name ending in .jsonl or .jsonl.gz, found {output.name!r}.")
    check_output(output)
    store, keys = _store_and_keys(records, target)
    written = write_out(store, keys, output)
    facts = {"output": str(output), "bytes": output.stat().st_size, "records": written, "targets": keys}
    size = size_text(output.stat().st_size)
    _print(facts, f"{output}: {count(written, 'record')} of {', '.join(keys)}, {size}", as_json)


@app.command("prune")
def prune(
    records: Folder = None,
    target: Wanted = None,
    failed: Annotated[
        bool, typer.Option("--failed", help="Forget failures too, so that they are tried again.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be dropped.")] = False,
    as_json: AsJson = False,
) -> None:
    """Drop records that say nothing any more: broken, repeated, superseded, or of templates that have changed."""
    from ..tune import upkeep

    store, keys = _store_and_keys(records, target)
    facts = []
    for key in keys:
        pruned = upkeep.prune(store, key, upkeep.holds_now(key), failed, dry_run)
        facts.append({"target": key, "kept": pruned.kept, "dropped": dict(pruned.dropped), "packed": pruned.packed})
        if not as_json:
            reasons = ", ".join(f"{number} {reason}" for reason, number in pruned.dropped.most_common())
            packed = f"; {pruned.packed} packed files left as they are" if pruned.packed else ""
            verb = "would be dropped" if dry_run else "dropped"
            total = pruned.dropped.total()
            console.say(f"{key}: {pruned.kept} kept, {total} {verb}" + (f" ({reasons})" if total else "") + packed)
    if as_json:
        console.print_json(facts)


def _take_over(sources: Sequence[Path], records: Path | None, as_json: bool) -> None:
    from ..tune.upkeep import take_over

    store = _store(records)
    taken = take_over(store, sources)
    facts = {"added": taken.added, "present": taken.present, "problems": [str(p) for p in taken.problems]}
    _print(facts, f"{store.folder}: {count(taken.added, 'record')} added, {taken.present} there already", as_json)
    if not as_json:
        _print_problems(taken.problems)


def _store(records: Path | None) -> RecordStore:
    """The folder to work on; it need not exist."""
    from ..tune.store import RecordStore, user_store

    if records is not None and records.exists() and not records.is_dir():
        raise UsageError(f"records: {str(records)!r} is not a folder.")
    return RecordStore(records) if records is not None else user_store()


def _store_and_keys(records: Path | None, target: str | None) -> tuple[RecordStore, list[str]]:
    """The folder to work on and its targets, or the one wanted; UsageError if there are no records of it."""
    store = _store(records)
    key = _key(target, [store])
    keys = [k for k in store.targets() if key in (None, k)]
    if not keys:
        raise UsageError(f"there are no records{f' of {key}' if key else ''} in {str(store.folder)!r}.")
    return store, keys


def _library(records: Sequence[Path] | None) -> RecordLibrary:
    from ..tune.library import RecordLibrary

    return RecordLibrary.of(list(records or ()))


def _key(target: str | None, stores: Iterable[RecordStore]) -> str | None:
    """The key that `target` names: a target as kompilo targets lists them, or a key that `stores` have records of."""
    from ..schedule.target import available, find_target

    if target is None:
        return None
    if target.partition(":")[0] in available():
        return find_target(target).spec.key
    keys = sorted({key for store in stores for key in store.targets()})
    if target not in keys:
        there = f" (there are records of {', '.join(keys)})" if keys else ""
        raise UsageError(f"expected a target, or the key of one with records{there}, found {target!r}.")
    return target


def _words(op: OpSpec) -> str:
    """What a session calls the operator; nothing for what no compilation makes."""
    from ..schedule.op_words import op_words
    from ..tune.offered import NONSENSE

    try:
        return op_words(op)
    except NONSENSE:
        return ""


def _sorted(points: Sequence[Known]) -> list[Known]:
    return sorted(points, key=lambda k: (k.seconds is None, not k.measurement.alone, k.seconds or 0.0))


def _point_facts(known: Known) -> dict[str, Any]:
    m = known.record.measurement
    return {
        "template": known.point.template,
        "version": known.point.version,
        "config": dict(known.point.config.knobs),
        "status": m.status,
        "reason": m.reason,
        "seconds": known.seconds,
        "spread": m.spread,
        "cache": m.cache,
        "created": known.record.created,
        "file": known.file,
    }


def _print_operators(key: str, known: dict[str, list[Known]]) -> None:
    from ..tune.evidence import best_of

    rows = []
    for name, points in known.items():
        best = best_of(points)
        failed = sum(k.seconds is None for k in points)
        row = [name, len(points), failed or ""]
        rows.append(row + (_best_cells(best) if best else ["all failed", "", "", ""]))
    columns = ("operator", ">tried", ">failed", "best", ">time", "date", "place")
    console.print_table(f"Operators of {key} with records", columns, rows, fold=("operator", "best"))


def _best_cells(best: Known) -> list[object]:
    text = f"{best.point.template} {best.point.config}"
    return [text, time_text(best.seconds or 0.0), best.record.created[:10], best.file.partition(":")[0]]


def _print_points(name: str, points: Sequence[Known]) -> None:
    from ..schedule.flops import flops
    from ..tune.offered import NONSENSE

    work = None
    with suppress(*NONSENSE):
        work = flops(points[0].record.op)
    rows = []
    for known in _sorted(points):
        m, seconds = known.record.measurement, known.seconds
        time = time_text(seconds) if seconds else m.status.replace("_", " ")
        rate = f"{work / seconds / 1e9:.1f}" if work and seconds else ""
        spread = f"{m.spread:.1%}" if m.spread is not None else ""
        row = (known.point.template, known.point.config, time, rate, spread, known.record.created[:10], m.reason)
        rows.append((*row, known.file))
    columns = ("template", "config", ">time", ">GFLOP/s", ">spread", "date", "reason", "file")
    console.say(name)
    console.print_table("Tried", columns, rows, fold=("config", "reason", "file"))


def _print(facts: dict[str, Any], text: str, as_json: bool) -> None:
    console.print_json(facts) if as_json else console.say(text)


def _print_problems(problems: Sequence[Problem]) -> None:
    for problem in problems[:_SHOWN_PROBLEMS]:
        console.note(f"not readable: {problem}")
    if len(problems) > _SHOWN_PROBLEMS:
        console.note(f"and {len(problems) - _SHOWN_PROBLEMS} more")
