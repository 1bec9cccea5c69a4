"""Decoders that rewrite the path of the model's own CTC head: Align-Refine, Align-Denoise and the Imputer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from narspeech.batch import Batch, Draft, Encoded, Loss, Padded, Round, TrainStep
from narspeech.decoders.base import DecodeOptions, Memory
from narspeech.decoders.path import PathConfig, PathDecoder, best_path, masked_path
from narspeech.errors import ConfigError
from narspeech.ops.copying import at_places
from narspeech.ops.ctc import at_labels, ctc_loss, path_loss, spelling
from narspeech.ops.imputer import imputer_loss
from narspeech.ops.masking import fill, mask_uniform
from narspeech.ops.scorer import Scorer
from narspeech.ops.viterbi import forced_path
from narspeech.tokenizer import MASK


@dataclass(frozen=True, kw_only=True)
class AlignRefineConfig(PathConfig):
    """mode: how a path is rewritten, and what that is learnt from.

    "align_refine" (Chi et al. 2021): every frame at each step, from CTC's best path on; trained with the CTC loss of
    `passes` steps unrolled, each of which reads the best path of the one before.
    "align_denoise" (Chen et al. 2021): decodes in the same way, in one step or two; trained to restore the forced
    alignment of the target, of which some frames are replaced by what CTC hears there.
    "imputer" (after Chan et al. 2020): each block of `block` frames begins with the most confident label of CTC's path
    and fills in its most confident masked one at each step, so that `block` - 1 steps do, whatever the length; with
    fewer steps, each fills in more. Trained on a forced alignment that is hidden in part, with the CTC loss over the
    paths that agree with the rest. As published, every frame begins masked.
    """

    kind: ClassVar[str] = "align_refine"
    mode: Literal["align_refine", "align_denoise", "imputer"] = "align_refine"
    passes: int = 4
    block: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("passes", "block"):
            if getattr(self, name) < 1:
                raise ConfigError(f"expected {name} of 1 or more, received {getattr(self, name)}; the papers take 4, 8")


class AlignRefine(PathDecoder):
    reads_ctc = True

    def __init__(self, config: AlignRefineConfig, memory_width: int, size: int) -> None:
        super().__init__(config, memory_width, size)
        self.config, self.repeats = config, config.mode != "imputer"

    def loss(self, encoded: Encoded, batch: Batch, step: TrainStep) -> Loss:
        memory = self.prepare(encoded)
        learn = {"align_refine": self._refining, "align_denoise": self._denoising, "imputer": self._imputing}
        total, parts = learn[self.config.mode](memory, batch.target)
        return Loss(total, batch.target.lengths.sum(), parts)

    def _refining(self, memory: Memory, target: Padded) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean over the passes of the CTC loss; no gradient flows through a path."""
        assert memory.ctc is not None
        losses, log_probs = [], memory.ctc
        for _ in range(self.config.passes):
            log_probs = self.log_probs(self.states(best_path(log_probs).tokens, memory), memory)
            losses.append(ctc_loss(log_probs, target)[0].sum())
        return torch.stack(losses).mean(), {"first_pass": losses[0].detach(), "last_pass": losses[-1].detach()}

    def _denoising(self, memory: Memory, target: Padded) -> tuple[Tensor, dict[str, Tensor]]:
        """-log of the probability of the forced alignment; the share of noise is uniform, one draw an utterance."""
        assert memory.ctc is not None
        labels, spelled = spelling(target)
        aligned, fits = forced_path(at_labels(memory.ctc, labels), spelled)
        truth, heard = labels.gather(1, aligned), best_path(memory.ctc).tokens
        draw = torch.rand(len(truth), truth.shape[1] + 1).to(truth.device)
        noisy = (draw[:, 1:] < draw[:, :1]) & (heard.data != truth) & heard.mask
        path = heard._replace(data=torch.where(noisy, heard.data, truth))
        log_probs = self.tokens.log_probs(self.states(path, memory), labels).log_probs
        losses = path_loss(path._replace(data=log_probs), aligned).masked_fill(~fits, 0)
        return losses.sum(), {"noisy": noisy.sum()}

    def _imputing(self, memory: Memory, target: Padded) -> tuple[Tensor, dict[str, Tensor]]:
        """The Imputer's loss at n ~ U{1..T} hidden frames of the forced alignment."""
        assert memory.ctc is not None
        labels, spelled = spelling(target)
        truth, fits = forced_path(at_labels(memory.ctc, labels), spelled)
        path = Padded(labels.gather(1, truth), memory.ctc.lengths)
        hidden = mask_uniform(path)
        revealed = path.mask & ~hidden & fits[:, None]
        states = self.states(path._replace(data=path.data.masked_fill(~revealed, MASK)), memory)
        log_probs = path._replace(data=self.tokens.log_probs(states, labels).log_probs)
        return imputer_loss(log_probs, spelled, truth, revealed)[0].sum(), {"hidden": hidden.sum()}

    def draft(self, memory: Memory, options: DecodeOptions, scorer: Scorer | None = None) -> Draft:
        assert memory.ctc is not None
        best = best_path(memory.ctc)
        if self.config.mode != "imputer" or options.steps == 0:
            return best
        masked = Draft(masked_path(memory.ctc), torch.zeros_like(best.scores), best.owner, memory.ctc.lengths)
        parts = self._whole_blocks(masked.tokens.data, masked.scores, best.tokens.data, best.scores)
        return self._decide(masked, parts, Round(0, options.steps + 1))

    def refine(
        self, draft: Draft, memory: Memory, turn: Round, options: DecodeOptions, scorer: Scorer | None = None
    ) -> Draft:
        if self.config.mode == "imputer":
            return self._impute(draft, memory, Round(turn.index + 1, turn.steps + 1))
        proposal = best_path(self.log_probs(self.states(draft.tokens, memory), memory))
        return draft._replace(tokens=proposal.tokens, scores=proposal.scores)

    def _impute(self, draft: Draft, memory: Memory, turn: Round) -> Draft:
        tokens, scores = self._whole_blocks(draft.tokens.data, draft.scores)
        # The head reads the masked places alone, of which each block has so many.
        masked = (tokens == MASK).to(torch.uint8).view(len(tokens), -1, self.config.block)
        places = masked.argsort(dim=-1, descending=True, stable=True)[..., : self._left(turn)]
        begins = self.config.block * torch.arange(masked.shape[1], device=places.device)
        places = (places + begins[:, None]).flatten(1)
        logits = self.tokens(at_places(self.states(draft.tokens, memory), places))
        confidence, proposal = F.log_softmax(logits.float(), -1).max(-1)
        proposal, confidence = tokens.scatter(1, places, proposal), scores.scatter(1, places, confidence)
        return self._decide(draft, (tokens, scores, proposal, confidence), turn)

    def _decide(self, draft: Draft, parts: tuple[Tensor, ...], turn: Round) -> Draft:
        """Each block decides those of its MASKs of whose proposals it is most confident. parts: the draft's tokens and
        scores, and proposals for all of them with their confidence, in whole blocks."""
        rows, frames = draft.tokens.data.shape
        tokens, scores, proposal, confidence = (x.view(-1, self.config.block) for x in parts)
        count = torch.full_like(tokens[:, 0], self._left(turn) - self._left(turn._replace(index=turn.index + 1)))
        tokens, scores = (x.view(rows, -1)[:, :frames] for x in fill(tokens, scores, proposal, confidence, count))
        return draft._replace(tokens=draft.tokens._replace(data=tokens), scores=scores)

    def _left(self, turn: Round) -> int:
        """MASKs of a block before a turn: of K turns floor(block (1 - t / K)) after t, as in Mask-Predict; a turn more
        than the block has frames is not needed."""
        turns = min(turn.steps, self.config.block)
        return self.config.block * max(0, turns - turn.index) // turns

    def _whole_blocks(self, *parts: Tensor) -> tuple[Tensor, ...]:
        """(R, T) with zeros up to the end of the last block."""
        return tuple(F.pad(x, (0, -x.shape[1] % self.config.block)) for x in parts)

    def settled(self, draft: Draft) -> Tensor:
        return super().settled(draft) if self.config.mode == "imputer" else draft.tokens.lengths == 0
