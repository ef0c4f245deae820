"""The exact state of a training run in one folder: tensors as safetensors, the rest as JSON.

A torn checkpoint, or one of another run, is refused.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from cai.errors import StoreError, blame
from cai.store import atomic_directory, partial_path
from cai.train.distributed import copy_to_sharded, full_tensor, rank

TENSORS_FILE = "state.safetensors"
STATE_FILE = "state.json"
OPTIMIZER_PREFIX = "optimizer."
"""Of the optimizer's tensors in the file."""


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's moments and step counts as `optimizer.INDEX.KEY`, in parameter order."""
    tensors = {}
    for index, parameter in enumerate(_parameters_of(optimizer)):
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{OPTIMIZER_PREFIX}{index}.{key}"] = torch.as_tensor(value)
    return tensors


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """The inverse of `optimizer_tensors`; other names in `tensors` are ignored."""
    parameters = _parameters_of(optimizer)
    for name, value in tensors.items():
        if name.startswith(OPTIMIZER_PREFIX):
            _, index, key = name.split(".", 2)
            parameter = parameters[int(index)]
            same_shape = value.shape == parameter.shape
            moment = torch.empty_like(parameter) if same_shape else value.clone()
            copy_to_sharded(moment, value)
            optimizer.state[parameter][key] = moment


def _parameters_of(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def save(
    home: Path,
    step: int,
    parameters: Sequence[Tensor],
    optimizer: torch.optim.Optimizer,
    state: Mapping[str, Any],
) -> None:
    """Write `home/step-N` atomically, then delete older ones: a kill leaves the old or the new one.

    With several processes all of them must call it; the first one writes.
    """
    local_tensors = {f"parameter.{i}": p.detach() for i, p in enumerate(parameters)}
    local_tensors |= optimizer_tensors(optimizer)
    tensors = {}
    for name, tensor in local_tensors.items():
        # One at a time: only the first process keeps the gathered tensor.
        gathered = full_tensor(tensor)
        if rank() == 0:
            tensors[name] = gathered
    if rank():
        return
    target = home / f"step-{step:06d}"
    try:
        with atomic_directory(target) as folder:
            save_file({name: t.contiguous() for name, t in tensors.items()}, folder / TENSORS_FILE)
            text = json.dumps({"step": step, **state}, indent=2) + "\n"
            (folder / STATE_FILE).write_text(text, encoding="utf-8")
    except BaseException:
        shutil.rmtree(partial_path(target), ignore_errors=True)  # to free a full disk
        raise
    for older in _checkpoints(home)[:-1]:
        shutil.rmtree(older)


def _checkpoints(home: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted(p for p in home.glob("step-*") if p.suffix != ".partial")


def load(
    home: Path, parameters: Sequence[Tensor], optimizer: torch.optim.Optimizer, state_digest: str
) -> dict[str, Any] | None:
    """Restore the newest checkpoint's tensors and return its JSON state; None without a checkpoint.

    Args:
        state_digest: digest of the run's settings; it must equal the saved `state["state_digest"]`.

    Raises:
        StoreError: the checkpoint is torn, or of other parameters or other settings.
    """
    checkpoints = _checkpoints(home)
    if not checkpoints:
        return None
    folder = checkpoints[-1]
    problem = f"{folder}: not a checkpoint of this run (delete {home} to start the stage anew)"
    with blame(StoreError, problem):
        tensors = load_file(folder / TENSORS_FILE)
        state: dict[str, Any] = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
        int(state["step"])
        if state.get("state_digest") != state_digest:
            raise ValueError("it was made with other settings, another seed or other prompts")
        if f"parameter.{len(parameters)}" in tensors:
            raise ValueError("it holds more parameters than this run has")
        for i, parameter in enumerate(parameters):
            if tensors[f"parameter.{i}"].shape != parameter.shape:
                raise ValueError(f"parameter {i} has another shape there")
            copy_to_sharded(parameter, tensors[f"parameter.{i}"])
        restore_optimizer(optimizer, tensors)
    return state


@dataclass(frozen=True)
class Checkpoints:
    """Checkpoints of one training, or (without a folder) none."""

    home: Path | None
    parameters: Sequence[Tensor]
    """Filled by `load`."""
    optimizer: torch.optim.Optimizer
    state_digest: str

    def load(self) -> tuple[int, dict[str, Any]]:
        """(steps done, the saved state) of the newest one; (0, {}) without one."""
        if self.home is None:
            return 0, {}
        state = load(self.home, self.parameters, self.optimizer, self.state_digest)
        return (0, {}) if state is None else (int(state["step"]), state)

    def save(self, step: int, parameters: Sequence[Tensor], state: Mapping[str, Any]) -> None:
        """Save a step; see `save`."""
        if self.home is not None:
            saved = {**state, "state_digest": self.state_digest}
            save(self.home, step, parameters, self.optimizer, saved)
