from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from narspeech.batch import Padded
from narspeech.frontends.base import Frontend


def test_nothing_to_fit_reads_nothing() -> None:
    def batches() -> Iterator[Padded]:
        raise AssertionError("the training set was read")
        yield Padded(torch.zeros(1, 1), torch.tensor([1]))

    Frontend().fit(batches())


def test_forward_is_for_the_children() -> None:
    with pytest.raises(NotImplementedError):
        Frontend()(Padded(torch.zeros(1, 1), torch.tensor([1])))
