#!/usr/bin/env bash
# Installs what a bare Debian lacks for building and testing: make, a linker, a C++ compiler, Python's venv module. Needs root;
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

if [ ${#missing[@]} -gt 0 ]; then
    echo "installing: ${missing[*]}"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
fi
