#!/usr/bin/env bash
# Installs what a bare Debian lacks for building and testing: make, a linker, a C++ compiler, Python's venv module; and,
# where the system has them, LLVM's linker and tools for AMD's GPUs, without which their tests are skipped. Needs root;
# does nothing where all of it is there.
set -euo pipefail

missing=()
command -v make >/dev/null || missing+=(make)
command -v gcc >/dev/null || missing+=(gcc libc6-dev)
command -v g++ >/dev/null || missing+=(g++) # runs CUDA kernels on the CPU, for tests
python=$(command -v python3.11 || command -v python3 || true)
if [ -z "$python" ]; then
    missing+=(python3 python3-venv)
elif ! "$python" -c 'import venv, ensurepip' 2>/dev/null; then
    missing+=(python3-venv)
fi

# ld.lld links code objects (17 or newer), llvm-readelf and llvm-objdump check them.
wanted=()
command -v ld.lld-19 >/dev/null || wanted+=(lld-19)
command -v llvm-objdump-19 >/dev/null || wanted+=(llvm-19)
command -v verilator >/dev/null || wanted+=(verilator) # simulates the Verilog of FPGA kernels

if [ ${#missing[@]} -gt 0 ] || [ ${#wanted[@]} -gt 0 ]; then
    apt-get update -qq
    for package in "${wanted[@]}"; do
        if apt-cache show "$package" >/dev/null 2>&1; then
            missing+=("$package")
        else
            echo "not available here: $package" >&2
        fi
    done
fi

if [ ${#missing[@]} -gt 0 ]; then
    echo "installing: ${missing[*]}"
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
fi
