"""Translation and recognition in a single pass: the decoder reads a copy of the source (Gu et al. 2018).

Trained by glancing (Qian et al. 2021, GLAT), and if wanted with deep supervision and layer-wise prediction (Huang et
al. 2022, DSLP).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from narspeech.batch import Batch, Draft, Encoded, Loss, Padded, TrainStep
from narspeech.decoders.base import DecodeOptions, Memory, check_shares
from narspeech.decoders.stack import StackDecoder
from narspeech.errors import ConfigError
from narspeech.nn.attention import key_mask
from narspeech.nn.heads import LengthHead
from narspeech.nn.layers import StackConfig
from narspeech.nn.positions import placed, rotary
from narspeech.ops.copying import (
    at_places,
    even_fertilities,
    fertile_copy,
    mean_fertilities,
    sampled_fertilities,
    uniform_copy,
)
from narspeech.ops.cross_entropy import count_right, smoothed_cross_entropy
from narspeech.ops.glancing import annealed, glance
from narspeech.ops.scorer import Scorer
from narspeech.tokenizer import PAD

# Fertilities 0..49, as published; larger ones are copied as often as given, but learnt as 49.
FERTILITIES = 50


@dataclass(frozen=True, kw_only=True)
class NATConfig(StackConfig):
    """copy: how the encoder's states become the decoder's input.

    "uniform": token u reads state round(u T / U), U being one of the likeliest lengths (`DecodeOptions.candidates`);
    "fertility": every state is read as often as its fertility says, which a head learns from `Batch.guide`, numbers
    (B, T) that sum to the target's length. A row whose guide is missing or does not fit the states, as where there
    are several a source token, learns fertilities spread evenly.

    longest: the most tokens that come out; length_weight: of the loss of the lengths or fertilities; glancing: the
    share of the first pass's errors that is revealed, at the beginning and the end of the training, None without;
    dslp: predict at every layer and feed the predictions onward; mixing: the share of tokens that training replaces by
    the target's between all layers, and that no layer learns from; for training without glancing.
    """

    kind: ClassVar[str] = "nat"
    feed_forward: int = 1024
    label_smoothing: float = 0.1
    copy: Literal["uniform", "fertility"] = "uniform"
    longest: int = 256
    length_weight: float = 1.0
    glancing: tuple[float, float] | None = (0.5, 0.3)
    dslp: bool = False
    mixing: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        check_shares("mixing", self.mixing)
        check_shares("glancing", *(self.glancing or ()))
        if self.longest < 1:
            raise ConfigError(f"expected longest of 1 or more tokens, received {self.longest}; 256 is usual")


class Plan(NamedTuple):
    """lengths (R,) of the hypotheses of each owner (R,); copied (R, U) the state that each token reads."""

    lengths: Tensor
    owner: Tensor
    copied: Tensor


class NAT(StackDecoder):
    several = ("candidates",)

    def __init__(self, config: NATConfig, memory_width: int, size: int) -> None:
        super().__init__(config, memory_width, size)
        self.config = config
        self.copy = nn.Linear(memory_width, config.width)
        self.onward = nn.ModuleList(
            nn.Linear(2 * config.width, config.width) for _ in range(config.depth - 1 if config.dslp else 0)
        )
        fertile = config.copy == "fertility"
        self.fertility = fertility_head(memory_width) if fertile else None
        self.length = None if fertile else LengthHead(memory_width, config.longest)

    def forward(self, inputs: Padded, memory: Memory) -> Tensor:
        """Logits (R, U, V) of copied states (R, U, D)."""
        for logits in self.predictions(inputs, memory):
            last = logits  # the others are not kept
        return last

    def predictions(
        self, inputs: Padded, memory: Memory, gold: Tensor | None = None, mixed: Tensor | None = None
    ) -> Iterator[Tensor]:
        """Logits (R, U, V) of every layer that predicts, the last layer's last; without `dslp` there are no others.

        A layer's likeliest tokens are embedded, and a linear map of them and of the state is added to it for the next
        layer (Huang et al. 2022, eq. 5); where `mixed` (R, U) is True, gold (R, U) stands for them.
        """
        width = inputs.data.shape[1]
        x = self.dropout(placed(inputs.data))
        positions, mask = rotary(width, self.stack.head_width, x.device), key_mask(inputs.lengths, width)
        for number, layer in enumerate(self.stack.layers):
            x = layer(x, positions, mask, memory.keys[number], memory.values[number], memory.mask)
            if number < len(self.onward):
                hidden = self.stack.norm(x)
                logits = self.tokens(hidden)
                yield logits
                tokens = logits.argmax(-1)
                if gold is not None and mixed is not None:
                    tokens = torch.where(mixed, gold, tokens)
                x = x + self.onward[number](torch.cat([hidden, self.tokens.embed(tokens)], -1))
        yield self.tokens(self.stack.norm(x))

    def loss(self, encoded: Encoded, batch: Batch, step: TrainStep) -> Loss:
        """Cross-entropy where nothing was revealed, the mean of the layers that predict, and the lengths' loss."""
        config, memory = self.config, self.prepare(encoded)
        target = batch.target.widened(1, PAD)  # attention needs at least one place, though all texts be empty
        extent, copied, parts = self._layout(memory.states, target, batch.guide)
        inputs = at_places(self.copy(memory.states.data), copied)
        shown, mixed = torch.zeros_like(target.mask), None
        if config.glancing is None:
            if self.training and config.dslp:
                # One draw for all layers, none of which is asked for these: else it would learn to copy what it is fed.
                shown = mixed = (torch.rand(shown.shape) < config.mixing).to(shown.device) & target.mask
        else:
            ratio = annealed(*config.glancing, step.progress)
            shown = glance(target, ratio, lambda: self(Padded(inputs, target.lengths), memory).argmax(-1))
            inputs = torch.where(shown[..., None], self.tokens.embed(target.data).to(inputs.dtype), inputs)
        hidden = target.mask & ~shown
        truth, losses = target.data[hidden], []
        for logits in self.predictions(Padded(inputs, target.lengths), memory, target.data, mixed):
            found = logits[hidden].float()
            losses.append(smoothed_cross_entropy(found, truth, config.label_smoothing, self.tokens.allowed))
        total = torch.stack(losses).mean() + config.length_weight * extent
        parts = {**parts, "hidden": hidden.sum(), "hidden_correct": count_right(found, truth)}
        return Loss(total, target.lengths.sum(), parts)

    def _layout(self, states: Padded, target: Padded, guide: Padded | None) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """The loss of lengths or fertilities, the state (B, U) that each token copies, and what to report."""
        width = target.data.shape[1]
        if self.length is not None:
            loss = self.length.loss(states, target.lengths)
            return loss, uniform_copy(states.lengths, target.lengths, width), {"length": loss.detach()}
        assert self.fertility is not None
        fertilities, given = gold_fertilities(states, target.lengths, guide)
        logits = self.fertility(states.data)[states.mask].float()
        loss = F.cross_entropy(logits, fertilities[states.mask].clamp(max=FERTILITIES - 1), reduction="sum")
        return loss, fertile_copy(fertilities, width), {"fertility": loss.detach(), "guided": given.sum()}

    def draft(self, memory: Memory, options: DecodeOptions, scorer: Scorer | None = None) -> Draft:
        """Whole hypotheses at once: there is nothing to refine."""
        lengths, owner, copied = self._plan(memory.states, options.candidates)
        frames = self.copy(memory.states.data)
        if len(owner) > len(frames):
            frames, memory = frames[owner], memory.rows(owner)
        logits = self(Padded(at_places(frames, copied), lengths), memory)
        scores, best = F.log_softmax(logits.float(), -1).max(-1)
        beyond = ~Padded(best, lengths).mask
        tokens = Padded(best.masked_fill(beyond, PAD), lengths)
        return Draft(tokens, scores.masked_fill(beyond, 0), owner, torch.zeros_like(owner))

    def _plan(self, states: Padded, candidates: int) -> Plan:
        """The likeliest lengths; or the mean fertilities, then samples. Where the first is empty, all are."""
        batch, width = states.mask.shape
        fertilities = None
        if self.length is not None:
            lengths = self.length.likeliest(states, candidates)
        else:
            assert self.fertility is not None
            probabilities = self.fertility(states.data).float().softmax(-1)
            expected = probabilities @ torch.arange(FERTILITIES, device=states.data.device).float()
            first = mean_fertilities(expected * states.mask)[:, None]
            others = sampled_fertilities(probabilities, candidates - 1) * states.mask[:, None]
            fertilities = torch.cat([first, others], 1)
            lengths = fertilities.sum(-1).clamp(max=self.config.longest)
        lengths = lengths * (lengths[:, :1] > 0)
        owner = torch.arange(batch, device=lengths.device).repeat_interleave(lengths.shape[1])
        lengths = lengths.flatten()
        longest = max(1, int(lengths.max()))  # attention needs a place
        if fertilities is None:
            copied = uniform_copy(states.lengths[owner], lengths, longest)
        else:
            copied = fertile_copy(fertilities.view(-1, width), longest)
        return Plan(lengths, owner, copied)


def fertility_head(width: int) -> nn.Linear:
    """It begins with fertility f at about exp(-f): else the mean would be led by large fertilities never seen."""
    head = nn.Linear(width, FERTILITIES)
    with torch.no_grad():
        head.bias.copy_(-torch.arange(FERTILITIES))
    return head


def gold_fertilities(states: Padded, lengths: Tensor, guide: Padded | None) -> tuple[Tensor, Tensor]:
    """Fertilities (B, T) that sum to the targets' lengths (B,), and which rows (B,) took them from the guide.

    A guide fits where it has a number for each state, none negative, and the right sum; others are spread evenly.
    """
    width = states.data.shape[1]
    even = even_fertilities(lengths, states.lengths, width)
    if guide is None:
        return even, torch.zeros_like(lengths, dtype=torch.bool)
    given = F.pad(guide.data, (0, width - guide.data.shape[1])).long() * states.mask
    fits = (guide.lengths == states.lengths) & (given.sum(-1) == lengths) & (given >= 0).all(-1)
    return torch.where(fits[:, None], given, even), fits
