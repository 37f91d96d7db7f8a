"""What a check says of a dataset."""

from dataclasses import dataclass
from typing import Literal

Severity = Literal["warning", "note"]


@dataclass(frozen=True)
class Finding:
    """One thing that a check has found in a dataset.

    Attributes:
        check: The name of the check, that of its function.
        severity: A "warning" is a likely fault that hurts learning; a "note" is a fact to know, which may be as wanted.
        evidence: What was seen: numbers, columns by name, example rows.
        consequence: What it does to learning.
        remedy: What to do.
    """

    check: str
    severity: Severity
    evidence: str
    consequence: str
    remedy: str
