"""Addressed random numbers."""

from __future__ import annotations

import subprocess
import sys
from hashlib import sha256

from cai.seeds import derive, rng


def test_derive_by_hand() -> None:
    """The first 8 bytes of SHA-256 of the JSON list `[0, "revise", "7"]`, halved to 63 bits."""
    assert derive(0, "revise", 7) == int(sha256(b'[0, "revise", "7"]').hexdigest()[:16], 16) // 2


def test_each_address_has_its_own_stream() -> None:
    """Addresses that join to the same text differ, and the order of draws changes nothing."""
    addresses = [
        (0,),
        (1,),
        (0, "a"),
        (0, "b"),
        (0, "a", "b"),
        (0, "ab"),
        (0, "a,b"),
        (0, "a", 1),
        (0, "a", 2),
        (0, 'a", "b'),
    ]
    assert len({derive(*address) for address in addresses}) == len(addresses)
    assert all(0 <= derive(*address) < 2**63 for address in addresses)
    first = rng(0, "a").random()
    rng(0, "b").random()
    assert rng(0, "a").random() == first
    assert rng(0, "b").random() != first


def test_another_process_draws_the_same() -> None:
    """`hash()` differs between Python processes; these numbers must not depend on it."""
    command = [sys.executable, "-c", "from cai.seeds import rng; print(rng(3, 'a', 'b').random())"]
    result = subprocess.run(command, capture_output=True, check=True, text=True)
    assert float(result.stdout) == rng(3, "a", "b").random()
