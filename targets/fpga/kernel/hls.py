"""HLS C++ of a kernel, in the dialect of Vitis HLS: a function per nest, a top function that copies arrays in and out.

The pragmas ask for what the schedule found: PIPELINE with its II, ARRAY_PARTITION and BIND_STORAGE as the arrays
say, DEPENDENCE with the distance of interleaved accumulation, DATAFLOW and STREAM where nests run at once. Whether
Vitis reaches that II is for Vitis to say. Numbers are ap_int and ap_uint, float, and half.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from .affine import Affine
from .ir import (
    Accumulate,
    Array,
    Const,
    Expr,
    Kernel,
    Let,
    Load,
    Lookup,
    Loop,
    Nest,
    Pop,
    Position,
    Push,
    Reduce,
    Ref,
    Stack,
    Statement,
    Stream,
)
from .model import Estimate, estimate
from .ops import OPS, SHIFTS
from .types import BOOL, Scalar
from .validate import interleave

PRELUDE = """\
#ifndef KOMPILO_KERNEL_H
#define KOMPILO_KERNEL_H
#include "ap_int.h"
#include "hls_stream.h"
#ifdef __SYNTHESIS__
#include "hls_half.h"
typedef half kp_half;
#else
typedef _Float16 kp_half;
#endif
inline int kp_float_bits(float a) { union { float f; int i; } u; u.f = a; return u.i; }
inline float kp_bits_float(int a) { union { float f; int i; } u; u.i = a; return u.f; }
template <class T, int N> struct kp_token { T v[N]; };
template <class T, class A, class B> T kp_max(A a, B b) { return a > b ? T(a) : T(b); }
template <class T, class A, class B> T kp_min(A a, B b) { return a < b ? T(a) : T(b); }
struct kp_op_add { template <class T> static T of(T a, T b) { return T(a + b); } };
struct kp_op_max { template <class T> static T of(T a, T b) { return a > b ? a : b; } };
struct kp_op_min { template <class T> static T of(T a, T b) { return a < b ? a : b; } };
// A balanced tree over neighbours: the order of additions is the hardware's, also for floats.
template <class OP, class T, int N> struct kp_tree {
  static T of(const T *x) {
#pragma HLS INLINE
    T y[(N + 1) / 2];
#pragma HLS ARRAY_PARTITION variable=y complete dim=0
    for (int k = 0; k < N / 2; k++) {
#pragma HLS UNROLL
      y[k] = OP::of(x[2 * k], x[2 * k + 1]);
    }
    if (N % 2) y[N / 2] = x[N - 1];
    return kp_tree<OP, T, (N + 1) / 2>::of(y);
  }
};
template <class OP, class T> struct kp_tree<OP, T, 1> { static T of(const T *x) { return x[0]; } };
#endif
"""

_FLOATS = {16: "kp_half", 32: "float"}
_STORAGE = {"lutram": "lutram", "bram": "bram", "uram": "uram"}


def cpp_type(dtype: Scalar) -> str:
    """The C++ name of a type."""
    if dtype.is_float:
        return _FLOATS[dtype.bits]
    return "bool" if dtype == BOOL else f"ap_{dtype.kind}<{dtype.bits}>"


def element_type(dtype: Scalar) -> str:
    """The C++ type of an element of an array: no array of bool, which std::vector packs."""
    return "ap_uint<1>" if dtype == BOOL else cpp_type(dtype)


def storage(array: Array) -> str:
    """The C++ type of an element as numpy has it, in memory and in files."""
    return cpp_type(array.dtype) if array.dtype.is_float else f"{array.dtype.numpy()}_t"


def token_type(stream: Stream) -> str:
    """The C++ type of a token."""
    return f"kp_token<{cpp_type(stream.dtype)}, {math.prod(stream.shape)}>"


def declaration(kernel: Kernel, name: str | None = None) -> str:
    """The top function's signature."""
    ports = [f"const {element_type(a.dtype)} *{a.name}" for a in kernel.role("in")]
    ports += [f"{element_type(a.dtype)} *{a.name}" for a in kernel.role("out")]
    return f'extern "C" void {name or kernel.name}({", ".join(ports)})'


def emit_hls(kernel: Kernel, name: str | None = None) -> str:
    """The C++ of a valid kernel without the prelude, its top function called `name` (default: the kernel's)."""
    top, made = name or kernel.name, estimate(kernel)
    nests = [_NestCpp(top, made, k).text() for k in range(len(kernel.nests))]
    return "\n".join([*nests, _top(kernel, top)])


