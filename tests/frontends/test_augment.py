from __future__ import annotations

import pytest
import torch

from narspeech.batch import Padded
from narspeech.errors import ConfigError
from narspeech.frontends.augment import SpecAugment, SpecAugmentConfig


def features() -> Padded:
    return Padded.pack([torch.randn(200, 80), torch.randn(90, 80)])


def make(seed: int = 0, **changes: float) -> SpecAugment:
    return SpecAugment(SpecAugmentConfig(**changes), torch.Generator().manual_seed(seed))  # type: ignore[arg-type]


def test_training_only() -> None:
    batch, augment = features(), make()
    assert not torch.equal(augment(batch).data, batch.data)
    augment.eval()
    assert torch.equal(augment(batch).data, batch.data)
    pair = augment.views(batch)
    assert torch.equal(pair.data, torch.cat([batch.data, batch.data]))


def test_no_parameters_and_nothing_to_save() -> None:
    assert make().state_dict() == {}


def test_everything_off_changes_nothing() -> None:
    batch = features()
    augment = make(warp=0, freq_masks=0, time_masks=0)
    assert torch.equal(augment(batch).data, batch.data)


def test_views_share_the_warp_and_differ_in_the_masks() -> None:
    batch = features()
    pair = make().views(batch)
    assert pair.lengths.tolist() == [200, 90, 200, 90]
    for row in (0, 1):
        length = int(batch.lengths[row])
        one, other = pair.data[row, :length], pair.data[row + 2, :length]
        kept = (one != 0) & (other != 0)
        assert torch.equal(one[kept], other[kept]), "two warps"
        assert not torch.equal(one == 0, other == 0), "one masking"
        assert not torch.equal(one[kept], batch.data[row, :length][kept]), "no warp"


def test_views_differ_in_frequency_warp_and_band_limit() -> None:
    batch, plain = features(), {"warp": 0, "freq_masks": 0, "time_masks": 0}
    for changes in ({"freq_warp": 0.1}, {"band_limit": 40}):
        one, other = make(**plain, **changes, seed=1).views(batch).data.chunk(2)
        assert not torch.equal(one, other)


def test_views_widen_the_time_masks() -> None:
    batch = Padded(torch.ones(500, 100, 1), torch.full((500,), 100))
    changes = {"warp": 0, "freq_masks": 0, "time_masks": 1, "time_ratio": 0.08}
    single = (make(**changes)(batch).data == 0).sum(1).max()
    double = (make(**changes).views(batch).data == 0).sum(1).max()
    assert (int(single), int(double)) == (8, 20)
    assert (make(time_ratio=0.9).views(batch).data == 0).any(), "2.25 of the length would be refused"


@pytest.mark.parametrize(
    "changes",
    [
        {"warp": -1},
        {"freq_width": -2},
        {"freq_warp": 1.0},
        {"band_limit": -1},
        {"time_ratio": 1.2},
        {"time_ratio": -0.1},
    ],
)
def test_impossible_settings(changes: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(changes))):
        make(**changes)
