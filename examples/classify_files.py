"""What are these files? Magika, compiled by Kompilo, answers from their bytes.

    kompilo compile zoo:magika -o magika.kpo
    python examples/classify_files.py magika.kpo FILE...

Files are read in batches: the artifact was compiled with a dynamic first dimension.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

import kompilo
from kompilo.models.magika import Reader

BATCH = 32


def main(artifact: str, names: list[str]) -> None:
    """Prints one line per file: its type, the score, its name."""
    reader = Reader.load()
    module = kompilo.load(artifact)
    files = [Path(name) for name in names]
    seconds = 0.0
    for start in range(0, len(files), BATCH):
        batch = files[start : start + BATCH]
        features = np.concatenate([reader.features(path.read_bytes()) for path in batch])
        started = time.perf_counter()
        scores = module(features)
        seconds += time.perf_counter() - started
        for path, row in zip(batch, scores, strict=True):
            verdict = reader.verdict(row)
            print(f"{verdict.description:28s} {verdict.score:6.1%}  {path}")
    print(f"{len(files)} files in {seconds * 1e3:.0f} ms, {seconds / max(len(files), 1) * 1e3:.1f} ms each")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    try:
        main(sys.argv[1], sys.argv[2:])
    except OSError as error:
        sys.exit(f"{sys.argv[0]}: cannot read {error.filename!r}: {error.strerror}.")
    except kompilo.errors.KompiloError as error:
        sys.exit(f"{sys.argv[0]}: {error}")
