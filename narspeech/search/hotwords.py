"""Words that a search should favour: names, terms, whatever the training texts lack.

A word earns a bonus for each character as it is spelt, whatever the tokens that spell it, and keeps it once it has
ended: a beginning that goes on otherwise gives all of it back. All words are looked for at once by one automaton over
characters (Aho & Corasick 1975), whose moves by whole tokens are tables.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from narspeech.errors import NarspeechError
from narspeech.tokenizer import BOS, EOS, NUM_SPECIAL, UNK, Tokenizer

Ints = NDArray[np.int64]
ROOT = 0


class Hotwords:
    """A `Scorer` of words or phrases, spelt as the model writes: 1 for each character of a hotword, times a weight that
    its user gives. Memory grows with (characters of all words) x (tokens).

    Raises NarspeechError for a word that the tokenizer cannot spell.
    """

    def __init__(self, words: Sequence[str], tokenizer: Tokenizer, device: torch.device | str = "cpu") -> None:
        patterns = [f" {' '.join(spellable(word, tokenizer).split())}" for word in words]
        goto, depth, worth, alphabet = automaton(patterns)
        next_node, gain = token_tables(goto, depth, worth, alphabet, tokenizer)
        self.next_node, self.gain = torch.from_numpy(next_node).to(device), torch.from_numpy(gain).to(device)

    def start(self, device: torch.device) -> Tensor:
        """(1,) the node of the automaton."""
        return self.next_node[ROOT, BOS : BOS + 1].to(device)

    def advance(self, state: Tensor, tokens: Tensor) -> Tensor:
        return self.next_node[state[:, 0], tokens].unsqueeze(-1)

    def states(self, tokens: Tensor) -> Tensor:
        node, found = self.start(tokens.device).expand(len(tokens)), [tokens[:, :0]]
        for token in tokens.unbind(1):
            found.append(node.unsqueeze(-1))
            node = self.next_node[node, token]
        return torch.cat(found, 1).unsqueeze(-1)

    def __call__(self, state: Tensor, candidates: Tensor) -> Tensor:
        """state (R, 1), candidates (R, k) -> (R, k)."""
        return self.gain[state, candidates]


def spellable(word: str, tokenizer: Tokenizer) -> str:
    if not word.strip() or UNK in tokenizer.encode(word):
        known = "".join(sorted({c for piece in tokenizer.pieces[NUM_SPECIAL:] for c in piece.replace("▁", "")}))
        raise NarspeechError(
            f"expected hotwords in the characters that the model writes ({known[:80]}), received {word!r}: spell it so"
        )
    return word


def automaton(patterns: Sequence[str]) -> tuple[Ints, Ints, Ints, dict[str, int]]:
    """goto (S, A) the next node by the next character, whose place `alphabet` tells (0: any other); depth (S,)
    characters of a word begun, the space before it aside; worth (S,) those of the words that end at a node."""
    alphabet = {c: place for place, c in enumerate(sorted({*" ", *"".join(patterns)}), 1)}
    children: list[dict[int, int]] = [{}]
    depth, worth = [0], [0]
    for pattern in dict.fromkeys(patterns):
        node = ROOT
        for place, character in enumerate(pattern):
            if alphabet[character] not in children[node]:
                children[node][alphabet[character]] = len(children)
                children.append({})
                depth.append(place)
                worth.append(0)
            node = children[node][alphabet[character]]
        worth[node] = len(pattern) - 1
    goto = np.zeros((len(children), len(alphabet) + 1), dtype=np.int64)
    queue, fallback = [ROOT], {ROOT: ROOT}
    for node in queue:  # by rising depth: where a word goes on otherwise is known already
        if node != ROOT:
            goto[node] = goto[fallback[node]]
            worth[node] += worth[fallback[node]]
        for letter, child in children[node].items():
            fallback[child] = int(goto[node, letter]) if node != ROOT else ROOT
            goto[node, letter] = child
            queue.append(child)
    return goto, np.array(depth), np.array(worth), alphabet


def token_tables(
    goto: Ints, depth: Ints, worth: Ints, alphabet: dict[str, int], tokenizer: Tokenizer
) -> tuple[Ints, NDArray[np.float32]]:
    """(S, V) where a token leads from each node, and what it gains: the words that it ends, and the characters of a
    word begun that it adds or, where it goes on otherwise, takes back."""
    surfaces = [piece.replace("▁", " ") for piece in tokenizer.pieces]
    surfaces[:NUM_SPECIAL] = [""] * NUM_SPECIAL
    surfaces[BOS] = surfaces[EOS] = " "
    surfaces[UNK] = "\0"
    width = max(map(len, surfaces))
    letters = np.full((len(surfaces), width), -1)
    for row, surface in zip(letters, surfaces, strict=True):
        row[: len(surface)] = [alphabet.get(character, 0) for character in surface]
    node = np.repeat(np.arange(len(goto))[:, None], len(surfaces), 1)
    earned = np.zeros_like(node)
    for letter in letters.T:
        earned += np.where(letter == alphabet[" "], worth[node], 0)
        node = np.where(letter < 0, node, goto[node, letter])
    node[:, [index for index in range(NUM_SPECIAL) if index not in (BOS, EOS)]] = ROOT
    return node, (earned + depth[node] - depth[:, None]).astype(np.float32)
