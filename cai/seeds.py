"""Randomness is addressed, not streamed: every (seed, stage, item) owns a stream, so the order of work changes no draw."""

from __future__ import annotations

import json
import random
from hashlib import sha256


def derive(seed: int, *where: object) -> int:
    """A 63-bit seed for one place, e.g. `derive(0, "revise", row.id, "reply")`."""
    text = json.dumps([seed, *map(str, where)])
    return int.from_bytes(sha256(text.encode()).digest()[:8], "big") >> 1


def rng(seed: int, *where: object) -> random.Random:
    """A generator of its own for one place."""
    return random.Random(derive(seed, *where))
