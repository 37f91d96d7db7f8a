"""Try many faulty inputs, races and kills: ``python -m benchmarks.robustness --inputs 100000 --seed 0 --out FILE``."""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

from benchmarks.robustness.bases import base
from benchmarks.robustness.classes import CLASSES
from benchmarks.robustness.pool import fuzz


def counts_of(inputs: int, only: list[str] | None = None) -> dict[str, int]:
    """Share inputs among classes."""
    shares = {name: kind.share for name, kind in CLASSES.items() if (name in only if only else kind.share)}
    whole = sum(shares.values()) or 1
    return {name: max(1, round(inputs * share / whole)) for name, share in shares.items()}


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--inputs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--classes", nargs="*")
    parser.add_argument("--one", nargs=2)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    given = parser.parse_args()
    if given.one:
        from benchmarks.robustness.worker import tried

        with tempfile.TemporaryDirectory() as scratch:
            case, verdict, seconds = tried(given.one[0], given.seed, int(given.one[1]), Path(scratch))
        print(case, verdict, f"{seconds:.2f} s", sep="\n")
        return 0
    base()
    tallies = fuzz(counts_of(given.inputs, given.classes), given.seed, workers=given.workers, say=lambda t: print(t, file=sys.stderr))
    for name, tally in tallies.items():
        print(name, tally.counts(), f"{tally.slowest:.1f} s")
        for bad in sorted(tally.bad, key=lambda bad: (bad["outcome"], bad["kind"])):
            print("   ", bad["outcome"], "|", bad["kind"], "|", bad["number"], "|", bad["said"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
