"""GLAT with CTC (Qian et al. 2021; Gu & Kong 2021): one pass over the states, learnt with glances at the answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from narspeech.batch import Batch, Draft, Encoded, Loss, Padded, TrainStep
from narspeech.decoders.base import DecodeOptions, Memory, check_shares
from narspeech.decoders.path import PathConfig, PathDecoder, best_path, masked_path
from narspeech.ops.ctc import spelled_loss, spelling
from narspeech.ops.glancing import annealed, rehearsal, reveal
from narspeech.ops.scorer import Scorer
from narspeech.ops.viterbi import forced_path


@dataclass(frozen=True, kw_only=True)
class GlatCTCConfig(PathConfig):
    """glance: the share of the wrongly labelled frames that training reveals, at its start and at its end."""

    kind: ClassVar[str] = "glat_ctc"
    glance: tuple[float, float] = (0.5, 0.3)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_shares("glance", *self.glance)


class GlatCTC(PathDecoder):
    """It needs no CTC head of the model: the paths are its own, all at once, from one where every label is masked."""

    def __init__(self, config: GlatCTCConfig, memory_width: int, size: int) -> None:
        super().__init__(config, memory_width, size)
        self.config = config

    def loss(self, encoded: Encoded, batch: Batch, step: TrainStep) -> Loss:
        """The CTC loss of a pass that sees some labels of the forced alignment.

        A pass without gradient, in which every label is masked, says how many: share x its Hamming distance from the
        forced alignment, at random frames.
        """
        memory = self.prepare(encoded)
        path = masked_path(memory.states)
        draw = torch.rand(path.data.shape).to(path.data.device)
        labels, target = spelling(batch.target)
        with rehearsal(draw.device):
            first, best = self.tokens.log_probs(self.states(path, memory), labels)
        truth, fits = forced_path(Padded(first, path.lengths), target)
        wrong = first.gather(2, truth.unsqueeze(-1)).squeeze(-1) < best
        revealed = reveal(Padded(wrong, path.lengths * fits), annealed(*self.config.glance, step.progress), draw)
        glanced = path._replace(data=torch.where(revealed, labels.gather(1, truth), path.data))
        # A label stands for its frame's state, as published: beside it, it would be the easier of the two to read.
        assert memory.heard is not None
        memory = memory._replace(heard=memory.heard.masked_fill(revealed.unsqueeze(-1), 0))
        log_probs = self.tokens.log_probs(self.states(glanced, memory), labels).log_probs
        losses, fits = spelled_loss(Padded(log_probs, path.lengths), target)
        parts = {"glanced": revealed.sum()}
        if encoded.ctc is None:  # else the model counts them
            parts["infeasible"] = (~fits).sum()
        return Loss(losses.sum(), batch.target.lengths.sum(), parts)

    def draft(self, memory: Memory, options: DecodeOptions, scorer: Scorer | None = None) -> Draft:
        return best_path(self.log_probs(self.unread(memory), memory))
