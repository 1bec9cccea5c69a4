"""DA-Transformer (Huang et al. 2022): one pass gives a directed acyclic graph, whose paths spell the likely texts.

The graph has more vertices than the text has tokens. Each vertex has a distribution over tokens and one over the later
vertices that may follow it, so that different ways to say a thing lie on different paths instead of being mixed up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from narspeech.batch import Batch, Draft, Encoded, Loss, Padded, TrainStep
from narspeech.decoders.base import DecodeOptions, Memory, check_shares
from narspeech.decoders.stack import StackDecoder
from narspeech.errors import ConfigError
from narspeech.nn.layers import StackConfig
from narspeech.nn.positions import placed, rotary, rotate
from narspeech.ops.copying import at_places
from narspeech.ops.dag import best_path, dag_loss, fuzzy_match, link_log_probs
from narspeech.ops.dag_search import beam_search, lookahead_path, read_path, viterbi_path
from narspeech.ops.ends import with_ends
from narspeech.ops.glancing import annealed, rehearsal, reveal
from narspeech.ops.scorer import Scorer
from narspeech.tokenizer import BOS, EOS, MASK, PAD


@dataclass(frozen=True, kw_only=True)
class DAGConfig(StackConfig):
    """graph_ratio: vertices an encoder state, besides the first and the last. The paper has 8 or 4 a source token; over
    speech, 1 a frame leaves room enough. Targets of more tokens than vertices count as infeasible.

    copy: a vertex begins with the encoder's state at its share of the way (uniform copy: Gu et al. 2018), else with its
    number alone, as published. glance: the share of the first pass's errors that is revealed, at the beginning and the
    end of the training, 0,0 for none. fuzzy: the share of the loss that is, a token, what the fuzzy match of 2-grams
    (FA-DAT: Ma et al. 2023) falls short of 1; 1 to fine-tune a trained model as published.

    decoding: "lookahead", to the next vertex and token that are likeliest together; "greedy", to the likeliest vertex;
    "viterbi", the likeliest path as a whole; "beam", the text whose paths are likeliest together, keeping
    `DecodeOptions.beam` hypotheses, and done with a beam of 2 or more whatever is written here. beta: weight of the
    tokens against the links in lookahead and Viterbi; length_penalty: Viterbi and beam divide their score by
    tokens^length_penalty (Shao et al. 2022), 0 for none.
    """

    kind: ClassVar[str] = "dag"
    feed_forward: int = 1024
    graph_ratio: float = 1.0
    copy: bool = True
    glance: tuple[float, float] = (0.5, 0.1)
    fuzzy: float = 0.0
    decoding: Literal["lookahead", "greedy", "viterbi", "beam"] = "lookahead"
    beta: float = 1.0
    length_penalty: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_shares("glance", *self.glance)
        check_shares("fuzzy", self.fuzzy)
        if self.graph_ratio <= 0:
            raise ConfigError(f"expected a graph_ratio above 0, received {self.graph_ratio}; 1 suits speech, 8 text")


class Graph(NamedTuple):
    """states (R, L, D) that tell each vertex's token; links (R, L, L) log-probabilities; lengths (R,) real vertices."""

    states: Tensor
    links: Tensor
    lengths: Tensor


