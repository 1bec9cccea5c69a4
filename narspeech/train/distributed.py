"""Data parallelism under torchrun, by one sum of all gradients a step.

Every process joins exactly one sum a step, whether or not it had a micro-batch, so unequal shards cannot hang, and parameters
without a gradient need no special case. Losses are sums that are divided by the global count, so the gradient is that of
one process with the same global batch.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def start() -> tuple[int, int]:
    """(rank, world size); joins the process group where torchrun started this process."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return 0, 1
    if not dist.is_initialized():
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return dist.get_rank(), dist.get_world_size()


def stop() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def wait() -> None:
    """Until every process is here."""
    if dist.is_initialized():
        dist.barrier()


def sum_values(values: Tensor) -> Tensor:
    """The sum over all processes, in place."""
    if dist.is_initialized():
        dist.all_reduce(values)
    return values


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace every gradient by its sum over all processes; a missing one counts as zero."""
    if not dist.is_initialized():
        return
    parameters = list(parameters)
    flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])
    dist.all_reduce(flat)
    for p, gradient in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        p.grad = gradient.view_as(p)


def average_buffers(buffers: Iterable[Tensor]) -> None:
    """Running statistics become their mean over all processes."""
    if not dist.is_initialized():
        return
    for buffer in buffers:
        if buffer.is_floating_point():
            dist.all_reduce(buffer)
            buffer /= dist.get_world_size()


def gather(value: Any) -> list[Any]:
    """The small plain values of all processes, in the order of their ranks."""
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values
