"""Learning-rate schedules and the parameters that decay."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW. learning_rate is the peak, reached after `warmup` updates; then "noam" falls with the inverse square root
    of the updates, "cosine" to `floor` times the peak at the end of the training; clip: largest gradient norm."""

    learning_rate: float = 1e-3
    warmup: int = 1000
    schedule: Literal["noam", "cosine"] = "cosine"
    floor: float = 0.02
    beta1: float = 0.9
    beta2: float = 0.98
    weight_decay: float = 1e-2
    clip: float = 5.0


def learning_rate(config: OptimConfig, update: int, progress: float) -> float:
    """The rate of update number `update` (from 0), `progress` 0..1 through the training."""
    rise = (update + 1) / max(config.warmup, 1)
    if rise < 1:
        return config.learning_rate * rise
    if config.schedule == "noam":  # Vaswani et al. 2017, section 5.3, scaled to its peak
        return config.learning_rate / math.sqrt(rise)
    half = 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    return config.learning_rate * (config.floor + (1 - config.floor) * half)


def adamw(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW that decays matrices only: decaying a bias or a norm's scale just fights its purpose."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=0.0, betas=(config.beta1, config.beta2), fused=True)
