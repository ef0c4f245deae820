"""Errors of peers in distributed training."""

from __future__ import annotations

import pytest
import torch

from cai.errors import TrainError, blame
from cai.train.distributed import is_peer_failure


def test_errors_of_a_peer() -> None:
    """Errors of gloo and NCCL are those of a process whose peer ended; others are its fault."""
    assert is_peer_failure(
        RuntimeError(
            "[/src/third_party/gloo/gloo/transport/tcp/pair.cc:547] "
            "Connection closed by peer [127.0.0.1]:1"
        )
    )
    assert is_peer_failure(torch.distributed.DistBackendError("NCCL error"))
    assert not is_peer_failure(torch.OutOfMemoryError("out of memory"))
    assert not is_peer_failure(RuntimeError("The size of tensor a (3) must match"))


@pytest.mark.parametrize(("text", "expected"), [("gloo: Connection closed", True), ("nan", False)])
def test_an_error_of_a_stage_that_a_peer_caused(text: str, expected: bool) -> None:
    """A stage's error line keeps what it was raised from."""
    with pytest.raises(TrainError) as raised, blame(TrainError, "sft"):
        raise RuntimeError(text)
    assert is_peer_failure(raised.value) is expected
