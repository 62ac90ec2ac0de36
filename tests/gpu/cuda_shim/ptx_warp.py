"""C++ for the PTX of control flow and of warps: branches, barriers, shuffles, votes; hints do nothing."""

from __future__ import annotations

from collections.abc import Callable

from .ptx_emit import integer, last_type, store
from .ptx_parse import Instruction, Pair, PtxError


def branch(ins: Instruction) -> str:
    """A branch within the statement."""
    return f"goto {ins.target};"


def nothing(ins: Instruction) -> str:
    """Hints, and fences that order what runs in order here."""
    return ";"


def policy(ins: Instruction) -> str:
    """Cache policies are opaque and without effect."""
    return store(ins.operands[0], "uint64_t(0)")


def bar(ins: Instruction) -> str:
    """bar.sync, bar.arrive, bar.red, bar.warp.sync, and barrier.cluster."""
    words = ins.words
    if "cluster" in words:
        return f"cushim::cluster_{'arrive' if 'arrive' in words else 'wait'}();"
    if "warp" in words:
        return f"cushim::sync_warp(uint32_t({integer(ins.operands[0])}));"
    operands = [integer(o) for o in ins.operands]
    if "red" in words:
        vote = next(word for word in ("popc", "and", "or") if word in words)
        vote = {"popc": "popc", "and": "all", "or": "any"}[vote]
        count = operands[2] if len(operands) == 4 else "0"
        call = f"cushim::block_barrier(int({operands[1]}), int({count}), false, cushim::Vote::{vote}, {operands[-1]})"
        return store(ins.operands[0], call)
    count = operands[1] if len(operands) > 1 else "0"
    return f"cushim::block_barrier(int({operands[0]}), int({count}), {'true' if 'arrive' in words else 'false'});"


_SHUFFLES = {"up": "up", "down": "down", "bfly": "xor_", "idx": "idx"}


def shuffle(ins: Instruction) -> str:
    """shfl.sync.mode.b32 d|p, a, b, c, mask."""
    mode = next(_SHUFFLES[word] for word in ins.words if word in _SHUFFLES)
    target = ins.operands[0]
    a, b, c, mask = (f"uint32_t({integer(o)})" for o in ins.operands[1:])
    call = f"cushim::ptx::shuffle32(cushim::{mode}, {a}, {b}, {c}, {mask}, inside)"
    if isinstance(target, Pair):
        return f"{{ bool inside; {store(target.first, call)} {store(target.second, 'inside')} }}"
    return f"{{ bool inside; {store(target, call)} }}"


_VOTES = {
    "ballot": "__ballot_sync({mask}, {p})",
    "any": "__any_sync({mask}, {p}) != 0",
    "all": "__all_sync({mask}, {p}) != 0",
}


def vote(ins: Instruction) -> str:
    """vote.sync.{ballot, any, all}."""
    form = next(_VOTES[word] for word in ins.words if word in _VOTES)
    p, mask = (integer(o) for o in ins.operands[1:])
    return store(ins.operands[0], form.format(mask=f"uint32_t({mask})", p=p))


def redux(ins: Instruction) -> str:
    """redux.sync.op.type d, a, mask."""
    operation = next(i for i, name in enumerate(("add", "min", "max", "and", "or", "xor")) if name in ins.words)
    a, mask = (f"uint32_t({integer(o)})" for o in ins.operands[1:])
    signed = "true" if last_type(ins) == "s32" else "false"
    return store(ins.operands[0], f"cushim::reduce({mask}, {a}, {operation}, {signed})")


def match(ins: Instruction) -> str:
    """match.any.sync.b32 d, a, mask."""
    if "any" not in ins.words:
        raise PtxError(f"only match.any is known here: {ins.text}")
    a, mask = (integer(o) for o in ins.operands[1:])
    return store(ins.operands[0], f"cushim::match_any(uint32_t({mask}), {a})")


def elect(ins: Instruction) -> str:
    """elect.sync d|p, mask."""
    target = ins.operands[0]
    if not isinstance(target, Pair):
        raise PtxError(f"elect.sync has two results: {ins.text}")
    call = f"cushim::ptx::elect(uint32_t({integer(ins.operands[1])}), leader)"
    stores = f"{store(target.first, 'leader')} {store(target.second, 'elected')}"
    return f"{{ uint32_t leader; bool elected = {call}; {stores} }}"


EMITTERS: dict[str, Callable[[Instruction], str]] = {
    **dict.fromkeys(("prefetch", "prefetchu", "discard", "applypriority", "membar", "griddepcontrol"), nothing),
    **dict.fromkeys(("bar", "barrier"), bar),
    "bra": branch,
    "shfl": shuffle,
    "vote": vote,
    "redux": redux,
    "match": match,
    "elect": elect,
    "createpolicy": policy,
    "nanosleep": lambda _: "cushim::spin();",
    "trap": lambda _: 'cushim::fail("trap");',
}


def choose(ins: Instruction) -> Callable[[Instruction], str] | None:
    """The emitter of an instruction, or None."""
    return EMITTERS.get(ins.words[0])
