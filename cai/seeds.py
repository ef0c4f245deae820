"""Addressed random numbers: one generator per (seed, stage, item).

The order of the work changes no draw.
"""

from __future__ import annotations

import json
import random
from hashlib import sha256


def derive(seed: int, *address: object) -> int:
    """A 63-bit seed for one address, e.g. `derive(0, "revise", row.id, "reply")`."""
    text = json.dumps([seed, *map(str, address)])
    return int.from_bytes(sha256(text.encode()).digest()[:8], "big") >> 1


def rng(seed: int, *address: object) -> random.Random:
    """The generator for one address."""
    return random.Random(derive(seed, *address))
