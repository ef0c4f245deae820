"""Collectives for several processes that train one model, as torchrun starts them.

Every process knows all rollouts of an update, and computes on its own share of each minibatch. Only
tensors are sent. A single process sends nothing, and computes exactly what it would without this
module.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from cai.errors import CaiError
from cai.modeling.precision import device
from cai.store import atomic_directory, partial_path

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
"""Environment variables by which torchrun tells each process its rank."""
TIMEOUT = timedelta(days=2)
"""Of a collective: a stage that only the first process runs may take long."""


@contextlib.contextmanager
def process_group() -> Iterator[None]:
    """Inside, torchrun's processes are connected; for a single process, no group is made."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield
        return
    accelerator = device()
    if accelerator.type == "cuda":
        torch.cuda.set_device(accelerator)
    backend = "cpu:gloo,cuda:nccl" if accelerator.type == "cuda" else "gloo"
    # torchrun may start ended processes again, beside the store in which those left addresses
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store, number, count = next(dist.rendezvous("env://"))  # type: ignore[attr-defined]
    store = dist.PrefixStore(f"attempt-{attempt}", store)  # type: ignore[attr-defined]
    dist.init_process_group(backend, store=store, rank=number, world_size=count, timeout=TIMEOUT)
    try:
        yield
        # none leaves while another still sends: gloo may abort the process that does
        dist.barrier()
    finally:
        dist.destroy_process_group()


def exit_process(code: int) -> NoReturn:
    """End this process without the interpreter's shutdown.

    The threads of torch's process groups may abort a process whose work is finished, while its
    libraries are torn down; torchrun would then report a failure.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


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
    """Block until every process reaches this call."""
    if world_size() > 1:
        dist.barrier()


@contextlib.contextmanager
def written_by_first(path: Path) -> Iterator[Path]:
    """`store.atomic_directory` for all processes: each gets the partial folder, the first one fills
    it, and none goes on before it is complete.
    """
    if rank() == 0:
        with atomic_directory(path) as partial:
            yield partial
    else:
        yield partial_path(path)
    barrier()


def local_share(items: Sequence[T], process: int | None = None) -> list[T]:
    """This process's share of `items` (or that of `process`): every n-th, from its rank on."""
    return list(items[rank() if process is None else process :: world_size()])


def local_micro_batches(
    minibatch: Sequence[int], size: int, lengths: Sequence[int]
) -> list[list[int]]:
    """This process's share of a minibatch, `size` indices of like length at a time, in as many
    parts as any process has.

    A process with fewer repeats the first index, to be given no weight: every process must take
    part in every pass.
    """
    count = max(1, -(-len(local_share(minibatch, 0)) // size))
    local = sorted(local_share(minibatch), key=lambda index: lengths[index])
    return [local[i * size : (i + 1) * size] or [minibatch[0]] for i in range(count)]


def all_gather_rows(local: Tensor, indices: Sequence[Sequence[int]]) -> Tensor:
    """Rows of all processes in one tensor, the same everywhere: row k of process r at
    `indices[r][k]`.

    Args:
        local: (n, ...) this process's rows, n = len(indices[rank]).
    """
    gathered = local.new_zeros((sum(map(len, indices)), *local.shape[1:]))
    if world_size() == 1:
        parts = [local]
    else:
        padded = local.new_zeros((max(map(len, indices)), *local.shape[1:]))
        padded[: len(local)] = local
        parts = [torch.empty_like(padded) for _ in indices]
        dist.all_gather(parts, padded)
    for part, rows in zip(parts, indices, strict=True):
        gathered[list(rows)] = part[: len(rows)]
    return gathered


def all_reduce_sum(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by its sum over all processes."""
    if world_size() > 1:
        for tensor in tensors:
            dist.all_reduce(tensor)


def all_reduce_max(value: float) -> float:
    """The largest value of all processes."""
    if world_size() == 1:
        return value
    tensor = torch.tensor([value], dtype=torch.float64)
    dist.all_reduce(tensor, dist.ReduceOp.MAX)
    return float(tensor)


def broadcast_flag(value: bool) -> bool:
    """The first process's value."""
    flag = torch.tensor([value], dtype=torch.int64)
    if world_size() > 1:
        dist.broadcast(flag, 0)
    return bool(flag)


def share_rng_state() -> None:
    """Let every process go on with torch's random numbers as the first one does."""
    if world_size() > 1:
        state = torch.get_rng_state()
        dist.broadcast(state, 0)
        torch.set_rng_state(state)


def full_tensor(tensor: Tensor) -> Tensor:
    """The whole of a sharded tensor (all processes must call); any other as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def copy_to_sharded(target: Tensor, value: Tensor) -> None:
    """Give `target`, sharded or not, the full tensor's values."""
    with torch.no_grad():
        if isinstance(target, DTensor):
            value = distribute_tensor(
                value.to(target.device), target.device_mesh, target.placements
            )
        target.copy_(value)


def is_peer_failure(error: BaseException | None) -> bool:
    """Whether torch raised it because another process, which this one waited for, has ended; or
    what it was raised from was.
    """
    if isinstance(error, CaiError):
        return is_peer_failure(error.__cause__)
    if not isinstance(error, RuntimeError):
        return False
    return isinstance(error, dist.DistError) or re.search("gloo|NCCL", str(error)) is not None
