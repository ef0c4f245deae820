"""Addressed randomness."""

from __future__ import annotations

import subprocess
import sys
from hashlib import sha256

from cai.seeds import derive, rng


def test_derive_by_hand() -> None:
    """The first 8 bytes of SHA-256 of the JSON list `[0, "revise", "7"]`, halved to 63 bits."""
    assert derive(0, "revise", 7) == int(sha256(b'[0, "revise", "7"]').hexdigest()[:16], 16) // 2


def test_every_place_has_a_stream_of_its_own() -> None:
    """Neither the order of draws nor how names are cut into parts lets two places share one."""
    places = [(0,), (1,), (0, "a"), (0, "b"), (0, "a", "b"), (0, "ab"), (0, "a,b"), (0, "a", 1), (0, "a", 2), (0, 'a", "b')]
    assert len({derive(*place) for place in places}) == len(places)
    assert all(0 <= derive(*place) < 2**63 for place in places)
    first = rng(0, "a").random()
    rng(0, "b").random()
    assert rng(0, "a").random() == first
    assert rng(0, "b").random() != first


def test_another_process_draws_the_same() -> None:
    """Python salts `hash()` anew in every process; these numbers must not depend on it."""
    run = [sys.executable, "-c", "from cai.seeds import rng; print(rng(3, 'a', 'b').random())"]
    assert float(subprocess.run(run, capture_output=True, check=True, text=True).stdout) == rng(3, "a", "b").random()
