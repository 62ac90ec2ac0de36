"""C++ for the PTX of tensor cores and asynchronous copies: ldmatrix, mma, wgmma, cp.async, mbarrier, fences."""

from __future__ import annotations

import re
from collections.abc import Callable

from .ptx_emit import address, check_words, integer, store
from .ptx_parse import Address, Instruction, Operand, Pair, PtxError, Register, Sink, Vector

ELEMENTS = ("f16", "bf16", "tf32", "f32", "f64", "s8", "u8", "s32", "e4m3", "e5m2")

# Shapes whose fragment layout runtime/matrix.cpp knows: the type of A -> (m, n, k).
MMA_SHAPES = {
    **dict.fromkeys(("f16", "bf16"), ((16, 8, 8), (16, 8, 16))),
    "tf32": ((16, 8, 4), (16, 8, 8)),
    **dict.fromkeys(("s8", "u8"), ((8, 8, 16), (16, 8, 16), (16, 8, 32))),
    **dict.fromkeys(("e4m3", "e5m2"), ((16, 8, 16), (16, 8, 32))),
    "f64": ((8, 8, 4),),
}
ELEMENT_BITS = {
    "f16": 16,
    "bf16": 16,
    "tf32": 32,
    "f32": 32,
    "f64": 64,
    "s8": 8,
    "u8": 8,
    "s32": 32,
    "e4m3": 8,
    "e5m2": 8,
}


def _registers(operand: Operand, count: int, what: str, ins: Instruction) -> list[str]:
    items = operand.items if isinstance(operand, Vector) else (operand,)
    if len(items) != count:
        raise PtxError(f"{what} has {len(items)} registers and needs {count}: {ins.text}")
    return [integer(item) for item in items]


def _array(name: str, values: list[str], kind: str = "uint64_t") -> str:
    return f"{kind} {name}[] = {{{', '.join(f'{kind}({v})' for v in values)}}};"


def _shape(ins: Instruction) -> tuple[int, int, int]:
    for word in ins.words:
        if match := re.fullmatch(r"m(\d+)n(\d+)k(\d+)", word):
            return int(match[1]), int(match[2]), int(match[3])
    raise PtxError(f"no shape in {ins.text}")


def mma(ins: Instruction) -> str:
    """mma.sync.aligned.SHAPE.row.col.D.A.B.C d, a, b, c."""
    m, n, k = _shape(ins)
    kinds = [word for word in ins.words if word in ELEMENTS]
    check_words(ins, f"m{m}n{n}k{k}", "row", "col", "satfinite", *ELEMENTS)
    if len(kinds) != 4 or (m, n, k) not in MMA_SHAPES.get(kinds[1], ()) or list(ins.words).count("row") != 1:
        raise PtxError(f"this mma is not known here: {ins.text}")
    d, a, b, c = kinds
    counts = [
        size * ELEMENT_BITS[kind] // (32 * max(32, ELEMENT_BITS[kind])) for size, kind in ((m * k, a), (k * n, b))
    ]
    per_result = 2 if d == "f16" else 1
    results = m * n // 32 // per_result
    accumulators = m * n // 32 // (2 if c == "f16" else 1)
    values = [
        _registers(o, count, f"operand {i + 1}", ins)
        for i, (o, count) in enumerate(zip(ins.operands[1:], (*counts, accumulators), strict=True))
    ]
    arrays = "".join(_array(name, v) for name, v in zip("abc", values, strict=True))
    names = ", ".join(f"cushim::ptx::{kind}" for kind in (d, a, b, c))
    saturate = "true" if "satfinite" in ins.words else "false"
    targets = ins.operands[0].items if isinstance(ins.operands[0], Vector) else (ins.operands[0],)
    if len(targets) != results:
        raise PtxError(f"the result has {len(targets)} registers and needs {results}: {ins.text}")
    stores = "".join(store(target, f"d[{i}]") for i, target in enumerate(targets))
    call = f"cushim::ptx::mma({{{m}, {n}, {k}, {names}, {saturate}}}, d, a, b, c);"
    return f"{{ {arrays} uint64_t d[{results}]; {call} {stores} }}"


def matrix_move(ins: Instruction) -> str:
    """ldmatrix and stmatrix of 8x8 matrices of 16-bit numbers."""
    check_words(ins, "m8n8", "x1", "x2", "x4", "trans", "shared", "shared::cta")
    if "m8n8" not in ins.words:
        raise PtxError(f"only m8n8 matrices are known here: {ins.text}")
    count = next(int(word[1]) for word in ins.words if re.fullmatch(r"x\d", word))
    transposed = "true" if "trans" in ins.words else "false"
    if ins.words[0] == "stmatrix":
        values = _array("m", _registers(ins.operands[1], count, "the matrix", ins), "uint32_t")
        return f"{{ {values} cushim::ptx::store_matrix(m, {count}, {transposed}, {address(ins.operands[0])}); }}"
    _registers(ins.operands[0], count, "the matrix", ins)
    targets = ins.operands[0].items if isinstance(ins.operands[0], Vector) else (ins.operands[0],)
    stores = "".join(store(target, f"m[{i}]") for i, target in enumerate(targets))
    call = f"cushim::ptx::load_matrix(m, {count}, {transposed}, {address(ins.operands[1])});"
    return f"{{ uint32_t m[{count}]; {call} {stores} }}"


