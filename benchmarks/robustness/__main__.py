"""Try faulty inputs, races and kills, and record what became of them; ``show`` writes the table in the docs.

``python -m benchmarks.robustness --inputs 100000 --seed 0 --out results/robustness.json`` is the fuzzer; each of
``races``, ``kills`` and ``flips`` adds its part to the same file; ``one`` tries a single input again.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine import today
from benchmarks.robustness.bases import base
from benchmarks.robustness.cases import RIGHT
from benchmarks.robustness.classes import CLASSES
from benchmarks.robustness.kills import COMMANDS, kill
from benchmarks.robustness.pool import ROOT, Tally
from benchmarks.robustness.pool import fuzz as tried
from benchmarks.robustness.races import race
from benchmarks.robustness.table import tables
from benchmarks.text import between
from offline_rl.errors import OfflineRLError
from offline_rl.files import read_sealed, sealed, write_bytes, write_json
from offline_rl.origin import commit, processor, versions

RESULT = ROOT / "results" / "robustness.json"
PAGE = ROOT / "docs" / "robustness.md"
CORES = len(os.sched_getaffinity(0))


def counts_of(inputs: int, only: Sequence[str] = ()) -> dict[str, int]:
    """Share inputs among the classes, all or some; at least one each."""
    shares = {name: kind.share or 1 for name, kind in CLASSES.items() if (name in only if only else kind.share)}
    return {name: max(1, round(inputs * share / sum(shares.values()))) for name, share in shares.items()}


def fuzz(
    *, inputs: int = 1000, seed: int = 0, only: tuple[str, ...] = (), workers: int = CORES, out: Path | None = None
) -> None:
    """Try faulty inputs of all classes; print each bad one with the command that tries it alone.

    Args:
        inputs: How many.
        seed: Decides them.
        only: Classes, if not all.
        workers: Processes side by side.
        out: File to record the counts in.
    """
    if unknown := sorted(set(only) - set(CLASSES)):
        raise SystemExit(f"unknown class {unknown[0]}; there are {', '.join(CLASSES)}")
    begin = time.monotonic()
    base()
    tallies = tried(counts_of(inputs, only), seed, workers=workers, say=_say)
    for tally in tallies.values():
        for bad in sorted(tally.bad, key=lambda bad: (bad["outcome"], bad["kind"])):
            print(complaint(bad, seed))
    counts = {name: tally.counts() for name, tally in tallies.items()}
    for name, count in counts.items():
        print(f"{name:12}", json.dumps(count), f"slowest {tallies[name].slowest:.1f} s")
    _record(out, "fuzz", {"seed": seed, "minutes": round((time.monotonic() - begin) / 60, 1), "classes": counts})
    _exit(any(_bad(tally) for tally in tallies.values()))


def complaint(bad: dict[str, Any], seed: int) -> str:
    """Return a bad input in one line, with the command that tries it alone."""
    command = f"python -m benchmarks.robustness one {bad['class']} {bad['number']} --seed {seed}"
    return f"{bad['class']} | {bad['outcome']} | {bad['kind']} | {bad['said']} | {command}"


def one(name: str, number: int, /, *, seed: int = 0, keep: Path | None = None) -> None:
    """Try one input again, and say what it is.

    Args:
        name: Its class.
        number: Its number.
        seed: The seed it was made from.
        keep: A new folder to leave its files in.
    """
    import random

    from benchmarks.robustness.worker import tried as once

    base()
    if keep:
        keep.mkdir()
        CLASSES[name].make(random.Random(f"{name}/{seed}/{number}"), keep.resolve())
    with tempfile.TemporaryDirectory() as scratch:
        case, verdict, seconds = once(name, seed, number, Path(scratch))
    print(f"{case.kind}; must {case.must}{f', because {case.why}' if case.why else ''}; names {case.names}")
    print(f"{verdict.outcome} in {seconds:.2f} s: {verdict.said}")
    _exit(verdict.outcome not in RIGHT)


def flips(*, inputs: int = 1000, seed: int = 0, workers: int = CORES, out: Path | None = None) -> None:
    """Flip single bits of checkpoints, the rows beside them, and agents; each must be noticed.

    Args:
        inputs: How many.
        seed: Decides which.
        workers: Processes side by side.
        out: File to record the counts in.
    """
    base()
    tally = tried({"flip": inputs}, seed, workers=workers, say=_say)["flip"]
    for bad in tally.bad:
        print(complaint(bad, seed))
    print(json.dumps(tally.counts()))
    _record(out, "flips", {"seed": seed, **tally.counts()})
    _exit(_bad(tally))


def races(*, pairs: int = 200, seed: int = 0, out: Path | None = None) -> None:
    """Start pairs of processes on one folder: one wins, its work ends, the other says so in a sentence.

    Args:
        pairs: How many.
        seed: Decides the kinds and by how much one is late.
        out: File to record the counts in.
    """
    found = race(pairs, seed, say=_say)
    failures = [fault for races in found.values() for fault in races.failures]
    print("\n".join(failures))
    kinds = {kind: {"pairs": r.pairs, "met": r.met, "failures": len(r.failures)} for kind, r in found.items()}
    print(json.dumps(kinds))
    _record(out, "races", {"seed": seed, "kinds": kinds})
    _exit(bool(failures))


def kills(*, count: int = 20, seed: int = 0, only: tuple[str, ...] = (), out: Path | None = None) -> None:
    """Kill commands at random moments of their lives and give them again: they end with the same result.

    Args:
        count: Kills of each command.
        seed: Decides the moments.
        only: Commands, if not all; what is recorded of the others stays.
        out: File to record the counts in.
    """
    found = {name: kill(name, count, seed, say=_say) for name in only or COMMANDS}
    failures = [fault for kills in found.values() for fault in kills.failures]
    print("\n".join(failures))
    counts = {n: {"kills": k.kills, "ended before": k.ended, "failures": len(k.failures)} for n, k in found.items()}
    print(json.dumps(counts))
    made = {name: {**own, "commit": commit()} for name, own in counts.items()}
    others = read_sealed(out)["kills"]["commands"] if only and out and out.exists() else {}
    _record(out, "kills", {"seed": seed, "commands": {**others, **made}})
    _exit(bool(failures))


def show(path: Path = RESULT, /, *, page: Path = PAGE) -> None:
    """Write the tables of a recorded result between the marks of a page.

    Args:
        path: The result.
        page: Markdown file.
    """
    text = between(page.read_text(encoding="utf-8"), "robustness", tables(read_sealed(path)))
    write_bytes(page, text.encode())


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _bad(tally: Tally) -> bool:
    return any(tally.outcomes[name] for name in tally.outcomes if name not in RIGHT)


def _record(out: Path | None, part: str, found: dict[str, Any]) -> None:
    """Put a part into the file, beside those that are there; each says itself where it comes from."""
    if out is None:
        return
    before = read_sealed(out) if out.exists() else {}
    origin = {"date": today(), "commit": commit(), "versions": versions(), "processor": processor(), "cores": CORES}
    write_json(out, sealed({**before, part: {**origin, **found}}))


def _exit(failed: bool) -> None:
    if failed:
        raise SystemExit(1)


def main() -> int:
    """Run a part, the fuzzer where none is named; return the exit status, 1 if anything went wrong."""
    import tyro

    parts = {"fuzz": fuzz, "one": one, "flips": flips, "races": races, "kills": kills, "show": show}
    words = sys.argv[1:]
    if not words or (words[0].startswith("-") and words[0] not in {"-h", "--help"}):
        words = ["fuzz", *words]
    try:
        tyro.extras.subcommand_cli_from_dict(parts, args=words)
    except OfflineRLError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
