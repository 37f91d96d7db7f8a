"""What several commands share."""

import json
import typing
from typing import Any

Dynamics = typing.Literal["d4rl", "plain"]


def spread(row: dict[str, Any]) -> str:
    """Return the standard deviation of the returns of several episodes; of one there is none."""
    return "–" if row["episodes"] < 2 or row["return_std"] is None else f"{row['return_std']:.1f}"


def print_json(value: Any) -> None:
    """Print indented JSON."""
    print(json.dumps(value, indent=2))
