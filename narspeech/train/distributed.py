"""Data parallelism under torchrun, by one sum of all gradients a step.

Every process joins exactly one sum a step, whether or not it had a micro-batch, so unequal shards cannot hang, and
parameters without a gradient need no special case. Losses are sums that are divided by the global count, so the
gradient is that of one process with the same global batch.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

# The others wait as long as one process decodes a corpus or scores an epoch. One that dies is torchrun's to notice.
PATIENCE = timedelta(days=7)


def start() -> tuple[int, int]:
    """(rank, world size); joins the process group where torchrun started this process."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return 0, 1
    if not dist.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(device())
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo", timeout=PATIENCE)
    return dist.get_rank(), dist.get_world_size()


def device() -> torch.device:
    """This process's accelerator, or the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    return torch.device("cpu")


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
    sizes = [p.numel() for p in parameters]
    for p, gradient in zip(parameters, torch.split(flat, sizes), strict=True):
        p.grad = gradient.view_as(p)


def average_buffers(buffers: Iterable[Tensor]) -> None:
    """Running statistics become their mean over all processes."""
    if not dist.is_initialized():
        return
    for buffer in buffers:
        if buffer.is_floating_point():
            # In double precision the mean of equal constants is that constant, for any number of processes.
            total = buffer.double()
            dist.all_reduce(total)
            buffer.copy_(total / dist.get_world_size())


def gather(value: Any) -> list[Any]:
    """The small plain values of all processes, in the order of their ranks."""
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values
