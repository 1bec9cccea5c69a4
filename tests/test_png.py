from __future__ import annotations

import io

import numpy as np
import pytest

from narspeech import png
from tests.fakes import read_png


@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (80, 1), (2, 3000)])
def test_what_is_written_can_be_read(shape: tuple[int, int]) -> None:
    random = np.random.default_rng(0)
    pixels = random.integers(0, 200, shape, np.uint8)
    palette = random.integers(0, 256, (200, 4), np.uint8)
    assert np.array_equal(read_png(png.encode(pixels, palette)), palette[pixels])


def test_another_reader_agrees() -> None:
    pillow = pytest.importorskip("PIL.Image", reason="Pillow comes with matplotlib, in the extra `train`")
    pixels = np.arange(256, dtype=np.uint8).reshape(8, 32)
    for palette in (png.viridis(), png.veil("2563eb")):
        with pillow.open(io.BytesIO(png.encode(pixels, palette))) as image:
            assert np.array_equal(np.asarray(image.convert("RGBA")), palette[pixels])


def test_a_picture_needs_pixels_of_its_palette() -> None:
    with pytest.raises(ValueError, match="at least one pixel, received 0 x 5"):
        png.encode(np.zeros((5, 0), np.uint8), png.viridis())
    with pytest.raises(ValueError, match="below 2, the palette's size, received 2"):
        png.encode(np.full((1, 1), 2, np.uint8), png.viridis()[:2])


def test_viridis_grows_lighter_from_end_to_end() -> None:
    colours = png.viridis()
    assert bytes(colours[0]) == bytes.fromhex("440154ff")
    assert bytes(colours[-1]) == bytes.fromhex("fde725ff")
    assert (np.diff(colours[::8, :3] @ [0.2126, 0.7152, 0.0722]) > 0).all()


def test_a_veil_is_one_colour_from_nothing_to_all() -> None:
    assert np.array_equal(png.veil("010203"), [[1, 2, 3, opacity] for opacity in range(256)])
