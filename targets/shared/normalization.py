"""Normalisations with the variance of centred values, where TVM subtracts E[x]^2 from E[x^2] and cancels."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tvm import relax, te, tirx
from tvm.ir import Call


def instance_norm(bb: relax.BlockBuilder, call: Call) -> relax.Expr:
    """(x - mean) / sqrt(variance + epsilon) * gamma + beta over the spatial axes of each channel of each sample."""
    channel = int(call.attrs.channel_axis) % len(call.args[0].ty.shape)
    axes = sorted(int(a) % len(call.args[0].ty.shape) for a in call.attrs.axes)
    epsilon = float(call.attrs.epsilon)

    def compute(x: te.Tensor, gamma: te.Tensor, beta: te.Tensor) -> te.Tensor:
        dtype = x.dtype
        count = tirx.const(1, dtype)
        for a in axes:
            count = count * tirx.Cast(dtype, x.shape[a])
        kept = [a for a in range(len(x.shape)) if a not in axes]

        def reduced(name: str, term: Callable[..., tirx.Expr]) -> te.Tensor:
            loops = [te.reduce_axis((0, x.shape[a]), f"k{a}") for a in axes]

            def body(*outer: tirx.Var) -> tirx.Expr:
                index = _merged(kept, outer, axes, loops)
                return te.sum(term(index, outer), axis=loops)

            return te.compute([x.shape[a] for a in kept], body, name=name)

        total = reduced("instance_sum", lambda index, outer: x(*index))
        mean = te.compute(total.shape, lambda *i: total(*i) / count, name="instance_mean")

        def squared(index: Sequence[tirx.Expr], outer: Sequence[tirx.Expr]) -> tirx.Expr:
            centred = x(*index) - mean(*outer)
            return centred * centred

        squares = reduced("instance_squares", squared)
        scale = te.compute(
            total.shape,
            lambda *i: tirx.const(1, dtype) / te.sqrt(squares(*i) / count + tirx.const(epsilon, dtype)),
            name="instance_scale",
        )

        def normalised(*i: tirx.Var) -> tirx.Expr:
            outer = [i[a] for a in kept]
            return (x(*i) - mean(*outer)) * scale(*outer) * gamma(i[channel]) + beta(i[channel])

        return te.compute(x.shape, normalised, name="instance_norm")

    return bb.call_te(compute, *call.args, primfunc_name_hint="instance_norm")


def _merged(
    kept: Sequence[int], outer: Sequence[tirx.Expr], axes: Sequence[int], inner: Sequence[tirx.Expr]
) -> list[tirx.Expr]:
    """One index per axis, from those that are kept and those that are reduced."""
    at = {**dict(zip(kept, outer, strict=True)), **dict(zip(axes, inner, strict=True))}
    return [at[a] for a in sorted(at)]
