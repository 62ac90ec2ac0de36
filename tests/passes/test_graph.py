"""Graph: what survives a sweep, use counts, dead code, and modules it leaves alone."""

import numpy as np
import tvm
from tvm import relax

from kompilo.compiler.passes import tensors
from kompilo.compiler.passes.graph import Graph
from kompilo.compiler.passes.simplify import Simplify

from support import build, check, const, f32, ops, run

op = relax.op


def emit(value):
    return relax.BlockBuilder.current().emit(value)


def diamond(x):
    y = emit(op.exp(x))
    return [op.add(y, emit(op.sqrt(y))), y]


def test_uses_count_outputs_too():
    graph = Graph.of(build([f32(2)], diamond))
    exp, sqrt, add = graph.nodes[:3]
    assert [graph.uses[n.var] for n in (exp, sqrt, add)] == [3, 1, 1]
    assert graph.sole_use(sqrt.var)
    assert not graph.sole_use(exp.var)
    assert not graph.sole_use(graph.params[0])


def test_producers_by_operator():
    graph = Graph.of(build([f32(2)], diamond))
    assert graph.producer(graph.nodes[0].var, "exp") is graph.nodes[0]
    assert graph.producer(graph.nodes[0].var, "sqrt") is None
    assert graph.producer(graph.params[0]) is None
    assert graph.sole_producer(graph.nodes[0].var) is None


def test_a_rule_may_replace_an_output_by_an_input():
    mod = build([f32(2)], op.nn.relu)
    graph = Graph.of(mod)
    assert graph.sweep(lambda _, node: node.args[0] if node.op == "nn.relu" else None)
    x = np.array([-1, 2], "float32")
    np.testing.assert_array_equal(run(graph.to_module(), x)[0], x)


def test_emitted_values_come_before_their_user_and_names_stay():
    graph = Graph.of(build([f32(2)], op.nn.relu))
    name = graph.nodes[0].var.name

    def rule(graph, node):
        return op.maximum(graph.emit(op.negative(node.args[0])), const([0.0])) if node.op == "nn.relu" else None

    graph.apply({"nn.relu": (rule,)})
    mod = graph.to_module()
    relax.analysis.well_formed(mod)
    assert ops(mod) == ["negative", "maximum"]
    assert Graph.of(mod).nodes[1].var.name == name


def test_modules_without_one_dataflow_block_are_left_alone():
    x = relax.Var("x", relax.TensorType((2,), "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        builder.emit_func_output(builder.emit(op.nn.relu(x)))
    assert Graph.of(builder.get()) is None
    assert Graph.of(tvm.IRModule({})) is None


def test_constants_are_views_and_keep_their_type():
    weight = const(np.zeros((64, 64)))
    view = tensors.array(weight)
    assert not view.flags.writeable
    assert view.ctypes.data == tensors.array(weight).ctypes.data
    for dtype in ("int64", "float64", "float16", "bool", "int8"):
        assert tensors.dtype(tensors.constant(np.ones((), dtype))) == dtype
        assert tensors.dtype(tensors.constant(np.ones((2, 0), dtype))) == dtype
    expr, view = tensors.blank((2, 3), "float32")
    view[:] = 7
    np.testing.assert_array_equal(expr.value.numpy(), np.full((2, 3), 7, "float32"))


def test_match_casts_survive():
    n = tvm.tirx.Var("n", "int64")
    m = tvm.tirx.Var("m", "int64")

    def body(x):
        y = relax.BlockBuilder.current().match_cast(emit(op.exp(x)), relax.TensorType((m,), "float32"))
        return op.nn.relu(y)

    assert ops(check(build([f32(n)], body), Simplify(), sizes={"n": 3})) == ["exp", "match_cast", "nn.relu"]
