"""Exact state of a training run in one folder: tensors as safetensors, the rest as JSON. A torn or foreign one is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from cai.errors import StoreError, blame
from cai.store import atomic_directory, partial_path
from cai.train.distributed import copy_to_sharded, full_tensor, rank

TENSORS, STATE = "state.safetensors", "state.json"


def optimizer_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's moments and step counts under flat names, in the order of its parameters."""
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    found = {}
    for i, parameter in enumerate(parameters):
        for key, value in optimiser.state.get(parameter, {}).items():
            found[f"optimiser.{i}.{key}"] = torch.as_tensor(value)
    return found


def restore_optimizer(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    for name, value in tensors.items():
        if name.startswith("optimiser."):
            _, place, key = name.split(".", 2)
            parameter = parameters[int(place)]
            moment = (
                torch.empty_like(parameter) if value.shape == parameter.shape else value.clone()
            )
            copy_to_sharded(moment, value)
            optimiser.state[parameter][key] = moment


def save(
    home: Path,
    step: int,
    parameters: Sequence[Tensor],
    optimiser: torch.optim.Optimizer,
    state: Mapping[str, Any],
) -> None:
    """Write `home/step-N` whole, then drop older ones: a kill leaves the old state or the new one, never none.

    With several processes all of them call it, and the first one writes.
    """
    spread = {f"parameter.{i}": p.detach() for i, p in enumerate(parameters)} | optimizer_tensors(
        optimiser
    )
    tensors = {}
    for (
        name,
        tensor,
    ) in spread.items():  # one at a time: gathered, they are kept by the first process alone
        gathered = full_tensor(tensor)
        if rank() == 0:
            tensors[name] = gathered
    if rank():
        return
    target = home / f"step-{step:06d}"
    try:
        with atomic_directory(target) as aside:
            save_file({name: t.contiguous() for name, t in tensors.items()}, aside / TENSORS)
            (aside / STATE).write_text(
                json.dumps({"step": step, **state}, indent=2) + "\n", encoding="utf-8"
            )
    except BaseException:
        shutil.rmtree(partial_path(target), ignore_errors=True)  # a full disk needs the room
        raise
    for older in _saved(home)[:-1]:
        shutil.rmtree(older)


def _saved(home: Path) -> list[Path]:
    return sorted(p for p in home.glob("step-*") if p.suffix != ".partial")


def load(
    home: Path, parameters: Sequence[Tensor], optimiser: torch.optim.Optimizer, made: str
) -> dict[str, Any] | None:
    """Put the newest saved numbers back and return the JSON state; None when there is no checkpoint.

    Args:
        made: what the state must have been saved with, as `state["made"]`.

    Raises:
        StoreError: the checkpoint is torn, or was written for other parameters or by a run with other settings.
    """
    saved = _saved(home)
    if not saved:
        return None
    folder = saved[-1]
    with blame(
        StoreError,
        f"{folder}: not a checkpoint of this run (delete {home} to start the stage anew)",
    ):
        tensors = load_file(folder / TENSORS)
        state: dict[str, Any] = json.loads((folder / STATE).read_text(encoding="utf-8"))
        int(state["step"])
        if state.get("made") != made:
            raise ValueError("it was made with other settings, another seed or other prompts")
        if f"parameter.{len(parameters)}" in tensors:
            raise ValueError("it holds more parameters than this run has")
        for i, parameter in enumerate(parameters):
            if tensors[f"parameter.{i}"].shape != parameter.shape:
                raise ValueError(f"parameter {i} has another shape there")
            copy_to_sharded(parameter, tensors[f"parameter.{i}"])
        restore_optimizer(optimiser, tensors)
    return state
