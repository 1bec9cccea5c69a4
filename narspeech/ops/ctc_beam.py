"""CTC prefix beam search (Hannun et al. 2014), for a batch and its beams at once, with a scorer at every token."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from narspeech.batch import Padded
from narspeech.ops.beam import Beam
from narspeech.ops.scorer import Scorer
from narspeech.tokenizer import BLANK, EOS, PAD

NOTHING = float("-inf")
# Odd, so that multiplying by it permutes the 64-bit numbers; a prefix is known by the number that it makes.
FACTOR = 6364136223846793005


class Prefixes(NamedTuple):
    """K prefixes a row, each (B, K) but for `state`: log-probability of all paths that spell it and end in a blank,
    or in its last token; that token, BLANK where there is none; its number; what the scorer and the bonus gave it; the
    highest log-posterior of the last token since it stands; state (B, K, S) of the scorer."""

    blank: Tensor
    label: Tensor
    last: Tensor
    number: Tensor
    extra: Tensor
    peak: Tensor
    state: Tensor

    @property
    def likely(self) -> Tensor:
        """(B, K) log-probability of all paths."""
        return torch.logaddexp(self.blank, self.label)


class Move(NamedTuple):
    """What a frame did, each (B, K): the prefix that each new one came from, the token that it wrote, BLANK for none,
    and the peak of the token before that."""

    parent: Tensor
    token: Tensor
    peak: Tensor


def prefix_beam_search(
    log_probs: Padded, beam: int, scorer: Scorer | None = None, bonus: float = 0.0, pool: int = 16
) -> Beam:
    """The texts of the highest log P(text) + what the scorer adds + bonus x tokens, as far as they stay in the beam.

    log_probs (B, T, V). P(text) sums the paths that spell it; two ways to one prefix are one. A token's score is its
    highest log-posterior before the next one was first written. pool: how many tokens,
    the likeliest of each frame, may go on a prefix. T steps of B x K x pool work each, one host sync at the end.
    """
    data = log_probs.data.float()
    prefixes = start(data, beam, scorer)
    active = log_probs.mask
    spoken = data.index_fill(2, torch.tensor([BLANK], device=data.device), NOTHING)
    values, tokens = spoken.topk(min(pool, data.shape[2] - 1))
    moves = list[Move]()
    for frame in range(data.shape[1]):
        prefixes, move = advance(
            prefixes, data[:, frame], values[:, frame], tokens[:, frame], active[:, frame], scorer, bonus
        )
        moves.append(move)
    totals = prefixes.likely + prefixes.extra
    if scorer is not None:
        end = torch.full_like(prefixes.last.flatten(), EOS).unsqueeze(-1)
        totals = totals + scorer(prefixes.state.flatten(0, 1), end).view_as(totals)
    totals, order = totals.sort(dim=-1, descending=True, stable=True)
    return trace(moves, prefixes.peak, order, totals)


def start(data: Tensor, beam: int, scorer: Scorer | None) -> Prefixes:
    """The empty prefix, certain, and seats that are still empty."""
    nothing = data.new_full((len(data), beam), NOTHING)
    blank = nothing.clone()
    blank[:, 0] = 0
    last = torch.full_like(nothing, BLANK, dtype=torch.long)
    seats = torch.arange(beam, device=data.device).expand_as(last)
    state = seats[..., None][..., :0] if scorer is None else scorer.start(data.device).expand(*last.shape, -1)
    return Prefixes(blank, nothing, last, seats, torch.zeros_like(nothing), nothing, state)


def advance(
    old: Prefixes, frame: Tensor, values: Tensor, tokens: Tensor, active: Tensor, scorer: Scorer | None, bonus: float
) -> tuple[Prefixes, Move]:
    """One frame further, of log-probabilities frame (B, V), the likeliest of which are values (B, P) of tokens (B, P);
    rows that are over stay."""
    batch, beam = old.last.shape
    silence = torch.where(active, frame[:, BLANK], 0.0).unsqueeze(-1)
    values = values.masked_fill(~active.unsqueeze(-1), NOTHING).unsqueeze(1)
    again = frame.gather(1, old.last).masked_fill((old.last == BLANK) | ~active.unsqueeze(-1), NOTHING)
    likely, same = old.likely, tokens.unsqueeze(1) == old.last.unsqueeze(-1)
    # After its own last token, a token is a new one only behind a blank.
    grown = (torch.where(same, old.blank.unsqueeze(-1), likely.unsqueeze(-1)) + values).flatten(1)  # (B, K * P)
    written = tokens.unsqueeze(1).expand(-1, beam, -1)
    number = (old.number.unsqueeze(-1) * FACTOR + written + 1).flatten(1)
    # A prefix that grows into one that stands in the beam gives it its paths.
    meets = number.unsqueeze(1) == old.number.unsqueeze(-1)  # (B, K, K * P)
    meets &= (likely > NOTHING).unsqueeze(-1)  # an empty seat stands for nothing
    given = torch.where(meets, grown.unsqueeze(1), NOTHING).amax(-1)
    grown = grown.masked_fill(meets.any(1), NOTHING)
    stay_blank, stay_label = likely + silence, torch.logaddexp(old.label + again, given)
    gain = old.extra.unsqueeze(-1) + bonus
    if scorer is not None:
        gain = gain + scorer(old.state.flatten(0, 1), written.flatten(0, 1)).view(batch, beam, -1)
    extra = torch.cat([old.extra, gain.expand(batch, beam, tokens.shape[1]).flatten(1)], 1)
    peaks = torch.cat([old.peak.maximum(again), values.expand(-1, beam, -1).flatten(1)], 1)
    nothing = torch.full_like(grown, NOTHING)
    blank, label = torch.cat([stay_blank, nothing], 1), torch.cat([stay_label, grown], 1)
    _, index = (torch.logaddexp(blank, label) + extra).topk(beam)
    stays = index < beam
    parent = torch.where(stays, index, (index - beam) // tokens.shape[1])
    last = torch.cat([old.last, written.flatten(1)], 1).gather(1, index)
    state = old.state.gather(1, parent.unsqueeze(-1).expand(-1, -1, old.state.shape[2]))
    if scorer is not None:
        onward = scorer.advance(state.flatten(0, 1), last.flatten()).view_as(state)
        state = torch.where(stays.unsqueeze(-1), state, onward)
    new = Prefixes(
        blank.gather(1, index),
        label.gather(1, index),
        last,
        torch.cat([old.number, number], 1).gather(1, index),
        extra.gather(1, index),
        peaks.gather(1, index),
        state,
    )
    return new, Move(parent, last.masked_fill(stays, BLANK), old.peak.gather(1, parent))


def trace(moves: list[Move], peak: Tensor, order: Tensor, totals: Tensor) -> Beam:
    """The texts of the prefixes that order (B, K) names, read from the moves that made them; peak (B, K) of their last
    tokens. One host sync."""
    if not moves:
        nothing = order.new_zeros(*order.shape, 0)
        return Beam(nothing, nothing.float(), torch.zeros_like(order), totals)
    seat, path, peaks = order, list[Tensor](), list[Tensor]()
    for parent, token, before in reversed(moves):
        path.append(token.gather(1, seat))
        peaks.append(before.gather(1, seat))
        seat = parent.gather(1, seat)
    written, before = torch.stack(path[::-1], -1), torch.stack(peaks[::-1], -1)  # (B, K, T)
    fresh = written != BLANK
    lengths = fresh.sum(-1)
    width = int(lengths.max()) if lengths.numel() else 0
    # Where nothing is written points at one spare column, which is cut off. A token's peak is known when the next one
    # is written: it goes one column to the left, and the first token's, of nothing, before the beginning.
    column = fresh.cumsum(-1).masked_fill(~fresh, width + 1)
    shape = (*order.shape, width + 2)
    tokens = written.new_full(shape, PAD).scatter(2, column, written)[..., 1 : width + 1]
    scores = before.new_zeros(shape).scatter(2, (column - 1).masked_fill(~fresh, width + 1), before)
    scores = scores.scatter(2, lengths.unsqueeze(-1), peak.gather(1, order).unsqueeze(-1))[..., 1 : width + 1]
    inside = torch.arange(width, device=order.device) < lengths.unsqueeze(-1)
    return Beam(tokens, scores.where(inside, 0.0), lengths, totals)
