"""The tables of a recorded result, as Markdown."""

from typing import Any

from benchmarks.robustness.cases import OUTCOMES
from benchmarks.robustness.classes import CLASSES
from offline_rl.analysis.tables import markdown


def tables(result: dict[str, Any]) -> str:
    """Return the tables of all parts that were recorded, each with its origin.

    Args:
        result: What ``python -m benchmarks.robustness`` wrote.
    """
    parts = {"fuzz": _fuzz, "flips": _flips, "races": _races, "kills": _kills}
    return (
        "\n\n".join(
            f"{make(result[part])}\n\n{_origin(result[part])}" for part, make in parts.items() if part in result
        )
        + "\n"
    )


def _origin(part: dict[str, Any]) -> str:
    place = f"commit {part['commit'][:9]}" if part["commit"] else "a version without a commit"
    return (
        f"Made {part['date']} from {place} with seed {part['seed']}, on {part['cores']} cores of {part['processor']}."
    )


def _fuzz(part: dict[str, Any]) -> str:
    rows = [
        [CLASSES[name].title, f"{counts['tried']:,}", *(f"{counts[outcome]:,}" for outcome in OUTCOMES)]
        for name, counts in part["classes"].items()
    ]
    whole = [sum(counts[name] for counts in part["classes"].values()) for name in ("tried", *OUTCOMES)]
    return markdown(["inputs", "tried", *OUTCOMES], [*rows, ["*all*", *(f"{count:,}" for count in whole)]])


def _flips(part: dict[str, Any]) -> str:
    row = [f"{part['tried']:,}", f"{part['refused']:,}", f"{part['tried'] - part['refused']:,}"]
    return markdown(["bits flipped in checkpoints and agents", "noticed", "not noticed, or in a bad sentence"], [row])


def _races(part: dict[str, Any]) -> str:
    rows = [
        [f"two processes, one {kind}", str(c["pairs"]), str(c["met"]), str(c["failures"])]
        for kind, c in part["kinds"].items()
    ]
    return markdown(["race", "pairs", "met at work", "failures"], rows)


def _kills(part: dict[str, Any]) -> str:
    rows = [
        [f"`offline-rl {name}`", str(c["kills"]), str(c["failures"]), (c.get("commit") or "–")[:9]]
        for name, c in part["commands"].items()
    ]
    return markdown(["command", "kills", "failures", "commit"], rows)
