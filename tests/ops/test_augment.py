from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from narspeech.batch import Padded
from narspeech.errors import ConfigError
from narspeech.ops.augment import band_limit, frequency_masks, frequency_warp, speed_perturb, time_masks, time_warp


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ones(lengths: list[int], num_features: int = 80, extra: int = 7) -> Padded:
    """Features of one everywhere, the padding included: a zero can only come from a mask."""
    return Padded(torch.ones(len(lengths), max(lengths) + extra, num_features), torch.tensor(lengths))


def ramps(lengths: list[int], extra: int = 7) -> Padded:
    """Features that tell their own frame index: a warp shows its sampling positions."""
    frames = torch.arange(max(lengths) + extra, dtype=torch.float32)
    return Padded(frames[None, :, None].repeat(len(lengths), 1, 2), torch.tensor(lengths))


def runs(flags: list[bool]) -> list[int]:
    """Lengths of the runs of True."""
    return [len(run) for run in "".join("x" if flag else " " for flag in flags).split()]


class TestSpeedPerturb:
    @pytest.mark.parametrize("factor", [0.9, 1.1, 0.95, 1.25, 2.0])
    @pytest.mark.parametrize("length", [1, 2, 159, 16000, 16001])
    def test_length(self, factor: float, length: int) -> None:
        assert len(speed_perturb(torch.randn(length), factor)) == math.ceil(round(length / factor, 6))

    def test_one_returns_the_input(self) -> None:
        samples = torch.randn(100)
        assert speed_perturb(samples, 1.0) is samples

    def test_nothing_stays_nothing(self) -> None:
        assert speed_perturb(torch.zeros(0), 0.9).shape == (0,)

    @pytest.mark.parametrize("factor", [0.9, 1.1])
    def test_pitch_moves_with_the_speed(self, factor: float) -> None:
        rate, hz = 16000, 440.0
        fast = speed_perturb(torch.sin(2 * math.pi * hz / rate * torch.arange(rate)), factor)
        # The same tone, computed directly at the new pitch. The ends see the filter's edge.
        expected = torch.sin(2 * math.pi * hz * factor / rate * torch.arange(len(fast)))
        torch.testing.assert_close(fast[200:-200], expected[200:-200], atol=2e-2, rtol=0)

    @pytest.mark.parametrize("factor", [0.0, -1.0, float("nan"), 99.0])
    def test_impossible_factor(self, factor: float) -> None:
        with pytest.raises(ConfigError, match="speed factor"):
            speed_perturb(torch.zeros(10), factor)

    def test_two_channels(self) -> None:
        with pytest.raises(ValueError, match="one channel"):
            speed_perturb(torch.zeros(2, 10), 0.9)


class TestTimeWarp:
    lengths = (60, 40, 13, 12, 1, 0)

    def test_positions_match_a_plain_loop(self) -> None:
        window, seed = 5, 3
        warped = time_warp(ramps([60, 40, 13]), window, seeded(seed))
        draws = torch.rand(3, 2, generator=seeded(seed))
        for row, length in enumerate([60, 40, 13]):
            anchor = window + 1 + int(draws[row, 0] * (length - 2 * window - 2))
            moved = anchor - window + int(draws[row, 1] * (2 * window + 1))
            for frame in range(length):
                if frame < moved:
                    position = frame * anchor / moved
                else:
                    position = anchor + (frame - moved) * (length - 1 - anchor) / (length - 1 - moved)
                assert float(warped.data[row, frame, 0]) == pytest.approx(position, abs=1e-3)

    @pytest.mark.parametrize("seed", range(20))
    def test_ends_order_and_reach(self, seed: int) -> None:
        features = ramps(list(self.lengths))
        warped = time_warp(features, 5, seeded(seed))
        assert torch.equal(warped.lengths, features.lengths)
        for row, length in enumerate(self.lengths):
            positions = warped.data[row, :, 0]
            assert torch.equal(positions[length:], features.data[row, length:, 0]), "touched beyond the length"
            if length > 12:
                real = positions[:length]
                assert real[0] == 0
                assert real[-1] == length - 1
                assert (real.diff() > 0).all()
                # No frame moves farther than the anchor does.
                assert ((real - torch.arange(length)).abs() <= 5 + 1e-4).all()
            else:
                assert torch.equal(positions, features.data[row, :, 0]), "a short row has no room"

    def test_something_moves(self) -> None:
        features = ramps([60] * 16)
        changed = (time_warp(features, 5, seeded(0)).data != features.data).any(-1).any(-1)
        assert changed.sum() >= 10  # 1 of 11 draws moves nothing
        assert torch.equal(time_warp(features, 0, seeded(0)).data, features.data)

    def test_anchors_reach_their_whole_range(self) -> None:
        """With a row of 2 * window + 3 + 1 frames there are two anchors; the moved one covers 2 * window + 1 places."""
        warped = time_warp(ramps([8] * 400, extra=0), 2, seeded(0)).data[:, :, 0]
        assert len({tuple(row.tolist()) for row in warped}) == 2 * 5 - 1  # both anchors share "unmoved"

    def test_nan_in_the_padding_stays_there(self) -> None:
        features = ramps([40, 20])
        features.data[1, 20:] = float("nan")
        warped = time_warp(features, 5, seeded(1))
        assert torch.isfinite(warped.data[1, :20]).all()
        assert torch.isnan(warped.data[1, 20:]).all()

    def test_gradient_passes(self) -> None:
        features = ramps([40])
        data = features.data.requires_grad_()
        time_warp(Padded(data, features.lengths), 5, seeded(1)).data.sum().backward()
        assert data.grad is not None
        assert float(data.grad.sum()) == pytest.approx(data.numel())


