"""PassRunner: records, dumps, progress, and errors that name the pass."""

from dataclasses import dataclass, field

import pytest
import tvm
from tvm import relax

from kompilo.compiler.knobs import Knobs
from kompilo.compiler.passes.base import Pass, PassError, PassRunner, run_passes
from kompilo.compiler.passes.simplify import Simplify

from support import build, f32, ops

MODULE = build([f32(2, 3)], lambda x: relax.op.nn.relu(relax.op.nn.relu(x)))


@dataclass(frozen=True)
class Nothing(Pass):
    name: str = field(default="nothing", init=False)

    def run(self, mod):
        return mod


@dataclass(frozen=True)
class Breaks(Pass):
    name: str = field(default="breaks", init=False)

    def run(self, mod):
        x = relax.Var("x", relax.TensorType((2, 3), "float32"))
        stray = relax.Var("stray", relax.TensorType((2, 3), "float32"))
        return tvm.IRModule({"main": relax.Function([x], relax.SeqExpr([], stray), stray.ty)})


@dataclass(frozen=True)
class Raises(Pass):
    name: str = field(default="raises", init=False)

    def run(self, mod):
        raise KeyError("gone")


def test_records_and_progress():
    seen = []
    mod, records = PassRunner(Knobs()).run(MODULE, [Nothing(), Simplify()], lambda *at: seen.append(at))
    assert ops(mod) == ["nn.relu"]
    assert [(r.name, r.changed) for r in records] == [("nothing", False), ("simplify", True)]
    assert "unchanged" in str(records[0])
    assert "2 bindings" in str(records[1])
    assert seen == [("nothing", 0, 2), ("simplify", 1, 2)]


def test_dumps_are_numbered(tmp_path):
    run_passes(MODULE, [Nothing(), Simplify()], Knobs(dump=tmp_path / "ir"))
    texts = {p.name: p.read_text() for p in (tmp_path / "ir").iterdir()}
    assert sorted(texts) == ["00_input.txt", "01_nothing.txt", "02_simplify.txt"]
    assert texts["01_nothing.txt"] == "unchanged\n"
    assert texts["00_input.txt"].count("relu") == 2
    assert texts["02_simplify.txt"].count("relu") == 1


@pytest.mark.parametrize(
    ("broken", "message"), [(Breaks(), "pass breaks produced ill-formed IR"), (Raises(), "pass raises failed: 'gone'")]
)
def test_errors_name_the_pass(broken, message):
    with pytest.raises(PassError, match=message):
        run_passes(MODULE, [broken], Knobs())


def test_verification_can_be_switched_off():
    assert run_passes(MODULE, [Breaks()], Knobs(verify=False)) is not MODULE
