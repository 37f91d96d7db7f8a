"""How fast the algorithms are, as measured once; ``python -m benchmarks.results pages`` writes the file."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

SPEEDS = Path(__file__).parent / "speeds.json"


@dataclass(frozen=True)
class Speeds:
    """Updates per second.

    Attributes:
        rates: By algorithm.
        protocol: On what they were measured, and when, as a phrase.
    """

    rates: Mapping[str, float]
    protocol: str


def measured_speeds() -> Speeds:
    """Return the speeds that came with the package."""
    return Speeds(**json.loads(SPEEDS.read_text(encoding="utf-8")))
