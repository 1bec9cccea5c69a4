"""Directed acyclic graphs that spell token sequences (DA-Transformer: Huang et al. 2022): likelihoods and paths.

A graph has L vertices. A path starts at vertex 0, follows links to later vertices, ends at the last real vertex, and
emits one token at each vertex it visits. By convention vertex 0 emits BOS and the last one EOS, so that a target of U
tokens lies on the path with its two ends: U + 2 tokens over L >= U + 2 vertices. Everything is in log space, -inf being
no link. links (B, L, L) hold the log-probability of going on from vertex v (row) to vertex u (column).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from narspeech.batch import Padded

INF = float("inf")
# Keeps an exponential finite in float64, sums of it too.
LARGE = 690.0


def link_log_probs(q: Tensor, k: Tensor, gates: Tensor, slopes: Tensor, lengths: Tensor) -> Tensor:
    """(B, L, L) float32 log-probabilities of the links: a mixture of attentions to later vertices (section 3.1).

    q, k (B, H, L, D / H); gates (B, L, H) logits of each vertex's mixture; slopes (H,) what a link of each head costs
    for every vertex that it reaches ahead (ALiBi: Press et al. 2022); lengths (B,) real vertices. Links lead to later
    real vertices alone; the last vertex has none.
    """
    later = _forward_links(q.shape[2], lengths)
    place = torch.arange(q.shape[2], device=q.device)
    scores = (q @ k.transpose(-1, -2)).float() / math.sqrt(q.shape[-1])
    scores = scores - slopes.float()[:, None, None] * (place - place[:, None])
    # Finite, for the vertex that has no link at all would have no gradient but NaN.
    heads = scores.masked_fill(~later[:, None], -1e4).log_softmax(-1)
    weights = gates.float().log_softmax(-1).transpose(1, 2).unsqueeze(-1)
    return (heads + weights).logsumexp(1).masked_fill(~later, -INF)


def dag_loss(match: Tensor, links: Tensor, counts: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Negative log-likelihood of each target, summed over all the paths that spell it, and which targets have one.

    match (B, U, L) log-probability of target token i at vertex u, links (B, L, L), counts (B,) tokens of each target
    with its two ends, lengths (B,) vertices -> losses (B,), fits (B,) bool. A target that no path spells costs 0,
    without gradient, and the caller must count it. By dynamic programming (section 3.2):

        f[i, u] = match[i, u] + log sum_{v < u} exp(f[i-1, v] + links[v, u]),  loss = -f[count - 1, length - 1]
    """
    window = _window(counts, lengths, match.shape[2])
    match = match.masked_fill(~_reachable(match, counts, lengths), -INF)
    links = links.masked_fill(~_forward_links(match.shape[2], lengths), -INF)
    likelihood: Tensor = _LogLikelihood.apply(match, links, counts - 1, lengths - 1, window)  # type: ignore[no-untyped-call]
    fits = likelihood != -INF  # NaN stays to be seen
    return -likelihood.masked_fill(~fits, 0), fits


