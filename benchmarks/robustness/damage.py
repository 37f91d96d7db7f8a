"""Bytes damaged as discs, lines and editors do it."""

import random

KINDS = (
    "a bit flipped",
    "bits flipped",
    "cut short",
    "a stretch twice",
    "bytes put in",
    "a stretch lost",
    "overwritten",
)


def flipped(content: bytes, position: int, bit: int) -> bytes:
    """Return the bytes with one bit flipped."""
    damaged = bytearray(content)
    damaged[position] ^= 1 << bit
    return bytes(damaged)


def damaged(content: bytes, rng: random.Random) -> tuple[bytes, str]:
    """Return the bytes with one damage, and its kind."""
    kind = rng.choice(KINDS)
    place, length = rng.randrange(max(1, len(content))), rng.choice([1, 2, 5, 17, 100, 700])
    before, stretch, after = content[:place], content[place : place + length], content[place + length :]
    if kind in {"a bit flipped", "bits flipped"}:
        for _ in range(1 if kind == "a bit flipped" else rng.randint(2, 20)):
            content = flipped(content, rng.randrange(len(content)), rng.randrange(8))
        return content, kind
    return {
        "cut short": before,
        "a stretch twice": before + stretch + stretch + after,
        "bytes put in": before + rng.randbytes(length) + stretch + after,
        "a stretch lost": before + after,
        "overwritten": before + rng.randbytes(len(stretch)) + after,
    }[kind], kind
