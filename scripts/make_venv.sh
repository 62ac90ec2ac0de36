#!/usr/bin/env bash
# Creates a virtual environment: make_venv.sh PYTHON FOLDER. Says in one sentence what is missing where it cannot.
set -euo pipefail

python=${1:-}
folder=${2:-.venv}

if [ -z "$python" ]; then
    echo "make: no Python found; install Python 3.11 or newer (Debian: apt-get install python3 python3-venv)." >&2
    exit 2
fi
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "make: $python is $("$python" -V 2>&1); Kompilo needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 ..." >&2
    exit 2
fi
if ! "$python" -c 'import venv, ensurepip' 2>/dev/null; then
    echo "make: $python has no venv or pip module (Debian: apt-get install python3-venv)." >&2
    exit 2
fi
"$python" -m venv "$folder"