class TestFrequencyMasks:
    @settings(max_examples=40, deadline=None)
    @given(seed=st.integers(0, 10**6), count=st.integers(0, 4), width=st.integers(0, 40), bands=st.integers(1, 30))
    def test_share_and_reach(self, seed: int, count: int, width: int, bands: int) -> None:
        features = ones([30, 11, 0], bands)
        masked = frequency_masks(features, count, width, seeded(seed))
        for row, length in enumerate([30, 11, 0]):
            assert (masked.data[row, length:] == 1).all(), "touched beyond the length"
            real = masked.data[row, :length] == 0
            if length:
                assert (real == real[0]).all(), "a band covers every frame"
                hidden = runs(real[0].tolist())
                assert len(hidden) <= count
                assert sum(hidden) <= count * min(width, bands)
        assert (features.data == 1).all(), "the argument changed"

    def test_widths_are_uniform_and_inclusive(self) -> None:
        masked = frequency_masks(ones([1] * 4000, 10), 1, 4, seeded(0))
        widths = (masked.data[:, 0] == 0).sum(-1)
        assert torch.bincount(widths, minlength=5).tolist() == pytest.approx([800] * 5, abs=120)

    def test_every_feature_is_hidden_at_times_and_rows_differ(self) -> None:
        hidden = frequency_masks(ones([1] * 500, 80), 2, 27, seeded(0)).data[:, 0] == 0
        assert hidden.any(0).all()
        assert len(torch.unique(hidden, dim=0)) > 400


