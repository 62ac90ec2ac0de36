"""What TVM's code generator leaves out of LLVM IR for AMD's GPUs, put in as text.

- The most threads of each kernel's blocks: TVM writes one number for the whole module, and LLVM gives every kernel the
  registers that blocks of that size leave it.
- The version of the code object: the one that ROCm 6 and 7 load, not the newest that LLVM can write.
- Fences at barriers: see `codegen.marked_barriers`.
- The target's name as AMD's tools have it, and how TVM finds it when it reads the text again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

TRIPLE = "amdgcn-amd-amdhsa"
_CODE_OBJECT_VERSION = 500

# Calls that stand for fences: what a wave has written is seen by the block; what others wrote is seen by it.
RELEASE, ACQUIRE = "kompilo_release", "kompilo_acquire"

_FENCES = {RELEASE: "release", ACQUIRE: "acquire"}
_MARK = re.compile(rf"^ +(?:tail )?call void @({RELEASE}|{ACQUIRE})\(\).*$", re.MULTILINE)
_MARK_DECLARED = re.compile(rf"^declare .*@(?:{RELEASE}|{ACQUIRE})\(\).*\n", re.MULTILINE)

_TRIPLE_LINE = re.compile(r'^target triple = ".*"$', re.MULTILINE)
_KERNEL = re.compile(r"^(define .*\bamdgpu_kernel\b.* @([\w.$]+)\(.*) #(\d+)( .*)?\{$", re.MULTILINE)
_ATTRIBUTES = re.compile(r"^attributes #(\d+) = \{(.*)\}$", re.MULTILINE)
_BLOCK = re.compile(r' "amdgpu-flat-work-group-size"="[^"]*"')
_METADATA = re.compile(r"^!(\d+) = ", re.MULTILINE)
_FLAGS = re.compile(r"^!llvm\.module\.flags = !\{(.*)\}$", re.MULTILINE)


def finished(ir: str, arch: str, threads: Mapping[str, int]) -> str:
    """`ir` of a module for `arch`, complete; `threads` gives the most threads of a block by kernel name."""
    ir = _with_fences(_TRIPLE_LINE.sub(f'target triple = "{TRIPLE}"', ir))
    return _with_flags(_with_block_sizes(ir, threads), arch)


def _with_fences(ir: str) -> str:
    fenced = _MARK.sub(lambda found: f'  fence syncscope("workgroup") {_FENCES[found.group(1)]}', ir)
    return _MARK_DECLARED.sub("", fenced)


def _with_block_sizes(ir: str, threads: Mapping[str, int]) -> str:
    """Gives each kernel a group of attributes of its own."""
    groups = dict(_ATTRIBUTES.findall(ir))
    added: list[str] = []

    def kernel(found: re.Match[str]) -> str:
        head, name, group, rest = found.groups()
        if name not in threads:
            return found.group()
        number = len(groups) + len(added) + max(map(int, groups), default=0)
        size = f' "amdgpu-flat-work-group-size"="1,{threads[name]}"'
        added.append(f"attributes #{number} = {{{_BLOCK.sub('', groups[group])}{size} }}")
        return f"{head} #{number}{rest or ' '}{{"

    changed = _KERNEL.sub(kernel, ir)
    return "\n".join([changed, *added, ""])


def _with_flags(ir: str, arch: str) -> str:
    target = json.dumps({"kind": "llvm", "mtriple": TRIPLE, "mcpu": arch}).replace('"', "\\22")
    flags = [f'!{{i32 1, !"amdhsa_code_object_version", i32 {_CODE_OBJECT_VERSION}}}']
    if '!"tvm_target"' not in ir:
        flags.append(f'!{{i32 2, !"tvm_target", !"{target}"}}')
    first = max((int(number) for number in _METADATA.findall(ir)), default=-1) + 1
    names = [f"!{first + i}" for i in range(len(flags))]
    known = _FLAGS.search(ir)
    listed = ", ".join([*([known.group(1)] if known and known.group(1) else []), *names])
    line = f"!llvm.module.flags = !{{{listed}}}"
    ir = _FLAGS.sub(lambda _: line, ir) if known else f"{ir}\n{line}\n"
    return ir + "".join(f"{name} = {flag}\n" for name, flag in zip(names, flags, strict=True))
