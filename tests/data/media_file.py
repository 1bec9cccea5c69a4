"""Samples as a file of a container and codec that libsndfile does not read."""

from __future__ import annotations

import tempfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Containers by the ends of their names: what FFmpeg calls them, and a codec that people put in them.
CONTAINERS = {
    ".m4a": ("ipod", "aac"),
    ".mp4": ("mp4", "aac"),
    ".mov": ("mov", "alac"),
    ".webm": ("webm", "libopus"),
    ".mkv": ("matroska", "flac"),
    ".aac": ("adts", "aac"),
    ".wma": ("asf", "wmav2"),
    ".avi": ("avi", "libmp3lame"),
    ".flv": ("flv", "aac"),
    ".ts": ("mpegts", "aac"),
    ".mpg": ("mpeg", "mp2"),
    ".wv": ("wv", "wavpack"),
    ".3gp": ("3gp", "aac"),
    ".mka": ("matroska", "pcm_s16le"),
}


def media_file(samples: NDArray[Any], rate: int, suffix: str = ".m4a", options: dict[str, str] | None = None) -> bytes:
    """samples: (N, 1 or 2) floats in -1..1."""
    import av

    container, codec = CONTAINERS[suffix]
    layout = "mono" if samples.shape[1] == 1 else "stereo"
    integers = np.round(np.clip(samples, -1, 1) * 32767).astype(np.int16)
    with tempfile.TemporaryDirectory() as folder:
        # FFmpeg opens it a second time where its index is to come first.
        path = Path(folder, "sound")
        with av.open(str(path), "w", format=container, options=options or {}) as output:
            stream = output.add_stream(codec, rate=rate, layout=layout, bit_rate=96000)
            resampler = av.AudioResampler(
                format=stream.format, layout=layout, rate=rate, frame_size=stream.frame_size or 1024
            )
            frame = av.AudioFrame.from_ndarray(integers.reshape(1, -1), format="s16", layout=layout)
            frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
            for part in [*resampler.resample(frame), *resampler.resample(None)]:
                output.mux(stream.encode(part))
            output.mux(stream.encode(None))
        return path.read_bytes()
