"""C++ for PTX instructions, by tables: arithmetic, moves, memory. Others: ptx_warp.py and ptx_tensor.py."""

from __future__ import annotations

from collections.abc import Callable

from .ptx_parse import Address, Immediate, Instruction, Operand, Pair, PtxError, Register, Sink, Vector

TYPES = {
    **{f"{kind}{bits}": f"uint{bits}_t" for kind in "bu" for bits in (8, 16, 32, 64)},
    **{f"s{bits}": f"int{bits}_t" for bits in (8, 16, 32, 64)},
    "f16": "__half",
    "bf16": "__nv_bfloat16",
    "f16x2": "__half2",
    "bf16x2": "__nv_bfloat162",
    "f32": "float",
    "f64": "double",
    "tf32": "float",
    "pred": "bool",
}
BYTES = {"8": 1, "16": 2, "32": 4, "64": 8, "f16x2": 4, "bf16x2": 4}
FLOATS = ("f16", "bf16", "f16x2", "bf16x2", "f32", "f64")

# Words that change nothing of what an instruction computes here: caches, scopes, flushing of subnormals, approximation.
HARMLESS = {
    *("rn", "ftz", "approx", "full", "noftz", "uni", "sync", "aligned", "wrap"),
    *("weak", "relaxed", "acquire", "release", "acq_rel", "volatile", "cta", "cluster", "gpu", "sys", "nc"),
    *("ca", "cg", "cs", "cv", "lu", "wb", "wt"),
    *("L1::evict_normal", "L1::evict_unchanged", "L1::evict_first", "L1::evict_last", "L1::no_allocate"),
    *("L2::64B", "L2::128B", "L2::256B", "L2::cache_hint", "L2::evict_first", "L2::evict_last", "L2::evict_normal"),
}
SPACES = ("global", "shared", "shared::cta", "shared::cluster", "local", "const")


def bytes_of(kind: str) -> int:
    """Of a type such as u32."""
    return BYTES.get(kind) or BYTES[kind.lstrip("busf")]


def last_type(ins: Instruction) -> str:
    """The type that the opcode ends with."""
    for word in reversed(ins.words):
        if word in TYPES:
            return word
    raise PtxError(f"no type in {ins.text}")


def check_words(ins: Instruction, *allowed: str) -> None:
    """Raises PtxError for a word whose meaning is not known here."""
    for word in ins.words[1:]:
        if word not in allowed and word not in HARMLESS and word not in TYPES:
            raise PtxError(f"'.{word}' is not known here: {ins.text}")


def value(operand: Operand, kind: str) -> str:
    """An operand as a number of PTX type `kind`."""
    if not isinstance(operand, Register | Immediate):
        raise PtxError(f"a register or a number is needed where {operand} stands")
    return f"cushim::ptx::as<{TYPES[kind]}>({operand.read})"


def integer(operand: Operand) -> str:
    """An operand as it is, for arguments that are integers."""
    if not isinstance(operand, Register | Immediate):
        raise PtxError(f"a register or a number is needed where {operand} stands")
    return operand.read


def store(operand: Operand, expression: str) -> str:
    """A statement that puts a number into a register."""
    if isinstance(operand, Sink):
        return f"(void)({expression});"
    if not isinstance(operand, Register):
        raise PtxError(f"a result needs a register, not {operand}")
    return f"cushim::ptx::set({operand.name}, {expression});"


def address(operand: Operand) -> str:
    """What brackets hold, as 64 bits."""
    if not isinstance(operand, Address):
        raise PtxError(f"an address in brackets is needed where {operand} stands")
    return operand.read


# --- arithmetic: opcode (with the words that select the operation) -> expression of typed operands -----------------

