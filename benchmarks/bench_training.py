"""Training on a CPU: our dropout against torch's; log-probabilities of a target's tokens alone, which save memory,
against those of the whole vocabulary.

`python benchmarks/bench_training.py` takes seconds. Weights and states are random: speed depends on shapes.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import torch
from bench_decoding import ROUNDS, show, turns
from torch import Tensor, nn

from narspeech.memory import keep_freed_memory
from narspeech.nn.dropout import Dropout
from narspeech.ops.chosen import chosen_log_probs

ROWS, WIDTH = 2048, 256
UTTERANCES, VERTICES, TOKENS, VOCABULARY = 32, 184, 15, 6000


def dropout() -> dict[str, list[float]]:
    x = torch.randn(ROWS, WIDTH, requires_grad=True)

    def run(layer: nn.Module) -> Callable[[], object]:
        return lambda: layer(x).sum().backward()

    return turns({"torch": run(nn.Dropout(0.3)), "narspeech": run(Dropout(0.3))})


def chosen() -> dict[str, list[float]]:
    states = torch.randn(UTTERANCES, VERTICES, WIDTH // 2, requires_grad=True)
    weight = (0.1 * torch.randn(VOCABULARY, WIDTH // 2)).requires_grad_()
    bias, ids = torch.zeros(VOCABULARY, requires_grad=True), torch.randint(VOCABULARY, (UTTERANCES, TOKENS))

    def whole() -> Tensor:
        logits = torch.nn.functional.linear(states, weight, bias)
        return logits.log_softmax(-1).gather(2, ids[:, None].expand(-1, VERTICES, -1))

    def alone() -> Tensor:
        return chosen_log_probs(states, weight, bias, ids).log_probs

    torch.testing.assert_close(whole(), alone())
    return turns({"log_softmax": lambda: whole().sum().backward(), "chosen": lambda: alone().sum().backward()})


def main() -> None:
    keep_freed_memory()
    torch.manual_seed(0)
    load = " ".join(f"{value:.2f}" for value in os.getloadavg())
    print(f"{torch.get_num_threads()} threads, load {load}, {ROUNDS} rounds, medians, with gradients; random numbers\n")
    show(f"dropout of {ROWS} x {WIDTH}", dropout(), goal=1)
    show(f"{TOKENS} of {VOCABULARY} tokens at {UTTERANCES} x {VERTICES} states of {WIDTH // 2}", chosen(), goal=0.9)


if __name__ == "__main__":
    main()
