"""`kompilo.compile`: what it refuses before any work."""

import pytest

import kompilo
from kompilo.compiler.errors import UsageError


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ([], "expected at least one target, found an empty list"),
        (3, "expected a name or a list of names, found 3"),
        (["cpu", None], "expected a name or a list of names"),
        (["cpu:avx2", "cpu:avx2"], "expected each target once, found 'cpu:avx2' and 'cpu:avx2'"),
    ],
)
def test_targets_that_do_not_fit(target, says):
    with pytest.raises(UsageError, match=says):
        kompilo.compile("nothere.onnx", target=target)


@pytest.mark.parametrize("precision", ["fp12", None, ["fp32"]])
def test_unknown_precisions(precision):
    with pytest.raises(UsageError, match="precision: expected one of fp32, tf32, fp16, int8, found"):
        kompilo.compile("nothere.onnx", precision=precision)


@pytest.mark.parametrize(
    ("target", "precision", "says"),
    [
        ("cpu:znver4", "fp16", "target 'cpu:znver4' computes in fp32 or int8, found 'fp16'"),
        ("cuda:sm_75", "tf32", "target 'cuda:sm_75' computes in fp32 or fp16, found 'tf32'"),
        (["cuda:sm_80", "rocm:gfx942"], "tf32", "target 'rocm:gfx942' computes in fp32 or fp16, found 'tf32'"),
    ],
)
def test_precisions_that_a_target_does_not_have(target, precision, says):
    with pytest.raises(UsageError, match=says):
        kompilo.compile("nothere.onnx", target=target, precision=precision)
