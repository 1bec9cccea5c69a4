"""The autoregressive Transformer (Vaswani et al. 2017): the teacher that is distilled from, and the baseline.

It writes from left to right, in a beam search. The K hypotheses of an utterance stand side by side where other decoders
have tokens: all of them look at one copy of its keys and values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from narspeech.batch import Batch, Draft, Encoded, Loss, Padded, TrainStep
from narspeech.decoders.base import DecodeOptions, Memory
from narspeech.decoders.stack import StackDecoder
from narspeech.errors import ConfigError
from narspeech.nn.attention import Cache
from narspeech.nn.layers import StackConfig
from narspeech.nn.positions import placed, rotary, sinusoids
from narspeech.ops.ends import ended
from narspeech.ops.scorer import Scorer
from narspeech.tokenizer import BLANK, BOS, EOS, MASK, PAD

NOTHING = float("-inf")
# Finished utterances leave the batch once so many are left of it: each leaving costs a copy of those that stay.
WORTH_LEAVING = 0.75


@dataclass(frozen=True, kw_only=True)
class ARConfig(StackConfig):
    """length_penalty: hypotheses are compared by log-probability / length ** length_penalty, the end counted as a
    token; max_ratio, max_extra: no hypothesis has more than max_ratio * (encoder states) + max_extra tokens."""

    kind: ClassVar[str] = "ar"
    label_smoothing: float = 0.1
    length_penalty: float = 1.0
    max_ratio: float = 1.5
    max_extra: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("length_penalty", "max_ratio", "max_extra"):
            if getattr(self, name) < 0:
                raise ConfigError(f"expected {name} of 0 or more, received {getattr(self, name)}")


class AR(StackDecoder):
    several = ("beam",)

    def __init__(self, config: ARConfig, memory_width: int, size: int) -> None:
        super().__init__(config, memory_width, size, (BLANK, PAD, MASK, BOS))
        self.config = config

    def forward(self, tokens: Padded, memory: Memory) -> Tensor:
        """Logits (R, U + 1, V) of the first token, and of what follows each of the tokens (R, U)."""
        logits: Tensor = self.tokens(self._read(tokens, memory))
        return logits

    def _read(self, tokens: Padded, memory: Memory) -> Tensor:
        """(R, U + 1, D): BOS and the tokens, none of which sees a later one."""
        data = F.pad(tokens.data, (1, 0), value=BOS)
        places = torch.arange(data.shape[1], device=data.device)
        x = self.dropout(placed(self.tokens.embed(data)))
        out: Tensor = self.stack(x, (places <= places[:, None])[None, None], memory.keys, memory.values, memory.mask)
        return out

    def loss(self, encoded: Encoded, batch: Batch, step: TrainStep) -> Loss:
        """Cross-entropy of every token of the target and of its end."""
        target = batch.target
        wanted = ended(target)
        states, truth = self._read(target, self.prepare(encoded))[wanted.mask], wanted.data[wanted.mask]
        total, correct = self.tokens.loss(states, truth, self.config.label_smoothing)
        return Loss(total, target.lengths.sum(), {"predicted": wanted.lengths.sum(), "predicted_correct": correct})

    def score(self, tokens: Padded, memory: Memory) -> Tensor:
        """(R,) log-probability of whole hypotheses (R, U), their end included; rows of both correspond."""
        wanted = ended(tokens)
        log_probs = F.log_softmax(self(tokens, memory).float(), -1)
        return (log_probs.gather(-1, wanted.data.unsqueeze(-1)).squeeze(-1) * wanted.mask).sum(-1)

    @torch.no_grad()
    def draft(self, memory: Memory, options: DecodeOptions, scorer: Scorer | None = None) -> Draft:
        """The best `options.beam` hypotheses of every utterance, or as many as there are, by beam search.

        A hypothesis ends where its end is among the best `beam` continuations. An utterance is done when it has
        `beam` ended ones: with a beam of 1, where the end is the likeliest token.
        """
        config, (_, lengths) = self.config, memory.states
        longest = int(config.max_ratio * memory.states.data.shape[1]) + config.max_extra
        limit = ((lengths.double() * config.max_ratio).long() + config.max_extra) * (lengths > 0)
        beams, moves = Beams.start(limit, options.beam), list[Move]()
        keys, values, mask = memory.keys, memory.values, memory.mask
        caches = [Cache() for _ in keys]
        angles = rotary(longest + 1, self.stack.head_width, mask.device)
        places = sinusoids(torch.arange(longest + 1, device=mask.device), config.width)
        for place in range(longest + 1):
            x = self.tokens.embed(beams.tokens)
            x = x + places[place].to(x.dtype)
            x = self.stack(x, beams.seen(), keys, values, mask, caches, angles[:, place : place + 1])
            log_probs = F.log_softmax(self.tokens(x).float(), -1)
            beams, move = beams.advance(log_probs, self.tokens.allowed, place, config.length_penalty)
            moves.append(move)
            kept = beams.going.nonzero().squeeze(-1)
            if not len(kept):
                break
            if len(kept) <= WORTH_LEAVING * len(beams.going):
                beams, mask = beams.keep(kept), mask[kept]
                keys, values = (tuple(x[kept] for x in part) for part in (keys, values))
                for cache in caches:
                    cache.keep(kept)
        return collect(moves, len(lengths), options.beam)

    def rank(self, draft: Draft, memory: Memory, options: DecodeOptions) -> Tensor:
        """(R,) the log-probability of the whole, its end included, over its length to the power of the penalty."""
        whole = draft.tokens._replace(lengths=draft.tokens.lengths + 1)
        return (draft.scores * whole.mask).sum(-1) / whole.lengths**self.config.length_penalty


class Move(NamedTuple):
    """What the search did at one place, in the utterances (B,) that `rows` names: which of the hypotheses (B, K) before
    it are continued (parents) by which tokens of which log-probabilities (scores), best first; and which ended there
    (ends: their normalised scores, NOTHING for the others), with what log-probability of the end (closings)."""

    rows: Tensor
    parents: Tensor
    tokens: Tensor
    scores: Tensor
    ends: Tensor
    closings: Tensor


class Beams(NamedTuple):
    """Where a search stands. rows: (B,) which utterances; limit: (B,) their longest hypotheses; going: (B,) not yet
    done; finished: (B,) number of ended hypotheses; tokens: (B, K) the last token of each that goes on; live: (B, K)
    their log-probabilities, NOTHING for an empty seat; path: (B, K, L) in which seat each stood at each of L places.
    """

    rows: Tensor
    limit: Tensor
    going: Tensor
    finished: Tensor
    tokens: Tensor
    live: Tensor
    path: Tensor

    @staticmethod
    def start(limit: Tensor, beam: int) -> Beams:
        rows, seats = (torch.arange(size, device=limit.device) for size in (len(limit), beam))
        live = torch.full((len(limit), beam), NOTHING, device=limit.device)
        live[:, 0] = 0
        tokens = torch.full_like(live, BOS, dtype=torch.long)
        return Beams(rows, limit, rows >= 0, torch.zeros_like(rows), tokens, live, seats.expand_as(live).unsqueeze(-1))

    def keep(self, index: Tensor) -> Beams:
        return Beams(*(x[index] for x in self))

    def seen(self) -> Tensor:
        """(B, 1, K, L * K) bool: which cached keys, of every seat at every place, are a hypothesis's own past.

        So the cache is never reordered: only this mask follows the hypotheses from seat to seat.
        """
        seats = torch.arange(self.path.shape[1], device=self.path.device)
        return (self.path.unsqueeze(-1) == seats).flatten(2).unsqueeze(1)

    def advance(self, log_probs: Tensor, allowed: Tensor, place: int, penalty: float) -> tuple[Beams, Move]:
        """One place further, by log-probabilities (B, K, V) of what follows each hypothesis."""
        beam, size = log_probs.shape[1:]
        # The best continuations by a token, none where the utterance may have no more.
        going_on = allowed & (torch.arange(size, device=allowed.device) != EOS)
        total = (self.live.unsqueeze(-1) + log_probs).masked_fill(~going_on, NOTHING).flatten(1)
        live, index = total.topk(beam)
        live = live.masked_fill((self.limit == place).unsqueeze(-1), NOTHING)
        scores = log_probs.flatten(1).gather(1, index)
        parents, tokens = index // size, index % size
        # Those by the end, as far as they are among the best `beam` of all.
        closings = log_probs[..., EOS]
        whole = self.live + closings
        worst = torch.cat([live, whole], 1).topk(beam).values[:, -1:]
        ending = (whole >= worst) & (whole > NOTHING) & self.going.unsqueeze(-1)
        ends = (whole / (place + 1) ** penalty).masked_fill(~ending, NOTHING)
        finished = self.finished + ending.sum(-1)
        going = self.going & (finished < beam) & (live[:, 0] > NOTHING)
        seats = torch.arange(beam, device=index.device).expand_as(index)
        path = torch.cat([self.path.gather(1, parents.unsqueeze(-1).expand_as(self.path)), seats.unsqueeze(-1)], -1)
        beams = self._replace(going=going, finished=finished, tokens=tokens, live=live, path=path)
        return beams, Move(self.rows, parents, tokens, scores, ends, closings)


def collect(moves: list[Move], batch: int, beam: int) -> Draft:
    """The hypotheses that ended, the best `beam` of each utterance, best first; seats that stayed empty are left out.

    Behind a row's tokens its scores hold the log-probability of the end, which `AR.rank` reads.
    """
    rows, *columns = zip(*moves, strict=True)
    # Each (P, B, K), for the P places where something was decided.
    parents, tokens, scores, ends, closings = (
        torch.stack([spread(x, at, batch, fill) for x, at in zip(column, rows, strict=True)])
        for column, fill in zip(columns, (0, PAD, 0, NOTHING, 0), strict=True)
    )
    best, index = ends.transpose(0, 1).flatten(1).topk(beam)
    lengths, seat = index // beam, index % beam
    path = []
    for place in reversed(range(len(moves))):
        path.append(seat)
        seat = torch.where(place < lengths, parents[place].gather(1, seat), seat)
    seats = torch.stack(path[::-1])
    places = torch.arange(len(moves), device=seats.device)[:, None, None]
    closing = closings.transpose(0, 1).flatten(1).gather(1, index)
    scores = scores.gather(2, seats).where(places < lengths, closing * (places == lengths))
    tokens = tokens.gather(2, seats).where(places < lengths, PAD)
    tokens, scores = (x.permute(1, 2, 0).flatten(0, 1) for x in (tokens, scores))
    owner = torch.arange(batch, device=seats.device).repeat_interleave(beam)
    draft = Draft(Padded(tokens, lengths.flatten()), scores, owner, torch.zeros_like(owner))
    if beam == 1:
        return draft
    taken = best > NOTHING
    taken[:, 0] = True
    return draft.rows(taken.flatten().nonzero().squeeze(-1))


def spread(values: Tensor, rows: Tensor, batch: int, fill: float) -> Tensor:
    """values (B', K) of some rows at their places among all of them (B, K)."""
    if len(values) == batch:
        return values
    return values.new_full((batch, values.shape[1]), fill).index_copy(0, rows, values)