def _dims(shape: Iterable[int | str]) -> str:
    return "".join(f"[{n}]" for n in shape)


def _shared(kernel: Kernel) -> list[Array]:
    """The arrays that live in the top function: all but accumulators."""
    used = {a for nest in kernel.nests for a in nest.arrays()}
    return [a for a in kernel.arrays if a in used or a.role != "local"]


def _partition(a: Array) -> list[str]:
    if a.memory == "register":
        return [f"#pragma HLS ARRAY_PARTITION variable={a.name}_buf complete dim=0"]
    lines = [f"#pragma HLS BIND_STORAGE variable={a.name}_buf type=ram_s2p impl={_STORAGE[a.memory]}"]
    for d, f in enumerate(a.factors):
        if f > 1:
            lines.append(f"#pragma HLS ARRAY_PARTITION variable={a.name}_buf cyclic factor={f} dim={d + 1}")
    return lines


def _copy(a: Array) -> list[str]:
    """Loops between global memory and the buffer of an array, a word a cycle."""
    indices = [f"i{d}" for d in range(len(a.shape))]
    element = f"{a.name}_buf" + "".join(f"[{i}]" for i in indices)
    flat = indices[0]
    for i, n in zip(indices[1:], a.shape[1:], strict=True):
        flat = f"({flat}) * {n} + {i}"
    move = f"{element} = {a.name}[{flat}];" if a.role == "in" else f"{a.name}[{flat}] = {element};"
    lines = [f"for (int {i} = 0; {i} < {n}; {i}++) {{" for i, n in zip(indices, a.shape, strict=True)]
    return [*lines, "#pragma HLS PIPELINE II=1", move, "}" * len(indices)]


def _top(kernel: Kernel, top: str) -> str:
    lines = [declaration(kernel, top) + " {"]
    for a in (*kernel.role("in"), *kernel.role("out")):
        depth = math.prod(a.shape)
        lines.append(f"#pragma HLS INTERFACE m_axi port={a.name} offset=slave bundle=gmem_{a.name} depth={depth}")
    lines.append("#pragma HLS INTERFACE s_axilite port=return")
    for a in _shared(kernel):
        lines += [f"static {element_type(a.dtype)} {a.name}_buf{_dims(a.shape)};", *_partition(a)]
    for a in kernel.role("in"):
        lines += _copy(a)
    if kernel.dataflow:
        arguments = ", ".join(f"{a.name}_buf" for a in _shared(kernel))
        lines.append(f"{top}_dataflow({arguments});")
    else:
        lines += [_call(kernel, top, nest, "_buf") for nest in kernel.nests]
    for a in kernel.role("out"):
        lines += _copy(a)
    text = "\n".join([*lines, "}", ""])
    return _dataflow(kernel, top) + text if kernel.dataflow else text


def _dataflow(kernel: Kernel, top: str) -> str:
    ports = ", ".join(f"{element_type(a.dtype)} {a.name}{_dims(a.shape)}" for a in _shared(kernel))
    lines = [f"static void {top}_dataflow({ports}) {{", "#pragma HLS DATAFLOW"]
    for s in kernel.streams:
        lines += [f"hls::stream<{token_type(s)}> {s.name};", f"#pragma HLS STREAM variable={s.name} depth={s.depth}"]
    lines += [_call(kernel, top, nest, "") for nest in kernel.nests]
    return "\n".join([*lines, "}", ""])


def _nest_streams(nest: Nest) -> list[Stream]:
    return [*nest.streams(Pop), *nest.streams(Push)]


def _call(kernel: Kernel, top: str, nest: Nest, suffix: str) -> str:
    arguments = [f"{a.name}{suffix}" for a in nest.arrays()] + [s.name for s in _nest_streams(nest)]
    return f"{top}_{nest.name}({', '.join(arguments)});"


def index_text(index: Affine) -> str:
    """An affine index in C++."""
    return str(index)


