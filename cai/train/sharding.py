"""A model's weights, gradients and optimizer state spread over processes (FSDP2).

A sharded model computes like a whole one, block by block. What is saved of it is whole, so a run
may go on with more processes, with fewer, or with one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from cai.errors import TrainError
from cai.modeling.fast_paths import backbone, fast_paths, set_fast_paths
from cai.modeling.frozen_cache import blocks_of
from cai.modeling.logits import logit_finish, logit_head
from cai.modeling.out_of_memory import is_out_of_memory
from cai.train.distributed import all_reduce_sum, copy_to_sharded, full_tensor, rank, world_size


def shard_model(model: PreTrainedModel) -> None:
    """Shard the model's weights over all processes. Gradients are sums over them, not means.

    The root keeps its weights between forward and backward pass, because the head reads the
    embeddings after the backbone's forward is over.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    # a shared prefix is a forward pass of its own, which needs the blocks gathered twice
    set_fast_paths(model, replace(fast_paths(model), training_prefix=False))
    mesh = init_device_mesh(model.device.type, (world_size(),))
    sharded = [fully_shard(block, mesh=mesh) for block in blocks_of(model)]
    sharded.append(fully_shard(backbone(model), mesh=mesh, reshard_after_forward=False))
    head = model.get_output_embeddings()
    if untied_head_parameters(model):
        sharded.append(fully_shard(head, mesh=mesh))
    else:  # else the head would hold on to the whole of the embeddings
        head.weight = backbone(model).get_input_embeddings().weight
    for module in sharded:
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)  # gloo and NCCL both have sums


def is_sharded(model: nn.Module) -> bool:
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def freeze_below(model: PreTrainedModel, num_trainable_layers: int | None) -> None:
    """Let only the last blocks learn; None: every weight, the embeddings too."""
    if num_trainable_layers is not None:
        model.requires_grad_(False)
        for block in blocks_of(model)[-num_trainable_layers:]:
            block.requires_grad_(True)


def backbone_and_head_parameters(model: PreTrainedModel) -> list[nn.Parameter]:
    """Those that learn, each once."""
    parameters = (*backbone(model).parameters(), *untied_head_parameters(model))
    return [p for p in parameters if p.requires_grad]


def untied_head_parameters(model: PreTrainedModel) -> list[nn.Parameter]:
    """The language-model head's parameters, where they are not the embeddings'."""
    if getattr(model.config, "tie_word_embeddings", False):
        return []
    of_backbone = {id(p) for p in backbone(model).parameters()}
    return [p for p in model.get_output_embeddings().parameters() if id(p) not in of_backbone]


def head_of(model: PreTrainedModel) -> Callable[[Tensor], Tensor]:
    """Hidden states -> logits. Tied weights are read from the backbone, for only those are gathered
    when sharded.
    """
    if untied_head_parameters(model):
        return logit_head(model)
    finish = logit_finish(model)
    return lambda hidden: finish(
        nn.functional.linear(hidden, backbone(model).get_input_embeddings().weight)
    )


@torch.no_grad()
def copy_weights(model: PreTrainedModel, target: PreTrainedModel) -> None:
    """Give `target`, a plain model, the weights of `model`. All processes of a sharded one call
    it.
    """
    weights = dict(target.named_parameters())
    for name, parameter in model.named_parameters():
        if name in weights:  # but for a tied head, where the embeddings are gathered
            weights[name].copy_(full_tensor(parameter))


def full_weights(model: nn.Module) -> dict[str, Tensor]:
    """The model's weights by name, each whole, in the first process's memory; none in the others.

    All processes call it.
    """
    from torch.distributed.fsdp import FSDPModule

    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()  # gathered embeddings would hide that the head is tied to them
    return _full(dict(model.named_parameters()))


def load_full_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """The inverse of `full_weights`, in every process.

    Raises:
        KeyError: a weight is missing.
    """
    for name, parameter in model.named_parameters():
        copy_to_sharded(parameter, weights[name])


def full_optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """`optimizer.state_dict()` of the same optimizer on a whole model; see `full_weights`."""
    state = optimizer.state_dict()
    moments = {index: _full(entry) for index, entry in state["state"].items()}
    return {"state": moments, "param_groups": state["param_groups"]}


def load_full_optimizer_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """The inverse of `full_optimizer_state`, in every process."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    moments = {
        index: {key: _sharded_like(parameters[index], value) for key, value in entry.items()}
        for index, entry in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": moments})


def _sharded_like(parameter: Tensor, value: Tensor) -> Tensor:
    if value.shape != parameter.shape:  # a count of steps
        return value
    moment = torch.empty_like(parameter)
    copy_to_sharded(moment, value)
    return moment


def _full(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    full = {}
    for name, tensor in tensors.items():
        gathered = full_tensor(tensor.detach())  # one at a time: only one process keeps it
        if rank() == 0:
            full[name] = gathered.cpu().clone()
    return full


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Sum gradients over processes. FSDP has summed those of what it sharded."""
    replicated = [p.grad for p in parameters if not isinstance(p, DTensor)]
    all_reduce_sum([gradient for gradient in replicated if gradient is not None])


@contextmanager
def same_batches(message: str) -> Iterator[None]:
    """For work in which all processes make the same passes, so that none may go on with smaller
    batches.

    Raises:
        TrainError: `message`, where memory runs out.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise TrainError(message) from error


def clip_gradients(groups: Sequence[Sequence[nn.Parameter]], max_norm: float) -> None:
    """Clip the gradients of all groups to one norm. A group is sharded or is not.

    Parameters of whole models are clipped by torch; sharded ones beside whole ones it refuses.
    """
    parameters = [p for group in groups for p in group]
    if not any(isinstance(p, DTensor) for p in parameters):
        nn.utils.clip_grad_norm_(parameters, max_norm)
        return
    norms = [
        full_tensor(nn.utils.get_total_norm([p.grad for p in group if p.grad is not None]))
        for group in groups
    ]
    scale = float(max_norm / (torch.stack(norms).norm() + 1e-6))
    if scale < 1:
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.mul_(scale)
