"""Fixtures of the integration tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from cai.integrations.reward_server import RewardServer


@pytest.fixture(scope="module")
def server() -> Iterator[RewardServer]:
    """A reward server on the loopback, whose reward is `by_length`."""
    from reward_toys import by_length, serving

    with serving(by_length) as running:
        yield running