class TestTimeMasks:
    @settings(max_examples=40, deadline=None)
    @given(
        seed=st.integers(0, 10**6),
        count=st.integers(0, 6),
        percent=st.integers(0, 100),
        lengths=st.lists(st.integers(0, 200), min_size=1, max_size=4),
    )
    def test_share_of_the_own_length(self, seed: int, count: int, percent: int, lengths: list[int]) -> None:
        features = ones(lengths, 3)
        masked = time_masks(features, count, percent / 100, seeded(seed))
        for row, length in enumerate(lengths):
            assert (masked.data[row, length:] == 1).all(), "touched beyond the length"
            real = masked.data[row, :length] == 0
            assert (real == real[:, :1]).all(), "a mask covers every feature"
            hidden = runs(real[:, 0].tolist())
            assert len(hidden) <= count
            assert sum(hidden) <= count * (length * percent // 100)

    def test_widest_mask_is_reached(self) -> None:
        """A ratio of .05 and 100 frames: 0 ... 5 frames, each as often."""
        widths = (time_masks(ones([100] * 6000, 1), 1, 0.05, seeded(0)).data[:, :, 0] == 0).sum(-1)
        assert torch.bincount(widths, minlength=6).tolist() == pytest.approx([1000] * 6, abs=150)

    def test_every_frame_of_a_row_and_none_beyond(self) -> None:
        hidden = (time_masks(ones([20] * 800, 1), 2, 0.3, seeded(0)).data[:, :, 0] == 0).any(0)
        assert hidden[:20].all()
        assert not hidden[20:].any()

    def test_impossible_ratio(self) -> None:
        with pytest.raises(ConfigError, match="ratio"):
            time_masks(ones([4]), 1, 1.5)


def chain(features: Padded, generator: torch.Generator | None) -> Tensor:
    features = time_warp(features, 5, generator)
    features = frequency_masks(features, 2, 27, generator)
    return time_masks(features, 5, 0.05, generator).data


def test_batch_mates_change_nothing() -> None:
    """Rows of the same place and draws agree whatever stands beside them and however far they are padded."""
    row, short, long = torch.randn(50, 80), torch.randn(30, 80), torch.randn(300, 80)
    with_short, with_long = (chain(Padded.pack([row, mate]), seeded(5)) for mate in (short, long))
    tiny = [chain(Padded.pack([row[:8], mate]), seeded(5))[0, :8] for mate in (row[:1], long)]
    assert torch.equal(*tiny)
    assert torch.equal(with_short[0, :50], with_long[0, :50])
    assert not torch.equal(with_short[0, :50], row)


def test_no_frames() -> None:
    features = Padded(torch.zeros(2, 0, 80), torch.zeros(2, dtype=torch.int64))
    assert chain(features, seeded(0)).shape == (2, 0, 80)


def test_seeds_decide() -> None:
    features = Padded.pack([torch.randn(90, 80), torch.randn(70, 80)])
    assert torch.equal(chain(features, seeded(1)), chain(features, seeded(1)))
    assert not torch.equal(chain(features, seeded(1)), chain(features, seeded(2)))
    torch.manual_seed(1)
    assert torch.equal(chain(features, None), chain(features, seeded(1))), "None is the global CPU generator"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda_sees_the_same_draws() -> None:
    features = Padded.pack([torch.randn(900, 80), torch.randn(70, 80), torch.randn(5, 80)])
    on_device = features.to("cuda")
    for masks in (lambda f: frequency_masks(f, 2, 27, seeded(3)), lambda f: time_masks(f, 5, 0.05, seeded(3))):
        assert torch.equal(masks(features).data, masks(on_device).data.cpu())
    warped = time_warp(on_device, 5, seeded(3)).data.cpu()
    torch.testing.assert_close(warped, time_warp(features, 5, seeded(3)).data, atol=1e-3, rtol=0)


class TestFrequencyWarp:
    def test_positions_match_a_plain_loop(self) -> None:
        bands = torch.arange(20.0).square()
        features = Padded(bands.repeat(3, 5, 1), torch.tensor([5, 2, 0]))
        warped = frequency_warp(features, 0.3, seeded(1))
        factors = 0.7 + 0.6 * torch.rand(3, 1, generator=seeded(1))[:, 0]
        for row, factor in enumerate(factors.tolist()):
            for band in range(20):
                place = min(band * factor, 19.0)
                left = int(place)
                right = min(left + 1, 19)
                expected = bands[left] + (place - left) * (bands[right] - bands[left])
                torch.testing.assert_close(warped.data[row, :, band], expected.expand(5), rtol=1e-4, atol=1e-3)
        assert torch.equal(warped.lengths, features.lengths)

    def test_none_changes_nothing(self) -> None:
        features = ramps([6])
        assert frequency_warp(features, 0.0) is features

    def test_a_row_does_not_depend_on_its_batch_mates(self) -> None:
        features = Padded(torch.randn(3, 9, 8), torch.tensor([9, 4, 7]))
        alone = frequency_warp(features.rows(torch.tensor([0])), 0.2, seeded(4)).data[0]
        torch.testing.assert_close(frequency_warp(features, 0.2, seeded(4)).data[0], alone)

    @pytest.mark.parametrize("width", [-0.1, 1.0, float("nan")])
    def test_impossible_width(self, width: float) -> None:
        with pytest.raises(ConfigError, match="frequency warp"):
            frequency_warp(ramps([6]), width)


class TestBandLimit:
    def test_the_top_falls_to_the_least_value_in_half_of_the_rows(self) -> None:
        lengths = torch.tensor([7, 3] * 300)
        features = Padded(torch.randn(600, 9, 10, generator=seeded(0)), lengths)
        limited = band_limit(features, 4, seeded(2))
        widths = []
        for row, length in enumerate(lengths.tolist()):
            before, after = features.data[row], limited.data[row]
            assert torch.equal(after[length:], before[length:]), "what is beyond the length was touched"
            cut = int((after[:length] == before[:length].min()).all(0).sum())
            assert torch.equal(after[:length, : 10 - cut], before[:length, : 10 - cut])
            assert cut == 0 or bool((after[:length, 10 - cut :] == before[:length].min()).all())
            widths.append(cut)
        assert set(widths) == {0, 1, 2, 3, 4}
        assert 0.5 < widths.count(0) / 600 < 0.7  # half of the rows, and a fifth of the others

    def test_nothing_to_cut(self) -> None:
        empty = Padded(torch.zeros(2, 0, 10), torch.tensor([0, 0]))
        assert band_limit(empty, 4).data.shape == (2, 0, 10)
        rows = Padded(torch.randn(1, 3, 4), torch.tensor([0]))
        assert torch.equal(band_limit(rows, 4).data, rows.data)
        assert band_limit(rows, 0) is rows
