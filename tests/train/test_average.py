from __future__ import annotations

import pytest
import safetensors.torch
import torch

from narspeech.errors import CheckpointError
from narspeech.train.average import average


def write(folder, name, **weights):
    path = folder / name
    safetensors.torch.save_file(weights, path)
    return path


def test_the_mean_of_the_weights_and_the_integers_of_the_first(tmp_path):
    paths = [
        write(tmp_path, str(n), a=torch.tensor([n, 2.0 * n]), half=torch.ones(2).half() * n, count=torch.tensor(n))
        for n in (1, 2, 6)
    ]
    mean = average(paths)
    assert mean["a"].tolist() == [3.0, 6.0]
    assert mean["a"].dtype == torch.float32
    assert mean["half"].dtype == torch.float16
    assert mean["half"].tolist() == [3.0, 3.0]
    assert int(mean["count"]) == 1
    assert torch.equal(average(paths[1:2])["a"], torch.tensor([2.0, 4.0]))


def test_many_small_weights_are_summed_without_loss(tmp_path):
    paths = [write(tmp_path, str(n), a=torch.tensor([1.0 + n * 2**-23])) for n in range(9)]
    assert float(average(paths)["a"]) == 1.0 + 4 * 2**-23


def test_others_weights_are_refused(tmp_path):
    first = write(tmp_path, "1", a=torch.ones(2))
    for other in (write(tmp_path, "2", b=torch.ones(2)), write(tmp_path, "3", a=torch.ones(1))):
        with pytest.raises(CheckpointError, match="other names or shapes"):
            average([first, other])
    with pytest.raises(CheckpointError, match="received none"):
        average([])
    with pytest.raises(CheckpointError, match="no such file"):
        average([first, tmp_path / "4"])
