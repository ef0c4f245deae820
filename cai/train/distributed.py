"""Several processes that train one model, as torchrun starts them: who this one is, and what they tell each other.

Every process knows all rollouts of an update, and computes on its own share of each minibatch. What they send is tensors only.
One process alone sends nothing, and computes exactly what it would without this module.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from cai.modeling.precision import device

T = TypeVar("T")
TORCHRUN_VARIABLES = (
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "GROUP_RANK",
    "ROLE_RANK",
    "ROLE_WORLD_SIZE",
    "GROUP_WORLD_SIZE",
)
"""What torchrun tells each process through its environment."""
TIMEOUT = timedelta(days=2)
"""How long a process waits for the others: a stage that only the first one walks may take long."""


@contextlib.contextmanager
def process_group() -> Iterator[None]:
    """Inside, the processes that torchrun started can speak to each other; alone, nothing happens."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield
        return
    place = device()
    if place.type == "cuda":
        torch.cuda.set_device(place)
    dist.init_process_group("cpu:gloo,cuda:nccl" if place.type == "cuda" else "gloo", timeout=TIMEOUT)
    try:
        yield
    finally:
        dist.destroy_process_group()


@contextlib.contextmanager
def single_process_env() -> Iterator[None]:
    """Inside, libraries do not see that there are other processes, and do not wait for them."""
    hidden = {name: os.environ.pop(name) for name in TORCHRUN_VARIABLES if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def barrier() -> None:
    """Until all processes are here."""
    if world_size() > 1:
        dist.barrier()


def shard(items: Sequence[T], of: int | None = None) -> list[T]:
    """What this process (or process `of`) does of `items`: each takes every n-th."""
    return list(items[rank() if of is None else of :: world_size()])


def micro_batches(batch: Sequence[int], rows: int, lengths: Sequence[int]) -> list[list[int]]:
    """This process's share of a minibatch, `rows` places of like length at a time, in as many cuts as any process has.

    Who has fewer reads the first place again, without weight: every process must take part in every pass.
    """
    count = max(1, -(-len(shard(batch, 0)) // rows))
    own = sorted(shard(batch), key=lambda place: lengths[place])
    return [own[i * rows : (i + 1) * rows] or [batch[0]] for i in range(count)]


def all_gather_rows(own: Tensor, places: Sequence[Sequence[int]]) -> Tensor:
    """Rows of all processes in one tensor, the same everywhere: row k of process r at `places[r][k]`.

    Args:
        own: (n, ...) this process's rows, n = len(places[rank]).
    """
    whole = own.new_zeros((sum(map(len, places)), *own.shape[1:]))
    if world_size() == 1:
        parts = [own]
    else:
        padded = own.new_zeros((max(map(len, places)), *own.shape[1:]))
        padded[: len(own)] = own
        parts = [torch.empty_like(padded) for _ in places]
        dist.all_gather(parts, padded)
    for part, where in zip(parts, places, strict=True):
        whole[list(where)] = part[: len(where)]
    return whole


def all_reduce_sum(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by its sum over all processes."""
    if world_size() > 1:
        for tensor in tensors:
            dist.all_reduce(tensor)


def all_reduce_max(value: float) -> float:
    """Over all processes."""
    if world_size() == 1:
        return value
    told = torch.tensor([value], dtype=torch.float64)
    dist.all_reduce(told, dist.ReduceOp.MAX)
    return float(told)


def broadcast_flag(value: bool) -> bool:
    """What the first process says."""
    told = torch.tensor([value and rank() == 0], dtype=torch.int64)
    if world_size() > 1:
        dist.broadcast(told, 0)
    return bool(told)


def full_tensor(tensor: Tensor) -> Tensor:
    """The full tensor of one that is spread over processes (all of them must ask); any other as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def is_peer_failure(error: RuntimeError) -> bool:
    """Whether it is what torch raises in one process because another that it waited for has ended."""
    return isinstance(error, dist.DistError) or re.search("gloo|NCCL", str(error)) is not None


def copy_to_sharded(target: Tensor, value: Tensor) -> None:
    """Give `target`, spread or not, the full tensor's values."""
    with torch.no_grad():
        if isinstance(target, DTensor):
            value = distribute_tensor(value.to(target.device), target.device_mesh, target.placements)
        target.copy_(value)