class _NestCpp:
    def __init__(self, top: str, made: Estimate, number: int):
        self.top, self.schedule = top, made.schedules[number]
        self.nest = made.kernel.nests[number]
        self.lines: list[str] = []
        self.temporaries = 0

    def text(self) -> str:
        nest = self.nest
        ports = [f"{element_type(a.dtype)} {a.name}{_dims(a.shape)}" for a in nest.arrays()]
        ports += [f"hls::stream<{token_type(s)}> &{s.name}" for s in _nest_streams(nest)]
        self.lines = [f"static void {self.top}_{nest.name}({', '.join(ports)}) {{"]
        accumulators = [s for s in nest.body if isinstance(s, Accumulate)]
        for s in accumulators:
            self.lines += [f"{cpp_type(s.array.dtype)} {s.array.name}{_dims(s.array.shape)};"]
            self.lines.append(f"#pragma HLS ARRAY_PARTITION variable={s.array.name} complete dim=0")
        for loop in nest.loops:
            self.lines.append(f"for (int {loop.var} = 0; {loop.var} < {loop.extent}; {loop.var}++) {{")
        self.lines.append(f"#pragma HLS PIPELINE II={self.schedule.ii}")
        for s in accumulators:
            distance = interleave(nest, s)
            words = f"variable={s.array.name} type=inter direction=RAW distance={distance} dependent=true"
            self.lines += [f"#pragma HLS DEPENDENCE {words}"] if distance > 1 else []
        for statement in nest.body:
            self._statement(statement)
        return "\n".join([*self.lines, "}" * len(nest.loops), "}", ""])

    def _statement(self, s: Statement) -> None:
        if isinstance(s, Pop):
            self._pop(s)
            return
        if isinstance(s, Stack):
            self._stack(s)
            return
        if isinstance(s, (Let, Accumulate)):
            dtype = s.value.dtype if isinstance(s, Let) else s.array.dtype
            self._local(s.name, cpp_type(dtype), [lane.extent for lane in s.lanes])
        if isinstance(s, Push):
            self.lines.append(f"{token_type(s.stream)} {s.stream.name}_token;")
        self._open(s.lanes)
        if isinstance(s, Let):
            self.lines.append(f"{self._lane(s.name, s.lanes)} = {self._expr(s.value)};")
        elif isinstance(s, Accumulate):
            self._accumulate(s)
        elif isinstance(s, Push):
            self.lines.append(f"{s.stream.name}_token.v[{_flat(s.lanes)}] = {self._expr(s.value)};")
        else:
            condition = f"if ({self._expr(s.guard)}) " if s.guard is not None else ""
            self.lines.append(f"{condition}{_element(s.array, s.indices)} = {self._expr(s.value)};")
        self._close(s.lanes)
        if isinstance(s, Push):
            condition = f"if ({self._expr(s.guard)}) " if s.guard is not None else ""
            self.lines.append(f"{condition}{s.stream.name}.write({s.stream.name}_token);")

    def _stack(self, s: Stack) -> None:
        self._local(s.name, cpp_type(s.parts[0].dtype), s.shape)
        self._open(s.lanes)
        for k, part in enumerate(s.parts):
            indices = [lane.var for lane in s.lanes]
            indices.insert(s.axis, str(k))
            self.lines.append(f"{s.name}{_dims(indices)} = {self._expr(part)};")
        self._close(s.lanes)

    def _accumulate(self, s: Accumulate) -> None:
        t, cell = cpp_type(s.array.dtype), _element(s.array, s.indices)
        value, first, init = self._expr(s.value), self._expr(s.first), self._expr(s.init)
        before = self._temporary(t, f"{first} ? {t}({init}) : {cell}")
        text = OPS[s.op].cpp.format(before, value, t=t)
        self.lines += [f"{cell} = {t}({text});", f"{self._lane(s.name, s.lanes)} = {cell};"]

    def _pop(self, s: Pop) -> None:
        token, t = f"{s.name}_token", cpp_type(s.stream.dtype)
        self.lines.append(f"{token_type(s.stream)} {token};")
        if s.guard is None:
            self.lines.append(f"{token} = {s.stream.name}.read();")
        else:
            zeros = f"for (int k = 0; k < {math.prod(s.stream.shape)}; k++) {token}.v[k] = {t}(0);"
            self.lines.append(f"if ({self._expr(s.guard)}) {token} = {s.stream.name}.read(); else {zeros}")
        self._local(s.name, t, s.stream.shape)
        lanes = [Loop(f"{s.name}_{d}", n) for d, n in enumerate(s.stream.shape)]
        self._open(lanes)
        self.lines.append(f"{self._lane(s.name, lanes)} = {token}.v[{_flat(lanes)}];")
        self._close(lanes)

    def _local(self, name: str, t: str, shape: Sequence[int]) -> None:
        self.lines.append(f"{t} {name}{_dims(shape)};")
        if shape:
            self.lines.append(f"#pragma HLS ARRAY_PARTITION variable={name} complete dim=0")

    def _lane(self, name: str, lanes: Sequence[Loop]) -> str:
        return name + "".join(f"[{lane.var}]" for lane in lanes)

    def _open(self, lanes: Sequence[Loop]) -> None:
        for lane in lanes:
            self.lines.append(f"for (int {lane.var} = 0; {lane.var} < {lane.extent}; {lane.var}++) {{")
            self.lines.append("#pragma HLS UNROLL")

    def _close(self, lanes: Sequence[Loop]) -> None:
        self.lines += ["}" * len(lanes)] if lanes else []

    def _temporary(self, t: str, text: str) -> str:
        self.temporaries += 1
        self.lines.append(f"const {t} t{self.temporaries}_ = {text};")
        return f"t{self.temporaries}_"

    def _expr(self, e: Expr) -> str:
        """The text of an expression; what it needs beforehand is appended to the lines."""
        t = cpp_type(e.dtype)
        if isinstance(e, Const):
            return _constant(e)
        if isinstance(e, Position):
            return f"{t}({index_text(e.index)})"
        if isinstance(e, Load):
            element = _element(e.array, e.indices)
            element = f"bool({element})" if e.dtype == BOOL else element
            return element if e.guard is None else f"({self._expr(e.guard)} ? {element} : {t}(0))"
        if isinstance(e, Ref):
            return e.name + "".join(f"[{index_text(i)}]" for i in e.indices)
        if isinstance(e, Reduce):
            return self._reduce(e, t)
        if isinstance(e, Lookup):
            return self._lookup(e, t)
        args = [self._expr(a) for a in e.args]
        if e.name in SHIFTS:
            args[1] = str(e.args[1].value) if isinstance(e.args[1], Const) else args[1]
        if e.name == "shrv":
            args = [f"ap_{a.dtype.kind}<{a.dtype.bits}>({text})" for a, text in zip(e.args, args, strict=True)]
        if e.name in ("max", "min", "eq", "lt", "le"):
            args = _comparable(args, [a.dtype for a in e.args])
        if e.dtype == BOOL and not OPS[e.name].compares:  # bool(2) is true, but 2 wraps to 0
            return f"bool(ap_uint<1>({OPS[e.name].cpp.format(*args, t='ap_uint<1>')}))"
        return f"{t}({OPS[e.name].cpp.format(*args, t=t)})"

    def _lookup(self, e: Lookup, t: str) -> str:
        index = self._expr(e.index)
        self.temporaries += 1
        name, word = f"rom{self.temporaries}_", "int" if e.dtype.bits <= 31 + (e.dtype.kind == "int") else "long long"
        self.lines.append(f"static const {word} {name}[{len(e.table)}] = {{{', '.join(map(str, e.table))}}};")
        self.lines.append(f"#pragma HLS BIND_STORAGE variable={name} type=rom_1p impl=lutram")
        return f"{t}({name}[int({index})])"

    def _reduce(self, e: Reduce, t: str) -> str:
        self.temporaries += 1
        name, count = f"r{self.temporaries}_", math.prod(lane.extent for lane in e.lanes)
        self._local(name, t, [count])
        self._open(e.lanes)
        self.lines.append(f"{name}[{_flat(e.lanes)}] = {self._expr(e.value)};")
        self._close(e.lanes)
        return f"kp_tree<kp_op_{e.name}, {t}, {count}>::of({name})"


def _comparable(args: list[str], dtypes: list[Scalar]) -> list[str]:
    """Operands in one signed type where only some are signed: C++ would compare them as unsigned numbers."""
    if len({d.kind for d in dtypes}) == 1:
        return args
    bits = max(d.bits + (d.kind == "uint") for d in dtypes)
    return [f"ap_int<{bits}>({a})" for a in args]


def _element(array: Array, indices: Iterable[Affine]) -> str:
    return array.name + "".join(f"[{index_text(i)}]" for i in indices)


def _flat(lanes: Sequence[Loop]) -> str:
    text = "0"
    for lane in lanes:
        text = lane.var if text == "0" else f"({text}) * {lane.extent} + {lane.var}"
    return text


def _constant(e: Const) -> str:
    t = cpp_type(e.dtype)
    if not e.dtype.is_float:
        return (
            f"{t}({int(e.value)}{'LL' if e.dtype.bits > 32 else ''})" if e.dtype != BOOL else str(bool(e.value)).lower()
        )
    if math.isnan(e.value):
        return f'{t}(__builtin_nanf(""))'
    if math.isinf(e.value):
        return f"{t}({'-' if e.value < 0 else ''}__builtin_inff())"
    return f"{t}({float(e.value)!r}f)"