class _LogLikelihood(torch.autograd.Function):
    """log P(target) by the forward algorithm; the gradient is the posterior of tokens and links (forward-backward).

    A step over all links is a matrix product of probabilities, scaled by the largest. In float64, whose exponent is
    wide enough for terms e^-690 of the largest: float32 would lose a path that begins badly and is the only one to end.
    """

    @staticmethod
    def forward(ctx: Any, match: Tensor, links: Tensor, stop: Tensor, last: Tensor, window: int) -> Tensor:
        exact, weights = match.double(), links.double().exp()
        before = torch.full_like(exact, -INF)
        before[:, 0] = exact[:, 0]
        for i in range(1, min(match.shape[1:])):
            here, there = slice(i - 1, i - 1 + window), slice(i, i + window)
            sums = _log_product(before[:, i - 1, here], weights[:, here, there])
            before[:, i, there] = exact[:, i, there] + sums
        likelihood = before[torch.arange(len(stop), device=stop.device), stop, last]
        ctx.save_for_backward(exact, weights, before, likelihood, stop, last)
        ctx.window = window
        return likelihood.to(match.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        match, weights, before, likelihood, stop, last = ctx.saved_tensors
        total = likelihood.masked_fill(likelihood == -INF, 0)[:, None, None]
        after = torch.full_like(match, -INF)
        after[torch.arange(len(stop), device=stop.device), stop, last] = 0
        for i in range(min(match.shape[1:]) - 2, -1, -1):
            here, there = slice(i, i + ctx.window), slice(i + 1, i + 1 + ctx.window)
            following = match[:, i + 1, there] + after[:, i + 1, there]
            sums = _log_product(following, weights[:, here, there].transpose(1, 2))
            after[:, i, here] = torch.maximum(after[:, i, here], sums)  # one of the two is -inf
        tokens = (before + after - total).exp()
        # P(link v -> u) = weight[v, u] sum_i e^(before[i-1, v] + match[i, u] + after[i, u] - total)
        top = _top(before[:, :-1])
        sources = (before[:, :-1] - top).exp()
        targets = (match[:, 1:] + after[:, 1:] + (top - total)).clamp(max=LARGE).exp()
        passes = weights * (sources.transpose(1, 2) @ targets)
        scale = gradient.double()[:, None, None]
        return (scale * tokens).to(gradient.dtype), (scale * passes).to(gradient.dtype), None, None, None


def best_path(match: Tensor, links: Tensor, counts: Tensor, lengths: Tensor) -> Tensor:
    """(B, U) the vertex of each target token on the likeliest single path that spells it (Viterbi). No gradient.

    Arguments as for `dag_loss`. Beyond a target's count stands the last vertex; where no path spells it, anything.
    """
    window = _window(counts, lengths, match.shape[2])
    match = match.detach().float().masked_fill(~_reachable(match, counts, lengths), -INF)
    links = links.detach().float().masked_fill(~_forward_links(match.shape[2], lengths), -INF)
    best = match[:, 0, :window]
    pointers = []
    for i in range(1, min(match.shape[1:])):
        here, there = slice(i - 1, i - 1 + window), slice(i, i + window)
        value, pointer = (best[:, :, None] + links[:, here, there]).max(1)
        best = match[:, i, there] + value
        pointers.append(torch.zeros_like(match[:, 0], dtype=torch.long))
        pointers[-1][:, there] = pointer + i - 1
    path = trace(pointers, lengths - 1, counts - 1)
    spare = (lengths - 1)[:, None].expand(-1, match.shape[1] - path.shape[1])
    return torch.cat([path, spare], 1)


def passing_probabilities(links: Tensor, lengths: Tensor) -> Tensor:
    """(B, L) how likely a path visits each vertex: p[0] = 1, p[u] = sum_{v < u} p[v] exp(links[v, u])."""
    weights = links.masked_fill(~_forward_links(links.shape[1], lengths), -INF).exp()
    identity = torch.eye(links.shape[1], dtype=links.dtype, device=links.device)
    first = identity[:, :1].expand(len(links), -1, -1)
    solved: Tensor = torch.linalg.solve_triangular(identity - weights.mT, first, upper=False, unitriangular=True)
    return solved.squeeze(-1)


def fuzzy_match(match: Tensor, links: Tensor, target: Padded, lengths: Tensor, order: int = 2) -> Tensor:
    """(B,) between 0 and 1: how far the graph's n-grams are the target's, wherever they stand (FA-DAT: Ma et al. 2023).

    match (B, U, L) and links (B, L, L) as for `dag_loss`, target (B, U) ids with the two ends, order n. The precision,
    in which counts are expected ones over all paths and clipped by the target's, times BLEU's brevity penalty:

        sum_g min(E[C_g], C_g(target)) / E[number of n-grams] x min(1, exp(1 - C(target) / E[number of n-grams]))

    0 for a target of fewer than n tokens. In float64, which autocast leaves alone.
    """
    kind, match, links = match.dtype, match.double(), links.double()
    width = max(target.data.shape[1] - order + 1, 0)
    token = torch.arange(target.data.shape[1], device=match.device)[:, None]
    place, last = torch.arange(match.shape[2], device=match.device), (lengths - 1)[:, None, None]
    stop = (target.lengths - 1)[:, None, None]
    # BOS stands at the first vertex, EOS at the last and the others between them.
    allowed = ((token == 0) == (place == 0)) & ((token == stop) == (place == last)) & (token <= stop) & (place <= last)
    emissions = match.masked_fill(~allowed, -INF).exp()
    weights = links.masked_fill(~_forward_links(links.shape[1], lengths), -INF).exp()
    total = passing_probabilities(links, lengths)[:, None]
    found = total * emissions[:, :width]
    same = torch.ones_like(target.data[:, :width, None] == target.data[:, None, :width])
    for n in range(order):
        if n:
            total, found = total @ weights, (found @ weights) * emissions[:, n : n + width]
        ids = target.data[:, n : n + width]
        same = same & (ids[:, :, None] == ids[:, None])
    count = (target.lengths - order + 1).clamp(min=0)
    real = torch.arange(width, device=match.device) < count[:, None]
    # An n-gram that the target has c times stands in c places, each with the whole expected count.
    copies = (same & real[:, None]).sum(-1).clamp(min=1)
    hits = (found.sum(-1).minimum(copies) / copies * real).sum(-1)
    expected = total.sum((1, 2))
    expected = torch.where(expected > 0, expected, 1)
    return (hits / expected * (1 - count / expected).clamp(max=0).exp()).to(kind)


def trace(pointers: list[Tensor], last: Tensor, steps: Tensor) -> Tensor:
    """(R, 1 + len(pointers)) the path that ends at vertex `last` (R,) after `steps` (R,) links, and then stays there.

    pointers[i - 1] (R, L): the vertex from which link i led to each."""
    path = [last]
    for i in range(len(pointers), 0, -1):
        earlier = pointers[i - 1].gather(1, path[-1][:, None])[:, 0]
        path.append(torch.where(steps >= i, earlier, path[-1]))
    return torch.stack(path[::-1], 1)


def _log_product(x: Tensor, weights: Tensor) -> Tensor:
    """log(exp(x) @ weights) for x (B, L) and weights (B, L, M) >= 0."""
    top = _top(x)
    return ((x - top).exp()[:, None] @ weights)[:, 0].log() + top


def _top(x: Tensor) -> Tensor:
    """The highest along the last dimension, which stays; 0 where there is nothing but -inf."""
    top = x.amax(-1, keepdim=True)
    return top.masked_fill(top == -INF, 0)


def _forward_links(size: int, lengths: Tensor) -> Tensor:
    """(B, L, L) bool: the links to later vertices among the real ones."""
    place = torch.arange(size, device=lengths.device)
    return (place > place[:, None]) & (place < lengths[:, None, None])


def _reachable(match: Tensor, counts: Tensor, lengths: Tensor) -> Tensor:
    """(B, U, L) bool: where token i may lie so that enough vertices are left on either side: i <= u <= L - count + i.

    The first token lies on vertex 0."""
    token = torch.arange(match.shape[1], device=match.device)[:, None]
    spare = torch.arange(match.shape[2], device=match.device) - token
    return (
        ((token > 0) | (spare == 0))
        & (spare >= 0)
        & (spare <= (lengths - counts)[:, None, None])
        & (token < counts[:, None, None])
    )


def _window(counts: Tensor, lengths: Tensor, size: int) -> int:
    """How many vertices a token may lie on at most, in any row: as many as `_reachable` allows. One host sync."""
    return min(size, max(1, int((lengths - counts).max()) + 1)) if len(counts) else 1