# --- wgmma ---------------------------------------------------------------------------------------------------------

_WGMMA_K = {"f16": 16, "bf16": 16, "tf32": 8, "s8": 32, "u8": 32, "e4m3": 32, "e5m2": 32}


def accumulators_of(ins: Instruction) -> tuple[Operand, ...]:
    """Registers that a wgmma.mma_async writes later than it is issued."""
    if ins.words[:2] != ("wgmma", "mma_async") or not isinstance(ins.operands[0], Vector):
        return ()
    return ins.operands[0].items


def wgmma(ins: Instruction) -> str:
    """wgmma.fence, .commit_group, .wait_group and .mma_async."""
    if ins.words[1] == "fence":
        return "cushim::ptx::wgmma_fence();"
    if ins.words[1] == "commit_group":
        return "cushim::ptx::wgmma_commit();"
    if ins.words[1] == "wait_group":
        return f"cushim::ptx::wgmma_wait(unsigned({integer(ins.operands[0])}));"
    m, n, k = _shape(ins)
    kinds = [word for word in ins.words if word in ELEMENTS]
    check_words(ins, "mma_async", f"m{m}n{n}k{k}", *ELEMENTS)
    if len(kinds) != 3 or m != 64 or n % 8 or not 8 <= n <= 256 or _WGMMA_K.get(kinds[1]) != k:
        raise PtxError(f"this wgmma is not known here: {ins.text}")
    d, a, b = kinds
    count = n // 4 if d == "f16" else n // 2
    _registers(ins.operands[0], count, "the accumulator", ins)
    if any(not isinstance(r, Register) or r.index is None for r in accumulators_of(ins)):
        raise PtxError(f"accumulators must be operands of the asm statement: {ins.text}")
    places = ", ".join(
        r.name.replace("cushim_a", "cushim_p", 1) for r in accumulators_of(ins) if isinstance(r, Register)
    )
    in_registers = isinstance(ins.operands[1], Vector)
    a_values = _registers(ins.operands[1], 4 if in_registers else 1, "A", ins)
    scale_d = integer(ins.operands[3])
    numbers = [f"int({integer(o)})" for o in ins.operands[4:]]
    integers = d == "s32"
    scales = ["1", "1"] if integers else numbers[:2]
    turned = numbers[2:] if a in ("f16", "bf16") else []
    if len(turned) != (0 if a not in ("f16", "bf16") else 1 if in_registers else 2) or (integers and numbers):
        raise PtxError(f"wgmma with {len(ins.operands)} operands: {ins.text}")
    transpose = ["0", *turned] if in_registers and turned else (turned or ["0", "0"])
    fields = [str(n), str(k), *(f"cushim::ptx::{kind}" for kind in (d, a, b)), "true" if in_registers else "false"]
    fields += [f"({scale_d}) != 0", *(f"({t}) != 0" for t in transpose), *scales]
    return (
        f"{{ {_array('a', a_values)} void* const d[] = {{{places}}}; "
        f"cushim::ptx::wgmma({{{', '.join(fields)}}}, d, a, uint64_t({integer(ins.operands[2])})); }}"
    )


# --- cp.async and bulk copies --------------------------------------------------------------------------------------


def _without_policy(ins: Instruction) -> tuple[Operand, ...]:
    return ins.operands[:-1] if "L2::cache_hint" in ins.words else ins.operands


def cp_async(ins: Instruction) -> str:
    """cp.async and its groups."""
    words = ins.words
    if "commit_group" in words:
        return "cushim::ptx::copy_commit();"
    if "wait_group" in words:
        return f"cushim::ptx::copy_wait(unsigned({integer(ins.operands[0])}));"
    if "wait_all" in words:
        return "cushim::ptx::copy_wait_all();"
    if "mbarrier" in words:
        return f"cushim::ptx::copy_arrive({address(ins.operands[0])}, {'true' if 'noinc' in words else 'false'});"
    check_words(ins, "async", "shared", "shared::cta", "global")
    operands = _without_policy(ins)
    size = f"unsigned({integer(operands[2])})"
    filled = size
    if len(operands) > 3:
        last = operands[3]
        ignored = isinstance(last, Register) and last.width == 1
        filled = f"(({integer(last)}) ? 0u : {size})" if ignored else f"unsigned({integer(last)})"
    return f"cushim::ptx::copy_async({address(operands[0])}, {address(operands[1])}, {size}, {filled});"


def _tensor_place(operand: Operand) -> tuple[str, str, int]:
    if not isinstance(operand, Address) or operand.coordinates is None:
        raise PtxError(f"[map, {{coordinates}}] is needed where {operand} stands")
    coordinates = [integer(o) for o in operand.coordinates.items]
    return address(operand), _array("at", coordinates, "int32_t"), len(coordinates)


