"""Checks and times Kompilo's kernels on this machine's GPU: python3 play.py [--help]. Needs numpy and a driver only.

Correctness first: every candidate of the folder against float64. Then times beside other libraries, if they are there.
Everything is written as it comes (results.jsonl, timed.jsonl), and the tables at the end (results.md).
"""

from __future__ import annotations

import argparse
import collections
import datetime
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import checked  # noqa: E402
import rivals  # noqa: E402
import timed  # noqa: E402
from kompilo_measure.compiler.tune.device import player  # noqa: E402

import models  # noqa: E402

_TIMED, _RULED, _TABLE = "timed.jsonl", "rules.jsonl", "results.md"
_PARTS = ("check", "speed", "models")


def main() -> int:
    """The program: 0 if all is right, 1 if a result is wrong or a kernel fails, 2 if this machine cannot tell."""
    options = _options()
    if options.serve:
        return _serve(options)
    manifest = json.loads((HERE / player.MANIFEST).read_text())
    gpu = player.find_gpu(manifest, options.device)
    parts = options.only.split(",")
    out = options.out
    out.mkdir(parents=True, exist_ok=True)
    lines = [
        f"{gpu['name']}, driver for {gpu['driver']}, Kompilo {manifest['kompilo']}, code for {manifest['arch']}, "
        f"{rivals.versions() or 'no other library'}, {datetime.date.today().isoformat()}.",
        "",
    ]
    bad = 0
    if "check" in parts:
        results = out / "results.jsonl"
        player.main(
            HERE, ["--results", str(results), "--device", str(options.device), "--timeout", str(options.timeout)]
        )
        table, bad = check_table(results)
        lines += table
        answers = _measured("rules", options)
        (out / _RULED).write_text("".join(json.dumps(answer) + "\n" for answer in answers))
        table, wrong = rule_table(_facts()["rules"], answers)
        lines, bad = lines + table, bad + wrong
    if {"speed", "models"} & set(parts):
        found = [answer for part in ("speed", "models") if part in parts for answer in _measured(part, options)]
        (out / _TIMED).write_text("".join(json.dumps(answer) + "\n" for answer in found))
        lines += speed_table(found)
        bad += sum(bool(answer.get("problems")) for answer in found)
    (out / _TABLE).write_text("\n".join(lines) + "\n")
    print("\n" + "\n".join(lines))
    return int(bad > 0)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser("play.py", description="Check and time Kompilo's kernels on this machine's GPU.")
    parser.add_argument("--only", default=",".join(_PARTS), metavar="PARTS", help=f"of {', '.join(_PARTS)}")
    parser.add_argument("--out", type=Path, default=HERE, metavar="DIR", help="where results go (default: this folder)")
    parser.add_argument("--device", type=int, default=0, metavar="N", help="number of the GPU (default 0)")
    parser.add_argument("--timeout", type=float, default=120.0, metavar="S", help="seconds for a candidate or a case")
    parser.add_argument("--rounds", type=int, default=21, metavar="N", help="turns of ours and theirs (default 21)")
    parser.add_argument("--sample", type=float, default=4e-3, metavar="S", help="seconds of a sample (default 0.004)")
    parser.add_argument("--serve", default="", help=argparse.SUPPRESS)
    parser.add_argument("--first", type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args()


def check_table(results: Path) -> tuple[list[str], int]:
    """Of each template how many candidates are right, and the worst error; and how many are not right in all."""
    records = [json.loads(line) for line in results.read_text().splitlines()]
    rows = ["| template | operands | right | of | largest error |", "|---|---|---|---|---|"]
    problems = []
    groups = collections.defaultdict(list)
    for record in records:
        groups[record["template"], record["op"]["inputs"][0][0]].append(record)
        if record["status"] not in ("ok", "pruned"):
            config = ",".join(f"{k}={v}" for k, v in record["config"].items())
            problems.append(f"- {record['template']}({config}): {record['status']}: {record['reason']}")
    for (template, dtype), own in sorted(groups.items()):
        right = [r for r in own if r["status"] == "ok"]
        run = [r for r in own if r["status"] != "pruned"]
        worst = max((r["error"] or 0.0 for r in right), default=0.0)
        rows.append(f"| {template} | {dtype} | {len(right)} | {len(run)} | {worst:.1e} |")
    return [*rows, "", *problems, *([""] if problems else [])], len(problems)


def rule_table(cases: list[dict[str, Any]], answers: list[dict[str, Any]]) -> tuple[list[str], int]:
    """The same of each generic rule, whose operators have one kernel each, or one sequence of them."""
    rows = ["| rule | operands | right | of | largest error |", "|---|---|---|---|---|"]
    problems = [f"- {a['name']}: {problem}" for a in answers for problem in a["problems"]]
    groups = collections.defaultdict(list)
    for case, answer in zip(cases, answers, strict=True):
        groups[case["rule"] or "not built", case["dtype"]].append(answer)
    for (rule, dtype), own in sorted(groups.items()):
        right = [a["error"] for a in own if not a["problems"]]
        rows.append(f"| {rule} | {dtype} | {len(right)} | {len(own)} | {max(right, default=0.0):.1e} |")
    return [*rows, "", *problems, *([""] if problems else [])], len(problems)


def speed_table(answers: list[dict[str, Any]]) -> list[str]:
    """Medians of times in turns, and how many times as fast as the other library Kompilo is."""
    rows = ["| | Kompilo | rate | beside | theirs | ratio | config |", "|---|---|---|---|---|---|---|"]
    problems = []
    for answer in answers:
        problems += [f"- {answer['name']}: {problem}" for problem in answer.get("problems", [])]
        times = answer.get("seconds")
        if not times:
            rows.append(f"| {answer['name']} | not measured | | | | | |")
            continue
        ours = times["ours"]
        rate = ""
        if answer.get("flops"):
            rate = f"{answer['flops'] / ours / 1e12:.1f} TFLOP/s"
        elif answer.get("bytes"):
            rate = f"{answer['bytes'] / ours / 1e9:.0f} GB/s"
        rest = [(name, t) for name, t in times.items() if name != "ours"] or [("", None)]
        for name, theirs in rest:
            told = (f"{theirs * 1e6:.1f} us", f"{theirs / ours:.2f}") if theirs else ("", "")
            config = answer.get("config", answer.get("rule", ""))
            rows.append(
                f"| {answer['name']} | {ours * 1e6:.1f} us | {rate} | {name} | {told[0]} | {told[1]} | {config} |"
            )
    return [*rows, "", *problems]


def _measured(part: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """What the process that measures answers; where it ends or hangs, the next one goes on behind that case."""
    facts = _facts()
    cases = {
        "rules": facts["rules"],
        "speed": [*facts["timed"], *facts["memory"]],
        "models": [{"name": name} for name in models.names(HERE)],
    }[part]
    found: list[dict[str, Any]] = []
    while len(found) < len(cases):
        number = len(found)
        command = [sys.executable, str(HERE / "play.py"), "--serve", part, "--first", str(number)]
        command += ["--rounds", str(options.rounds), "--sample", str(options.sample)]
        child = subprocess.Popen(
            [*command, "--device", str(options.device)], stdout=subprocess.PIPE, start_new_session=True
        )
        why = _listen(child, found, 10 * options.timeout if part == "models" else options.timeout)
        if len(found) < len(cases):
            found.append({"name": cases[len(found)]["name"], "problems": [why or "the process that measures ended."]})
    for answer in found:
        if "number" in answer:
            answer["flops"] = cases[answer["number"]].get("flops")
    return found


def _facts() -> dict[str, Any]:
    """What the folder has besides candidates to check."""
    return dict(json.loads((HERE / "gpu_check.json").read_text()))


def _listen(child: subprocess.Popen[bytes], found: list[dict[str, Any]], seconds: float) -> str:
    """Add the lines of the process to `found`; why it ended early, or nothing."""
    assert child.stdout is not None
    rest, until = b"", time.monotonic() + seconds
    while True:
        left = until - time.monotonic()
        if left <= 0 or not select.select([child.stdout], [], [], left)[0]:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            return f"no end after {seconds:g} s."
        data = os.read(child.stdout.fileno(), 1 << 16)
        if not data:
            status = child.wait()
            return (
                "" if not status else f"the process ended with {'signal' if status < 0 else 'exit code'} {abs(status)}."
            )
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            found.append(json.loads(line))
            _tell(found[-1])
            until = time.monotonic() + seconds


def _tell(answer: dict[str, Any]) -> None:
    said = answer.get("seconds") or answer.get("problems") or f"error {answer.get('error', 0.0):.1e}"
    print(f"{answer['name']}: {said}", flush=True)


def _serve(options: argparse.Namespace) -> int:
    """Measure, with the answers on what was standard output: whatever libraries print does not mix with them."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(line: str) -> None:
        print(line, file=replies, flush=True)

    if options.serve == "rules":
        checked.serve(HERE, options.device, options.first, say)
    elif options.serve == "models":
        kind = json.loads((HERE / player.MANIFEST).read_text())["kind"]
        models.serve(HERE, kind, options.device, options.first, say)
    else:
        timed.serve(HERE, options.device, options.first, options.rounds, options.sample, say)
    return 0


if __name__ == "__main__":
    sys.exit(main())
