"""Sessions killed by SIGKILL at random moments: every finished record is kept, and the next session
goes on. Two sessions at once.

KOMPILO_TEST_KILLS sets how many are killed; 50 were for docs/performance.md.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from kompilo.compiler.schedule.op_spec import OpSpec
from kompilo.compiler.tune.record import Point
from kompilo.compiler.tune.store import RecordStore

KILLS = int(os.environ.get("KOMPILO_TEST_KILLS", "4"))
# A kill comes so long after the session's first measurement at most: some ten later.
LONGEST_S = 2.0
# Says how many measurements were finished, as the listener of a session is told of them.
SESSION = """
import sys, kompilo
model, folder, trials = sys.argv[1:]
said = lambda state: print(state.measured, flush=True)
most = int(trials) or None
report = kompilo.tune(model, budget=None, trials=most, records=folder, exhaustive=True, progress=said)
print("ended", report.state.stopped, flush=True)
"""


def model_of_convolutions(path: Path) -> None:
    """One small convolution after the other, all different, and enough of them to outlast the kills."""
    nodes, weights, channels = [], [], [8 * (k % 12 + 1) + 4 * (k // 12) for k in range(KILLS + 2)]
    for k, (before, after) in enumerate(pairwise(channels)):
        weights.append(numpy_helper.from_array(np.full((after, before, 3, 3), 0.01, np.float32), f"w{k}"))
        nodes.append(helper.make_node("Conv", [f"x{k}", f"w{k}"], [f"x{k + 1}"], pads=[1, 1, 1, 1]))
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, depth, 14, 14))
        for name, depth in (("x0", channels[0]), (f"x{len(nodes)}", channels[-1]))
    ]
    graph = helper.make_graph(nodes, "convolutions", ends[:1], ends[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]), path)


def start(model: Path, folder: Path, trials: int = 0) -> subprocess.Popen[str]:
    """A session in a process group of its own, of at most so many measurements; 0: no limit."""
    command = [sys.executable, "-c", SESSION, str(model), str(folder), str(trials)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)


def test_killed_sessions_lose_nothing_that_was_finished(tmp_path: Path) -> None:
    rng = random.Random(0)
    model, folder = tmp_path / "model.onnx", tmp_path / "records"
    model_of_convolutions(model)
    key = ""
    for _ in range(KILLS):
        before = len(RecordStore(folder).read(key)[0]) if key else 0
        session = start(model, folder)
        assert session.stdout is not None
        first = session.stdout.readline()  # it measures now
        time.sleep(rng.uniform(0, LONGEST_S))
        session.send_signal(signal.SIGKILL)
        told = first + session.communicate(timeout=60)[0]
        assert session.returncode == -signal.SIGKILL, "it had come to its end: there was nothing to kill"
        said = [int(line) for line in told.split() if line.isdecimal()]
        assert said
        key = key or next((p.name for p in folder.glob("*")), "")
        found, problems = RecordStore(folder).read(key) if key else ([], [])
        assert len(found) >= before + max(said, default=0)
        assert len(found) <= before + max(said, default=0) + 1  # recorded, and killed before it could say so
        assert len(problems) <= 1
    last = start(model, folder)
    told = last.communicate(timeout=600)[0]
    assert last.returncode == 0
    assert "ended every config was measured" in told
    found, _ = RecordStore(folder).read(next(p.name for p in folder.glob("*")))
    known: set[tuple[OpSpec, Point]] = set()
    for r in found:
        assert (r.op, r.point) not in known, "what an earlier session had measured was measured again"
        if r.measurement.alone:  # what others disturbed may be
            known.add((r.op, r.point))


def test_two_sessions_at_once_lose_nothing(tmp_path: Path) -> None:
    model, folder, trials = tmp_path / "model.onnx", tmp_path / "records", 5
    model_of_convolutions(model)
    sessions = [start(model, folder, trials) for _ in range(2)]
    for session in sessions:
        assert "ended" in session.communicate(timeout=300)[0]
        assert session.returncode == 0
    found, problems = RecordStore(folder).read(next(p.name for p in folder.glob("*")))
    assert len(found) == 2 * trials
    assert not problems
