#!/usr/bin/env bash
# The tour that `make demo` gives: get a model, compile it, verify it, use it, measure it. Expects kompilo on PATH.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p build/demo
artifact=build/demo/magika.kpo

step() {
    printf '\n$ %s\n' "$*"
    "$@"
}

step kompilo zoo get magika
step kompilo compile zoo:magika -o "$artifact"
step kompilo verify "$artifact" zoo:magika

# Files of the repository of many kinds; find rather than git, for archives without history.
mapfile -t files < <(find README.md LICENSE Makefile pyproject.toml .ci scripts examples models docs -type f \
    -not -name '*.pyc' -size +0 | sort | head -40)
printf '\n$ python examples/classify_files.py %s FILES...\n' "$artifact"
python examples/classify_files.py "$artifact" "${files[@]}"

step kompilo bench zoo:magika --against onnxruntime --threads 1,2 --seconds 2
