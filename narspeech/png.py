"""Pictures of numbers as PNG files (ISO/IEC 15948), with no other library than zlib."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# viridis (Smith & van der Walt 2015), every 32nd colour: lightness rises evenly, whatever a reader's colour vision.
_VIRIDIS = "440154 472d7b 3b528b 2c728e 21918c 28ae80 5ec962 addc30 fde725".split()  # noqa: SIM905


def encode(pixels: Bytes, palette: Bytes) -> bytes:
    """A PNG of pixels (H, W), top row first, each a place in a palette (N, 4) of red, green, blue and opacity."""
    height, width = pixels.shape
    if not height or not width:
        raise ValueError(f"expected a picture of at least one pixel, received {width} x {height}: leave it out")
    if pixels.max() >= len(palette):
        raise ValueError(f"expected pixels below {len(palette)}, the palette's size, received {pixels.max()}")
    lines = np.zeros((height, 1 + width), np.uint8)  # a line begins with its filter, 0: none
    lines[:, 1:] = pixels
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)  # 8 bits, places in a palette
    chunks = (
        (b"IHDR", header),
        (b"PLTE", palette[:, :3].tobytes()),
        (b"tRNS", palette[:, 3].tobytes()),
        (b"IDAT", zlib.compress(lines.tobytes(), 9)),
        (b"IEND", b""),
    )
    return _SIGNATURE + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def viridis() -> Bytes:
    """(256, 4) opaque colours from dark violet to yellow."""
    anchors = np.array([list(bytes.fromhex(colour)) for colour in _VIRIDIS], np.float64)
    places = np.linspace(0, len(anchors) - 1, 256)
    channels = [np.interp(places, np.arange(len(anchors)), anchors[:, channel]) for channel in range(3)]
    return np.column_stack([*channels, np.full(256, 255)]).round().astype(np.uint8)


def veil(colour: str) -> Bytes:
    """(256, 4) one colour, such as "2563eb", from transparent to opaque: it shows on light paper and on dark."""
    return np.array([[*bytes.fromhex(colour), opacity] for opacity in range(256)], np.uint8)