ARITHMETIC = {
    "add": "{a} + {b}",
    "sub": "{a} - {b}",
    "mul": "{a} * {b}",
    "mul.lo": "{a} * {b}",
    "mad.lo": "{a} * {b} + {c}",
    "mad": "cushim::ptx::fused({a}, {b}, {c})",
    "fma": "cushim::ptx::fused({a}, {b}, {c})",
    "div": "{a} / {b}",
    "rem": "{a} % {b}",
    "min": "cushim::ptx::smaller({a}, {b})",
    "max": "cushim::ptx::greater({a}, {b})",
    "neg": "-{a}",
    "and": "{a} & {b}",
    "or": "{a} | {b}",
    "xor": "{a} ^ {b}",
    "rcp": "1 / {a}",
    "sqrt": "sqrt({a})",
    "rsqrt": "1 / sqrt({a})",
    "ex2": "cushim::ptx::exp_2({a})",
    "lg2": "log2f({a})",
    "sin": "sinf({a})",
    "cos": "cosf({a})",
    "tanh": "cushim::ptx::hyperbolic_tangent({a})",
}
# Operations whose operands or results have types of their own: expression of plain registers a, b, c, d; T is the type.
SPECIAL = {
    "not.b16": "uint16_t(~uint16_t({a}))",
    "not.b32": "~uint32_t({a})",
    "not.b64": "~uint64_t({a})",
    "not.pred": "!{a}",
    "abs": "{T}({a:T} < {T}(0) ? -{a:T} : {a:T})",
    "shl": "cushim::ptx::shift_left({a:T}, uint32_t({b}))",
    "shr": "cushim::ptx::shift_right({a:T}, uint32_t({b}))",
    "mul.hi": "{T}((__int128({a:T}) * __int128({b:T})) >> (sizeof({T}) * 8))",
    "lop3": "cushim::ptx::lop3(uint32_t({a}), uint32_t({b}), uint32_t({c}), uint32_t({d}))",
    "prmt": "__byte_perm(unsigned({a}), unsigned({b}), unsigned({c}))",
    "popc": "uint32_t(__popcll({a:T}))",
    "clz": "uint32_t(__clz({a:T}))",
    "brev": "__brev({a:T})",
    "bfe": "cushim::ptx::extract_bits({a:T}, uint32_t({b}), uint32_t({c}))",
    "bfi": "cushim::ptx::insert_bits({a:T}, {b:T}, uint32_t({c}), uint32_t({d}))",
    "shf.l": "cushim::ptx::funnel_left(uint32_t({a}), uint32_t({b}), uint32_t({c}))",
    "shf.r": "cushim::ptx::funnel_right(uint32_t({a}), uint32_t({b}), uint32_t({c}))",
    "selp": "{c} ? {a:T} : {b:T}",
    "mapa": "cushim::map_shared_rank(uint32_t({a}), uint32_t({b}))",
    "activemask": "cushim::active_mask()",
}
WIDE = {"s16": "int32_t", "u16": "uint32_t", "s32": "int64_t", "u32": "uint64_t"}
COMPARISONS = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
COMPARISONS |= {"lo": "<", "ls": "<=", "hi": ">", "hs": ">="}


class _Typed:
    """An operand in a format: plain, or with :T as a number of the instruction's type."""

    def __init__(self, operand: Operand, kind: str) -> None:
        self.operand, self.kind = operand, kind

    def __format__(self, spec: str) -> str:
        return value(self.operand, self.kind) if spec else integer(self.operand)


def _row(ins: Instruction, table: dict[str, str]) -> tuple[str, str]:
    for word in ins.words[1:]:
        if f"{ins.words[0]}.{word}" in table:
            return f"{ins.words[0]}.{word}", word
    if ins.words[0] not in table:
        raise PtxError(f"the instruction is not known here: {ins.text}")
    return ins.words[0], ""


def arithmetic(ins: Instruction) -> str:
    """A row of ARITHMETIC: all operands have the instruction's type."""
    found = _row(ins, ARITHMETIC)
    kind = last_type(ins)
    check_words(ins, found[1], "sat") if kind == "f32" else check_words(ins, found[1])
    names = dict(zip("abc", (value(o, kind) for o in ins.operands[1:]), strict=False))
    expression = f"{TYPES[kind]}({ARITHMETIC[found[0]].format(**names)})"
    if "sat" in ins.words:
        expression = f"__saturatef({expression})"
    return store(ins.operands[0], expression)


def special(ins: Instruction) -> str:
    """A row of SPECIAL."""
    found = _row(ins, SPECIAL)
    kind = last_type(ins) if found[0] not in ("lop3", "prmt", "activemask") else "b32"
    check_words(ins, found[1], "shared::cluster")
    names = {name: _Typed(o, kind) for name, o in zip("abcd", ins.operands[1:], strict=False)}
    return store(ins.operands[0], SPECIAL[found[0]].format(T=TYPES[kind], **names))