_REDUCTIONS = {"add": "add", "min": "minimum", "max": "maximum"}
_BULK_WORDS = ("async", "bulk", "tensor", "tile", "global", "shared::cluster", "shared::cta", "bulk_group")
_BULK_WORDS += ("mbarrier::complete_tx::bytes", "multicast::cluster", "reduce")


def bulk(ins: Instruction) -> str:
    """cp.async.bulk, with and without a tensor map, and cp.reduce.async.bulk.tensor."""
    words = ins.words
    if "commit_group" in words:
        return "cushim::ptx::bulk_commit();"
    if "wait_group" in words:
        return f"cushim::ptx::bulk_wait(unsigned({integer(ins.operands[0])}));"
    if "prefetch" in words:
        return ";"
    check_words(ins, *_BULK_WORDS, *_REDUCTIONS, *(f"{rank}d" for rank in range(1, 6)))
    to_shared = "mbarrier::complete_tx::bytes" in words
    operands = list(_without_policy(ins))
    multicast = f"int({integer(operands.pop())})" if "multicast::cluster" in words else "-1"
    if "tensor" not in words:
        to, source = address(operands[0]), address(operands[1])
        size = f"uint32_t({integer(operands[2])})"
        if words[1] == "reduce" or not to_shared:
            if words[1] == "reduce" or "shared::cluster" in words:
                raise PtxError(f"this bulk copy is not known here: {ins.text}")
            return f"cushim::ptx::bulk_store({to}, {source}, {size});"
        return f"cushim::ptx::bulk_load({to}, {source}, {size}, {address(operands[3])}, {multicast});"
    if to_shared:
        tensor, at, rank = _tensor_place(operands[1])
        call = f"tensor_load({address(operands[0])}, {tensor}, at, {rank}, {address(operands[2])}, {multicast})"
    else:
        tensor, at, rank = _tensor_place(operands[0])
        reduction = next((_REDUCTIONS[word] for word in words if word in _REDUCTIONS), "none")
        call = f"tensor_store({tensor}, at, {rank}, {address(operands[1])}, cushim::ptx::{reduction})"
    return f"{{ {at} cushim::ptx::{call}; }}"


def mbarrier(ins: Instruction) -> str:
    """mbarrier.init, .inval, .arrive, .expect_tx, .test_wait, .try_wait."""
    words, operands = ins.words, list(ins.operands)
    check_words(ins, *words[1:2], "expect_tx", "noComplete", "parity", "shared", "shared::cta", "shared::cluster")
    if words[1] == "init":
        return f"cushim::ptx::barrier_init({address(operands[0])}, uint32_t({integer(operands[1])}));"
    if words[1] == "inval":
        return f"cushim::ptx::barrier_invalidate({address(operands[0])});"
    if words[1] == "expect_tx":
        return f"cushim::ptx::barrier_expect({address(operands[0])}, int64_t({integer(operands[1])}));"
    if words[1] in ("arrive", "arrive_drop"):
        target = Sink() if isinstance(operands[0], Address) else operands.pop(0)
        expects = "expect_tx" in words
        count = f"uint32_t({integer(operands[1])})" if len(operands) > 1 and not expects else "1u"
        expected = f"int64_t({integer(operands[1])})" if expects else "0"
        drop = "true" if words[1] == "arrive_drop" else "false"
        return store(target, f"cushim::ptx::barrier_arrive({address(operands[0])}, {count}, {expected}, {drop})")
    if words[1] in ("test_wait", "try_wait"):
        if isinstance(operands[0], Pair):
            raise PtxError(f"one result is known here: {ins.text}")
        wait = "true" if words[1] == "try_wait" else "false"
        parity = f"uint32_t({integer(operands[2])})"
        return store(operands[0], f"cushim::ptx::barrier_test({address(operands[1])}, {parity}, {wait})")
    raise PtxError(f"this mbarrier instruction is not known here: {ins.text}")


def fence(ins: Instruction) -> str:
    """Only the fence between the generic and the asynchronous proxy means something here."""
    return "cushim::ptx::proxy_fence();" if "proxy" in ins.words and "async" in ins.words else ";"


def set_registers(ins: Instruction) -> str:
    """setmaxnreg: a multiple of 8 from 24 to 256."""
    return f'if (({integer(ins.operands[0])}) % 8 || ({integer(ins.operands[0])}) > 256) cushim::fail("setmaxnreg");'


EMITTERS: dict[str, Callable[[Instruction], str]] = {
    "mma": mma,
    "ldmatrix": matrix_move,
    "stmatrix": matrix_move,
    "wgmma": wgmma,
    "mbarrier": mbarrier,
    "fence": fence,
    "setmaxnreg": set_registers,
}


def choose(ins: Instruction) -> Callable[[Instruction], str] | None:
    """The emitter of an instruction, or None."""
    if ins.words[0] == "cp":
        return bulk if "bulk" in ins.words else cp_async
    return EMITTERS.get(ins.words[0])