class DAG(StackDecoder):
    reads_scorer = True
    several = ("beam",)

    def __init__(self, config: DAGConfig, memory_width: int, size: int) -> None:
        super().__init__(config, memory_width, size)
        self.config = config
        self.copy = nn.Linear(memory_width, config.width) if config.copy else None
        self.link = nn.Linear(config.width, 2 * config.width)
        self.gate = nn.Linear(config.width, config.heads)
        # The first head begins with the next vertices, each other one reaches twice as far as the one before. From
        # links as likely to all later vertices, a graph would begin with paths of no more than log L tokens.
        self.slope = nn.Parameter(-math.log(2) * torch.arange(config.heads))

    def prepare(self, encoded: Encoded) -> Memory:
        memory = super().prepare(encoded)
        return memory._replace(heard=self._heard(memory.states))

    def _heard(self, states: Padded) -> Tensor | None:
        """(R, L, D) the state that each vertex begins with, and the frame at which it stands."""
        if self.copy is None:
            return None
        inner = torch.arange(-1, self._size(states) - 1, device=states.data.device).clamp(min=0)
        places = (inner.double() / self.config.graph_ratio).long()
        # The last vertex begins with the last state.
        return at_places(self.copy(placed(states.data)), places.minimum(states.lengths[:, None] - 1).clamp(min=0))

    def _size(self, states: Padded) -> int:
        return math.ceil(states.data.shape[1] * self.config.graph_ratio) + 2

    def vertices(self, states: Padded) -> Padded:
        """(R, L) BOS, a MASK for each vertex that says something, and EOS."""
        lengths = (states.lengths.double() * self.config.graph_ratio).ceil().long() + 2
        place, last = torch.arange(self._size(states), device=lengths.device), (lengths - 1)[:, None]
        tokens = torch.full_like(place, MASK).masked_fill(place == 0, BOS)
        return Padded(
            tokens.expand(len(lengths), -1).masked_fill(place == last, EOS).masked_fill(place > last, PAD), lengths
        )

    def forward(self, tokens: Padded, memory: Memory) -> Graph:
        """The graph over vertices (R, L) some of which are given a token."""
        size, config = tokens.data.shape[1], self.config
        x = self.read(self.tokens.embed(tokens.data), tokens.lengths, memory)
        # The published links are given the vertices' learnt positions; these know how far they reach.
        q, k = self.link(x).view(*x.shape[:2], 2, config.heads, -1).permute(2, 0, 3, 1, 4)
        turn = rotary(size, config.width // config.heads, x.device)
        links = link_log_probs(rotate(q, turn), rotate(k, turn), self.gate(x), self.slope.exp(), tokens.lengths)
        return Graph(x, links, tokens.lengths)

    def match(self, states: Tensor, target: Padded) -> Tensor:
        """(B, U + 2, L) float32 log-probability of each token of BOS target EOS at each vertex, from states (B, L, D).

        Only the first and the last vertex say BOS and EOS, and they say nothing else: there it is certain.
        """
        match = self.tokens.log_probs(states, target.data.masked_fill(~target.mask, PAD)).log_probs.transpose(1, 2)
        match = F.pad(match, (0, 0, 1, 1))
        place = torch.arange(match.shape[1], device=match.device)
        return match.masked_fill((place == target.lengths[:, None] + 1).unsqueeze(-1), 0)

    def loss(self, encoded: Encoded, batch: Batch, step: TrainStep) -> Loss:
        """Negative log-likelihood of the target over all paths, in a pass that is given some of its tokens.

        A pass without gradient, which is given none, says how many (glancing: Qian et al. 2021): as many as a share of
        the vertices on the target's best path whose likeliest token is another one. A vertex that is given its token
        says that one for certain, so that none learns to copy it, and the others learn to lead there.
        """
        memory, target = self.prepare(encoded), batch.target
        vertices, path = self.vertices(memory.states), target.data
        shown = torch.zeros_like(target.mask)
        if self.training:
            draw = torch.rand(target.data.shape).to(target.data.device)
            with rehearsal(draw.device):
                graph = self(vertices, memory)
                path = best_path(self.match(graph.states, target), graph.links, target.lengths + 2, graph.lengths)
                path = path[:, 1:-1]
                wrong = self.tokens(at_places(graph.states, path)).argmax(-1) != target.data
            reachable = target.lengths * (target.lengths + 2 <= graph.lengths)
            shown = reveal(Padded(wrong, reachable), annealed(*self.config.glance, step.progress), draw)
            given = torch.where(shown, target.data, vertices.data.gather(1, path))
            vertices = vertices._replace(data=vertices.data.scatter(1, path, given))
        graph = self(vertices, memory)
        match = with_given(self.match(graph.states, target), path, shown)
        losses, fits = dag_loss(match, graph.links, target.lengths + 2, graph.lengths)
        total = losses.sum()
        if self.config.fuzzy > 0:
            matched = fuzzy_match(match, graph.links, with_ends(target), graph.lengths)
            total = (1 - self.config.fuzzy) * total + self.config.fuzzy * (target.lengths * (1 - matched)).sum()
        # The model's CTC counts its own under that name; two views are of one target.
        name = "infeasible" if encoded.ctc is None else "graph_infeasible"
        unfit = (~fits[: len(fits) // 2 if step.views else None]).sum()
        return Loss(total, target.lengths.sum(), {"glanced": shown.sum(), name: unfit})

    def draft(self, memory: Memory, options: DecodeOptions, scorer: Scorer | None = None) -> Draft:
        """The graph, read: there is nothing to refine. One host sync, in a beam search one more every four tokens."""
        config = self.config
        states, links, lengths = self(self.vertices(memory.states), memory)
        emissions = F.log_softmax(self.tokens(states).float(), -1)
        if config.decoding == "beam" or options.beam > 1 or scorer is not None:
            return beam_search(links, emissions, lengths, options.beam, config.length_penalty, scorer).draft()
        scores, best = emissions.max(-1)
        if config.decoding == "viterbi":
            visited = viterbi_path(links, scores, config.beta, config.length_penalty, lengths)
        else:
            visited = lookahead_path(links, scores, config.beta if config.decoding == "lookahead" else 0.0, lengths)
        return Draft.decided(*read_path(visited, best, scores, links, lengths))

    def rank(self, draft: Draft, memory: Memory, options: DecodeOptions) -> Tensor:
        """All alike, which keeps the beam's own order: the end of a text has a probability too."""
        return torch.zeros_like(draft.owner, dtype=torch.float)

    def score(self, tokens: Padded, memory: Memory) -> Tensor:
        """(R,) log-probability of tokens (R, U), summed over all paths; -inf where the graph is too small."""
        graph = self(self.vertices(memory.states), memory)
        losses, fits = dag_loss(self.match(graph.states, tokens), graph.links, tokens.lengths + 2, graph.lengths)
        return (-losses).masked_fill(~fits, float("-inf"))


def with_given(match: Tensor, path: Tensor, shown: Tensor) -> Tensor:
    """match (B, U + 2, L) after the target's tokens at which shown (B, U) is True were given to their vertices, path
    (B, U): these are certain there, without gradient, and any other is impossible."""
    places = torch.arange(match.shape[2], device=match.device)
    given = F.pad((path.unsqueeze(-1) == places) & shown.unsqueeze(-1), (0, 0, 1, 1))
    return match.masked_fill(given.any(1, keepdim=True), float("-inf")).masked_fill(given, 0)