def wide(ins: Instruction) -> str:
    """mul.wide and mad.wide: a result of twice the operands' width."""
    kind = last_type(ins)
    check_words(ins, "wide")
    result = WIDE[kind]
    product = f"{result}({value(ins.operands[1], kind)}) * {value(ins.operands[2], kind)}"
    if ins.words[0] == "mad":
        product += f" + cushim::ptx::as<{result}>({integer(ins.operands[3])})"
    return store(ins.operands[0], f"{result}({product})")


def setp(ins: Instruction) -> str:
    """setp.CMP.type p, a, b: unordered comparisons (with NaN) are false, but for ne."""
    kind = last_type(ins)
    check_words(ins, ins.words[1])
    if ins.words[1] not in COMPARISONS or len(ins.operands) != 3:
        raise PtxError(f"this comparison is not known here: {ins.text}")
    test = f"{value(ins.operands[1], kind)} {COMPARISONS[ins.words[1]]} {value(ins.operands[2], kind)}"
    target = ins.operands[0]
    if isinstance(target, Pair):
        return store(target.first, test) + store(target.second, f"!({test})")
    return store(target, test)


def dot4(ins: Instruction) -> str:
    """dp4a.atype.btype d, a, b, c."""
    a, b = (TYPES[word][: -len("32_t")] + "8_t" for word in ins.words[1:3])
    arguments = ", ".join(
        f"{t}({integer(o)})" for t, o in zip(("unsigned", "unsigned", "int"), ins.operands[1:], strict=True)
    )
    return store(ins.operands[0], f"uint32_t(dot4_<{a}, {b}>({arguments}))")


# --- moves and conversions -----------------------------------------------------------------------------------------


def mov(ins: Instruction) -> str:
    """mov between registers, and packing and unpacking of `{...}`."""
    check_words(ins)
    target, source = ins.operands
    if isinstance(target, Vector):
        width = bytes_of(last_type(ins)) * 8 // len(target.items)
        whole = f"uint64_t({integer(source)})"
        return "".join(store(item, f"uint{width}_t({whole} >> {i * width})") for i, item in enumerate(target.items))
    if isinstance(source, Vector):
        width = bytes_of(last_type(ins)) * 8 // len(source.items)
        parts = [f"uint64_t(uint{width}_t({integer(item)})) << {i * width}" for i, item in enumerate(source.items)]
        return store(target, " | ".join(parts))
    return store(target, value(source, last_type(ins)))


_ROUND_TO_WHOLE = {"rni": "rint", "rzi": "trunc", "rmi": "floor", "rpi": "ceil"}


def cvt(ins: Instruction) -> str:
    """cvt.to.from and the packing cvt.to x2.f32."""
    kinds = [word for word in ins.words[1:] if word in TYPES]
    check_words(ins, "rna", "sat", "satfinite", "relu", "rz", *_ROUND_TO_WHOLE)
    to, source = kinds
    words = set(ins.words)
    if words & {"rz", "satfinite", "relu"}:
        raise PtxError(f"this rounding is not known here: {ins.text}")
    if to in ("f16x2", "bf16x2") and source == "f32":
        high, low = (value(o, "f32") for o in ins.operands[1:])
        return store(ins.operands[0], f"{TYPES[to]}({low}, {high})")
    number = value(ins.operands[1], source)
    if to == "tf32":
        if "rna" not in words:
            raise PtxError(f"only cvt.rna.tf32 is known here: {ins.text}")
        return store(ins.operands[0], f"cushim::ptx::to_tf32({number})")
    if source in FLOATS and to not in FLOATS:
        mode = next((function for word, function in _ROUND_TO_WHOLE.items() if word in words), None)
        if mode is None:
            raise PtxError(f"a conversion to integers needs its rounding: {ins.text}")
        return store(ins.operands[0], f"cushim::ptx::whole<{TYPES[to]}>({mode}(double({number})))")
    if source not in FLOATS and to not in FLOATS and "sat" in words:
        return store(ins.operands[0], f"cushim::ptx::saturate_whole<{TYPES[to]}>({number})")
    number = f"float({number})" if source in ("f16", "bf16") else number
    number = f"{TYPES[to]}({number})"
    return store(ins.operands[0], f"__saturatef({number})" if "sat" in words else number)


