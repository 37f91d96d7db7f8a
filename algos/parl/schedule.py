"""When the upper level has its rounds: shares of the run, so that a short run has the shape of a long one."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """Rounds at equal distances between a warm-up of the lower level and an end with frozen rewards.

    A run of 1,000,000 updates with shares 0.2 and 0.1 and 140 rounds has one every 5,000 updates. A shorter one has
    fewer updates for each round, and where that would be less than ``least``, fewer rounds; a run with less than
    ``least`` updates between warm-up and end has none.

    Attributes:
        first: Updates before the first round's own.
        last: The last round ends here.
        rounds: How many there are.
    """

    first: int
    last: int
    rounds: int

    @classmethod
    def of(cls, steps: int, warmup: float, frozen: float, rounds: int, least: int) -> "Schedule":
        """Lay out the rounds of a run of ``steps`` updates."""
        first, last = round(warmup * steps), steps - round(frozen * steps)
        return cls(first, last, min(rounds, max(last - first, 0) // least))

    def ending_at(self, step: int) -> int | None:
        """Return the round, counted from 1, that ends with update ``step``; None if none does."""
        if not (self.rounds and self.first < step <= self.last):
            return None
        # Round j ends at first + ⌊j (last - first) / rounds⌋.
        number = -(-(step - self.first) * self.rounds // (self.last - self.first))
        return number if self.end(number) == step else None

    def end(self, number: int) -> int:
        """Return the update with which round ``number`` ends."""
        return self.first + number * (self.last - self.first) // self.rounds
