"""The whole suite, or a part, with a table of what is refused and why:

python tests/onnx/run_suite.py                      all 2033 cases, about fifteen minutes on one core
python tests/onnx/run_suite.py --jobs 2 --page      all, on two cores, and the result goes into docs/conformance.md
python tests/onnx/run_suite.py --read FILE --page   the page from the outcomes that --json wrote
python tests/onnx/run_suite.py --cases 'lstm|gru'   those whose name matches
python tests/onnx/run_suite.py --update             all, and the list of refused cases is written anew
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from conformance import STATES, write_page  # noqa: E402
from suite_cases import KINDS, Case, all_cases  # noqa: E402
from suite_runner import Outcome, read_expected, run_cases, surprises, write_expected  # noqa: E402
from suite_worker import PASS, REFUSED  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default="", help="regular expression that names have to contain")
    parser.add_argument("--part", default="1/1", help="I/N: the I-th of N interleaved parts")
    parser.add_argument("--jobs", type=int, default=1, help="worker processes at once")
    parser.add_argument("--read", type=Path, help="take the outcomes of this file, which --json wrote, and run nothing")
    parser.add_argument(
        "--page", action="store_true", help="write the result of the whole suite to docs/conformance.md"
    )
    parser.add_argument("--update", action="store_true", help="write what is refused to the list of expectations")
    parser.add_argument("--json", type=Path, help="file for all outcomes")
    parser.add_argument("--verbose", action="store_true", help="a line for each case that does not pass")
    options = parser.parse_args()
    if options.page and (options.cases or options.part != "1/1"):
        parser.error("--page needs the whole suite")
    outcomes = []
    for outcome in read(options.read) or run_cases(select(options.cases, options.part), jobs=options.jobs):
        outcomes.append(outcome)
        if outcome.state != PASS and (options.verbose or outcome.state != REFUSED):
            print(f"{outcome.state:8}{outcome.name}: {outcome.detail}", flush=True)
    outcomes.sort(key=lambda o: o.name)
    if options.json:
        options.json.write_text(json.dumps([vars(o) for o in outcomes], indent=1))
    if options.update:
        update(outcomes)
    if options.page:
        write_page(outcomes)
    print(table(outcomes))
    found = surprises(outcomes, read_expected())
    print("\n".join(found))
    return int(bool(found))


def select(pattern: str, part: str) -> list[Case]:
    index, count = (int(number) for number in part.split("/"))
    cases = [case for name, case in all_cases().items() if re.search(pattern, name)]
    return cases[index - 1 :: count]


def read(path: Path | None) -> list[Outcome]:
    """The outcomes in a file, if there is one."""
    return [Outcome(**entry) for entry in json.loads(path.read_text())] if path else []


def update(outcomes: list[Outcome]) -> None:
    """Replace what is expected of the cases that ran."""
    ran = {o.name for o in outcomes}
    kept = {name: reason for name, reason in read_expected().items() if name not in ran}
    write_expected(kept | {o.name: o.reason for o in outcomes if o.state == REFUSED})


def table(outcomes: list[Outcome]) -> str:
    """Counts by kind and state, then refusals by reason."""
    lines = ["| cases | all | " + " | ".join(STATES) + " |", "|---" * (len(STATES) + 2) + "|"]
    for kind in ("node", *KINDS, "all"):
        own = [o for o in outcomes if kind in ("all", o.kind)]
        counts = Counter(o.state for o in own)
        lines.append(f"| {kind} | {len(own)} | " + " | ".join(str(counts[s]) for s in STATES) + " |")
    hosted = [o for o in outcomes if o.on_host]
    operators = Counter(name for o in hosted for name in dict.fromkeys(o.on_host))
    named = ", ".join(f"{name} {count}" for name, count in operators.most_common())
    lines.append(f"\n{len(hosted)} of those that pass have operators on the host: {named or 'none'}")
    lines.append(f"\n{sum(o.seconds for o in outcomes):.0f} s\n\n| refused | cases |\n|---|---:|")
    reasons = Counter(o.reason for o in outcomes if o.state == REFUSED)
    lines += [f"| {reason} | {count} |" for reason, count in reasons.most_common()]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