def cvta(ins: Instruction) -> str:
    """Between generic addresses and those of a window; global ones are generic here."""
    target, source = ins.operands
    shared = any(word.startswith("shared") for word in ins.words)
    if not shared:
        return store(target, f"uint64_t({integer(source)})")
    if "to" in ins.words:
        return store(target, f"uint64_t(cushim::shared_address(reinterpret_cast<void*>({integer(source)})))")
    return store(target, f"reinterpret_cast<uint64_t>(cushim::shared_pointer(uint32_t({integer(source)}), 1, 1))")


# --- memory --------------------------------------------------------------------------------------------------------


def _place(ins: Instruction, operand: Operand, size: int) -> str:
    space = "shared" if any(word.startswith("shared") for word in ins.words) else "generic"
    return f"cushim::ptx::{space}({address(operand)}, {size})"


def _lanes(operand: Operand) -> tuple[Operand, ...]:
    return operand.items if isinstance(operand, Vector) else (operand,)


def load(ins: Instruction) -> str:
    """ld of one register or a vector. Loads that synchronise let other threads run first."""
    check_words(ins, "v2", "v4", "v8", *SPACES)
    kind, lanes = last_type(ins), _lanes(ins.operands[0])
    size = bytes_of(kind)
    wait = "cushim::ptx::polling();" if {"acquire", "volatile", "relaxed"} & set(ins.words) else ""
    reads = [store(lane, f"cushim::ptx::load<{TYPES[kind]}>(from + {i * size})") for i, lane in enumerate(lanes)]
    return f"{{ {wait} char* from = {_place(ins, ins.operands[1], size * len(lanes))}; {''.join(reads)} }}"


def save(ins: Instruction) -> str:
    """st of one register or a vector."""
    check_words(ins, "v2", "v4", "v8", *SPACES)
    kind, lanes = last_type(ins), _lanes(ins.operands[1])
    size = bytes_of(kind)
    writes = [f"cushim::ptx::store(to + {i * size}, {value(lane, kind)});" for i, lane in enumerate(lanes)]
    return f"{{ char* to = {_place(ins, ins.operands[0], size * len(lanes))}; {''.join(writes)} }}"


_ATOMICS = {
    "add": "atomicAdd",
    "min": "atomicMin",
    "max": "atomicMax",
    "and": "atomicAnd",
    "or": "atomicOr",
    "xor": "atomicXor",
    "exch": "atomicExch",
    "inc": "atomicInc",
    "dec": "atomicDec",
    "cas": "atomicCAS",
}


def atomic(ins: Instruction) -> str:
    """atom and red, vectors of them included."""
    check_words(ins, "v2", "v4", "v8", *SPACES, *_ATOMICS)
    name = next(_ATOMICS[word] for word in ins.words if word in _ATOMICS)
    kind = last_type(ins)
    size = bytes_of(kind)
    has_result = ins.words[0] == "atom"
    where, sources = ins.operands[has_result], [_lanes(o) for o in ins.operands[1 + has_result :]]
    updates = []
    for i, lanes in enumerate(zip(*sources, strict=True)):
        arguments = ", ".join(value(lane, kind) for lane in lanes)
        call = f"{name}(reinterpret_cast<{TYPES[kind]}*>(at + {i * size}), {arguments})"
        updates.append(store(_lanes(ins.operands[0])[i], call) if has_result else f"{call};")
    return f"{{ char* at = {_place(ins, where, size * len(sources[0]))}; {''.join(updates)} }}"


EMITTERS: dict[str, Callable[[Instruction], str]] = {
    **dict.fromkeys({row.split(".")[0] for row in SPECIAL}, special),
    **dict.fromkeys({row.split(".")[0] for row in ARITHMETIC}, arithmetic),
    **dict.fromkeys(("ld", "ldu"), load),
    **dict.fromkeys(("atom", "red"), atomic),
    "mov": mov,
    "cvt": cvt,
    "cvta": cvta,
    "st": save,
    "setp": setp,
    "dp4a": dot4,
}


def choose(ins: Instruction) -> Callable[[Instruction], str] | None:
    """The emitter of an instruction, or None."""
    if ins.words[0] in ("mul", "mad") and "wide" in ins.words:
        return wide
    if ins.words[0] == "mul" and "hi" in ins.words:
        return special
    return EMITTERS.get(ins.words[0])
