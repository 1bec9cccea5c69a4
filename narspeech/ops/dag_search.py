"""Reading a directed acyclic graph (see `ops.dag`): the path it prefers, or the text that most of its paths spell.

links (R, L, L) and emissions are log-probabilities in float32; vertex 0 and the last vertex, where every path begins
and ends, say nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor

from narspeech.batch import Padded
from narspeech.ops.beam import Beam
from narspeech.ops.dag import INF, trace
from narspeech.ops.scorer import Scorer
from narspeech.tokenizer import EOS, PAD


def lookahead_path(links: Tensor, emissions: Tensor, beta: float, lengths: Tensor) -> Tensor:
    """(R, L) bool, the vertices of the path that always goes on to the likeliest vertex and token (section 3.3).

    argmax_u links[v, u] + beta x emissions[u], where emissions (R, L) are the log-probabilities of each vertex's best
    token; beta 0 looks at the links alone, which is greedy decoding.
    """
    place, last = torch.arange(links.shape[1], device=links.device), (lengths - 1)[:, None]
    gain = beta * emissions.masked_fill(place == last, 0)
    jump = torch.where(place < last, (links + gain[:, None]).argmax(-1), place)
    visited = (place == 0).expand_as(jump)
    # Instead of vertex by vertex, the known part of the path doubles: its image under as many jumps as it is long.
    for _ in range((links.shape[1] - 1).bit_length()):
        visited = visited | (torch.zeros_like(jump).scatter_add(1, jump, visited.long()) > 0)
        jump = jump.gather(1, jump)
    return visited


def viterbi_path(links: Tensor, emissions: Tensor, beta: float, penalty: float, lengths: Tensor) -> Tensor:
    """(R, L) bool, the vertices of the path of the highest score / count^penalty (Shao et al. 2022).

    The score is the sum of the path's links + beta x emissions (R, L), the log-probabilities of each vertex's best
    token; count are its tokens, EOS among them. beta 1 is the joint Viterbi decoding of path and tokens, beta 0 that of
    the path alone. Work and memory: R x L^3 / 3 and R x L^2.
    """
    size, last = links.shape[1], (lengths - 1)[:, None]
    place = torch.arange(size, device=links.device)
    gain = beta * emissions.masked_fill(place == last, 0)
    value = links[:, 0] + gain
    totals, pointers = [value.gather(1, last)], [torch.zeros_like(place).expand_as(value)]
    for i in range(2, size):  # i links lead to vertex i or a later one
        best, pointer = (value[:, i - 1 :, None] + links[:, i - 1 :, i:]).max(1)
        value = torch.full_like(value, -INF)
        value[:, i:] = best + gain[:, i:]
        totals.append(value.gather(1, last))
        pointers.append(torch.zeros_like(pointers[0]))
        pointers[-1][:, i:] = pointer + i - 1
    counts = torch.arange(1, size, device=links.device)
    steps = (torch.cat(totals, 1) / counts**penalty).argmax(-1) + 1
    path = trace(pointers, last[:, 0], steps)
    return torch.zeros_like(links[:, 0], dtype=torch.bool).scatter(1, path, True)


def read_path(
    visited: Tensor, tokens: Tensor, emissions: Tensor, links: Tensor, lengths: Tensor
) -> tuple[Padded, Tensor]:
    """What a path says between its ends: tokens (R, U) and scores (R, U), the log-probability of each token and of the
    link that led to it.

    visited (R, L) bool, tokens (R, L) the vertices' tokens and emissions (R, L) their log-probabilities. One host sync.
    """
    place = torch.arange(visited.shape[1], device=visited.device)
    seen = (place * visited).cummax(-1).values
    previous = torch.cat([seen[:, :1], seen[:, :-1]], 1)
    scores = emissions + links.gather(1, previous[:, None])[:, 0]
    inside = visited & (place > 0) & (place < (lengths - 1)[:, None])
    counts = inside.sum(-1)
    width = int(counts.max()) if len(counts) else 0
    column = (inside.cumsum(-1) - 1).masked_fill(~inside, width)  # the others share a spare column, which is cut off
    out = tokens.new_full((len(tokens), width + 1), PAD).scatter_(1, column, tokens)[:, :width]
    values = scores.new_zeros(len(tokens), width + 1).scatter_(1, column, scores)[:, :width]
    return Padded(out, counts), values


def beam_search(
    links: Tensor, emissions: Tensor, lengths: Tensor, beam: int, penalty: float, scorer: Scorer | None = None
) -> Beam:
    """The texts of the highest (log P(text) + what the scorer adds) / count^penalty, count with EOS.

    emissions (R, L, V). A hypothesis is a text and not a path: its state holds the probability of being at each vertex
    after having said it, so that P(text) is the sum over all paths, as in training. (Huang et al. 2022, section 3.3,
    merge the paths of one text as far as they lie in the beam.) A token's score is its log-probability given those
    before it. Every step costs R x K x L x (L + V). There are L - 1 at most: every four of them a host sync tells
    whether a text that goes on could still be among the best. With a scorer, which may add anything, all are taken.
    """
    rows, size, vocabulary = emissions.shape
    place, last = torch.arange(size, device=links.device), (lengths - 1)[:, None]
    onward = links.exp()
    speech = emissions.exp() * ((place > 0) & (place < last)).unsqueeze(-1)
    empty = emissions.new_zeros(rows, beam, size - 1)
    tokens = torch.full_like(empty, PAD, dtype=torch.long)
    nothing = torch.full_like(empty[..., 0], -INF)
    active = Beam(tokens, empty, tokens[..., 0] * 0, nothing.index_fill(1, place[:1], 0))
    ended = active._replace(totals=nothing)
    state = (place == 0).to(links.dtype).expand(rows, beam, size)  # sums to 1
    every = torch.arange(vocabulary, device=links.device).expand(rows * beam, -1)
    heard = tokens[..., :0] if scorer is None else scorer.start(links.device).expand(rows, beam, -1)
    for count in range(size - 1):
        if scorer is None and count % 4 == 3:  # log P only falls, so that a text is worth most where it is longest
            longest = last[:, 0].clamp(min=count + 1) if penalty > 0 else count + 1
            hope = active.totals[:, 0] / longest**penalty
            if bool(((ended.totals[:, -1] > hope) | (hope == -INF)).all()):
                break
        reached = state @ onward
        bonus = emissions.new_zeros(1, 1, vocabulary)
        if scorer is not None:
            bonus = scorer(heard.flatten(0, 1), every).view(rows, beam, vocabulary)
        stops = reached.gather(2, last.expand(rows, beam).unsqueeze(-1))[..., 0].log() + bonus[..., EOS]
        fresh = active._replace(totals=(active.totals + stops) / (count + 1) ** penalty)
        both = Beam(*(torch.cat(pair, 1) for pair in zip(ended, fresh, strict=True)))
        ended = both.take(both.totals.topk(beam).indices)
        likely = (reached @ speech).log()  # of each token, given those before
        totals, index = (active.totals.unsqueeze(-1) + likely + bonus).flatten(1).topk(beam)
        parent, token = index // vocabulary, index % vocabulary
        score = likely.flatten(1).gather(1, index).clamp(max=0)
        active = active.take(parent)
        if scorer is not None:
            own = heard.gather(1, parent.unsqueeze(-1).expand(-1, -1, heard.shape[2]))
            heard = scorer.advance(own.flatten(0, 1), token.flatten()).view_as(heard)
        written = (place[:-1] == count).expand_as(active.tokens)
        active = Beam(
            torch.where(written, token.unsqueeze(-1), active.tokens),
            torch.where(written, score.unsqueeze(-1), active.scores),
            active.lengths + 1,
            totals,
        )
        state = reached.gather(1, parent.unsqueeze(-1).expand(-1, -1, size))
        state = state * speech.gather(2, token.unsqueeze(1).expand(-1, size, -1)).transpose(1, 2)
        state = state / state.sum(-1, keepdim=True).clamp(min=torch.finfo(state.dtype).tiny)
    return ended
