"""m4a, webm and their kin: what comes out is what went in, and whatever becomes of the child, this process lives."""

from __future__ import annotations

import importlib.util
import io
import os
import signal
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from narspeech.data import media
from narspeech.data.audio import load_audio
from narspeech.data.media import MediaReader, Signature, signature
from narspeech.data.sound_reader import open_reader
from narspeech.data.sound_stream import SoundStream, header_seconds
from narspeech.errors import AudioError
from tests.data.media_file import CONTAINERS, media_file
from tests.data.sound_fuzz import sound_file

RATE = 16000
KIND = Signature(0, b"", "mov", "MPEG-4")
needs_av = pytest.mark.skipif(
    importlib.util.find_spec("av") is None, reason="the media extra is not installed: pip install narspeech[media]"
)


def chirps(seconds: float = 2.0, rate: int = RATE) -> np.ndarray[Any, Any]:
    """(N, 2): two sweeps that fade in and out, so that a shift in time shows."""
    times = np.arange(round(seconds * rate)) / rate
    left = 0.3 * np.sin(2 * np.pi * (200 + 300 * times) * times)
    right = 0.2 * np.sin(2 * np.pi * (900 - 100 * times) * times)
    return np.stack([left, right], 1) * np.hanning(len(times))[:, None]


# --- what is heard


@needs_av
@pytest.mark.parametrize("suffix", [".m4a", ".mp4", ".mov", ".webm", ".mkv", ".mka", ".wv", ".3gp"])
def test_samples_are_those_that_were_written(suffix: str, tmp_path: Path) -> None:
    samples = chirps()
    content = media_file(samples, RATE, suffix)
    path = tmp_path / f"sound{suffix}"
    path.write_bytes(content)
    for channel, expected in ((None, samples.mean(1)), (0, samples[:, 0]), (1, samples[:, 1])):
        audio = load_audio(path, target_rate=RATE, channel=channel)
        assert audio.warnings == ()
        # A codec works in frames of up to 1024 samples and may fill up the last.
        assert len(expected) <= len(audio.samples) <= len(expected) + 1024
        assert np.abs(audio.samples[: len(expected)] - expected).max() < 0.03
        assert np.abs(audio.samples[len(expected) :]).max(initial=0) < 0.03
    whole = load_audio(content, target_rate=RATE)
    assert np.array_equal(whole.samples, load_audio(io.BytesIO(content), target_rate=RATE).samples)
    sound = SoundStream(path, target_rate=RATE, seconds=0.3)
    assert np.array_equal(np.concatenate(list(sound)), whole.samples)
    assert sound.warnings == ()
    assert sound.duration == whole.duration
    assert header_seconds(path) == pytest.approx(2.0, abs=0.1)
    with pytest.raises(AudioError, match="channel from 0 to 1"):
        load_audio(path, channel=2)


@needs_av
@pytest.mark.parametrize("suffix", [".aac", ".wma", ".avi", ".flv", ".ts", ".mpg"])
def test_old_and_broadcast_containers(suffix: str) -> None:
    """They say nothing of a codec's delay, so what is heard is compared at the best shift up to 0.15 s."""
    reach = round(0.15 * RATE)
    samples = chirps().mean(1)[reach:-reach]  # it fades in and out
    rate = 44100 if suffix in (".avi", ".flv", ".mpg") else RATE
    audio = load_audio(media_file(chirps(rate=rate), rate, suffix), target_rate=RATE)
    assert audio.duration == pytest.approx(2.0, abs=0.15)
    correlation = np.correlate(audio.samples[: len(samples) + 2 * reach], samples, "valid")
    shift = int(correlation.argmax())
    assert np.abs(audio.samples[shift : shift + len(samples)] - samples).max() < 0.05


@needs_av
def test_a_mono_file_and_a_part_of_it() -> None:
    samples = chirps()[:, :1]
    content = media_file(samples, RATE, ".mka")
    part = load_audio(content, start=0.5, duration=1.0)
    assert np.abs(part.samples - samples[8000:24000, 0]).max() < 1e-4
    with pytest.raises(AudioError, match="received none"):
        load_audio(content, start=2.5)
    with pytest.raises(AudioError, match="at most 1 s"):
        load_audio(content, max_seconds=1.0)


def test_signatures() -> None:
    assert signature(b"RIFF0000WAVEfmt ") is None
    assert signature(b"this is no sound at all") is None
    assert signature(b"") is None
    assert signature(b"\xff\xfb\x90\x00") is None  # MPEG layer III
    for content, demuxer in (
        (b"\0\0\0\x18ftypM4A ", "mov"),
        (b"\x1aE\xdf\xa3", "matroska"),
        (b"\xff\xf1\x50", "aac"),
        (b"G" + bytes(187) + b"G", "mpegts"),
    ):
        found = signature(content)
        assert found is not None
        assert found.demuxer == demuxer
    assert signature(b"H" + bytes(187) + b"G") is None


@needs_av
@pytest.mark.parametrize("suffix", CONTAINERS)
def test_every_container_is_known_by_its_signature(suffix: str) -> None:
    found = signature(media_file(chirps(0.3, 48000), 48000, suffix)[:256])
    assert found is not None
    assert found.demuxer != "ogg"


# --- what is damaged


@needs_av
@pytest.mark.parametrize(
    ("suffix", "options"), [(".mka", {}), (".mkv", {}), (".webm", {}), (".m4a", {"movflags": "faststart"})]
)
def test_a_file_that_is_cut_short_is_read_and_told(suffix: str, options: dict[str, str], tmp_path: Path) -> None:
    content = media_file(chirps(), RATE, suffix, options)
    path = tmp_path / "sound"
    path.write_bytes(content[: len(content) // 2])
    audio = load_audio(path, target_rate=RATE)
    assert 0.5 < audio.duration < 1.5
    (warning,) = audio.warnings
    assert f"only {audio.duration:.2f} s could be read" in warning
    sound = SoundStream(path, target_rate=RATE)
    assert sum(map(len, sound)) == len(audio.samples)
    assert sound.warnings == (warning,)


@needs_av
def test_what_is_no_recording_is_told_in_a_sentence() -> None:
    content = media_file(chirps(), RATE, ".m4a")
    for damaged in (content[: len(content) // 2], b"\0\0\0\x18ftypM4A " + b"nonsense" * 30):
        with pytest.raises(AudioError, match=r"expected sound in .* \(MPEG-4\), but FFmpeg found none: Invalid data"):
            load_audio(damaged)


@needs_av
@pytest.mark.parametrize("rate", [1.0, 999.0, 1e6])
def test_a_rate_that_nobody_records_at_is_refused(rate: float) -> None:
    content = media_file(chirps(), RATE, ".mka")
    place = content.index(b"\xb5\x88" + struct.pack(">d", RATE)) + 2  # Matroska's SamplingFrequency
    with pytest.raises(AudioError, match=r"sampling rate of 1000 to 768000 Hz|FFmpeg found none"):
        load_audio(content[:place] + struct.pack(">d", rate) + content[place + 8 :])


@needs_av
@pytest.mark.parametrize("channels", [0, 65, 255])
def test_too_many_channels_are_refused(channels: int) -> None:
    content = media_file(chirps(), RATE, ".mka")
    place = content.index(b"\x9f\x81\x02") + 2
    with pytest.raises(AudioError, match=r"1 to 64 channels|FFmpeg found none"):
        load_audio(content[:place] + bytes([channels]) + content[place + 1 :])


@needs_av
def test_a_file_leads_to_no_other(tmp_path: Path) -> None:
    (tmp_path / "secret.wav").write_bytes(sound_file("WAV", "PCM_16"))
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nfile://{tmp_path}/secret.wav\n#EXT-X-ENDLIST\n"
    for content in (playlist.encode(), f"ffconcat version 1.0\nfile {tmp_path}/secret.wav\n".encode()):
        with pytest.raises(AudioError, match="expected sound as wav"):
            load_audio(content)


# --- what becomes of the child


@pytest.fixture
def child(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Takes the body of a script that stands in for the child; it may say `tell(kind, **facts)` and `send`."""
    monkeypatch.setattr(media.importlib.util, "find_spec", lambda _: True)

    def stand_in(body: str) -> None:
        path = tmp_path / "child.py"
        path.write_text(
            f"import os, sys, time\nsys.path.insert(0, {str(media.CHILD.parent)!r})\n"
            "from media_child import Channel\nchannel = Channel(os.fdopen(1, 'wb'), 60)\n"
            "tell, send = channel.tell, channel.send\n"
            f"def header(): tell(b'I', rate={RATE}, channels=1, seconds=None, promised=False)\n{body}\n"
        )
        monkeypatch.setattr(media, "CHILD", path)

    return stand_in


def read(seconds: float = 1.0) -> np.ndarray[Any, Any]:
    with MediaReader(io.BytesIO(b"content"), KIND, "talk.m4a") as reader:
        try:
            return reader.block(round(seconds * RATE))
        finally:
            assert reader.child.poll() is not None or not reader.late


def test_the_child_is_given_the_content_and_its_samples_come_back(child: Any) -> None:
    child(
        "import array\nheader()\nsend(b'S', array.array('f', list(sys.stdin.buffer.read())).tobytes())\n"
        "tell(b'E', damaged=0, broken=False)"
    )
    assert read().ravel().tolist() == [float(byte) for byte in b"content"]


def test_without_the_extra_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(AudioError, match=r"received none: pip install narspeech\[media\]"):
        load_audio(b"\0\0\0\x18ftypM4A " + bytes(100))


@pytest.mark.parametrize("body", ["time.sleep(1000)", "header(); time.sleep(1000)"])
def test_a_child_that_stands_still_is_given_up(child: Any, body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media, "PATIENCE", 2.0)
    child(body)
    with pytest.raises(AudioError, match=r"decode talk\.m4a \(MPEG-4\), but its process stood still"):
        read()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no limits of resources")
def test_a_child_that_runs_in_circles_is_ended_by_its_own_limit(child: Any) -> None:
    child("header(); channel.spin = 1; channel.progress()\nwhile True: pass")
    with pytest.raises(AudioError, match="stood still"):
        read()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no limits of resources")
def test_memory_is_limited() -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(media.CHILD.parent)!r})\nimport resource\nfrom media_child import limit\n"
        "limit(resource.RLIMIT_AS, 1 << 29)\ntry: bytearray(1 << 30)\nexcept MemoryError: sys.exit(7)"
    )
    if sys.platform != "linux":
        pytest.skip("only Linux is known to keep RLIMIT_AS")
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 7


@pytest.mark.parametrize(
    ("body", "end"),
    [
        ("sys.exit(3)", "code 3"),
        ("header(); os.abort()", "signal 6"),
        ("header(); send(b'S', bytes(400)); os.kill(os.getpid(), 9)", "signal 9"),
        ("header(); sys.stdout.buffer.write(b'S'); sys.stdout.flush(); sys.exit(0)", "code 0"),
        (
            "header(); sys.stdout.buffer.write(b'S\\xff\\xff\\xff\\xff' * 9); sys.stdout.flush(); time.sleep(1000)",
            "signal 9",
        ),
    ],
)
def test_a_child_that_dies_is_told(child: Any, body: str, end: str) -> None:
    child(body)
    with pytest.raises(AudioError, match=rf"its process ended \(with {end}\): the file is probably damaged"):
        read()


def test_a_child_that_finds_no_sound_is_told(child: Any) -> None:
    child("tell(b'E', error='it has no audio stream')")
    with pytest.raises(AudioError, match="found none: it has no audio stream; convert it"):
        read()


def test_no_process_can_be_started(child: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    child("header()")
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(AudioError, match="expected to start a process"):
        read()


def test_a_reader_that_stops_early_ends_the_child(child: Any) -> None:
    child("header()\nwhile True: send(b'S', bytes(1 << 16))")
    with MediaReader(io.BytesIO(b"content"), KIND, "talk.m4a") as reader:
        assert reader.block(RATE).shape == (RATE, 1)
        assert reader.child.poll() is None
    assert reader.child.returncode is not None  # waited for, so no zombie is left


@needs_av
def test_a_child_killed_in_the_middle_is_told_and_leaves_no_zombie(tmp_path: Path) -> None:
    path = tmp_path / "sound.mka"
    path.write_bytes(media_file(chirps(60.0), RATE, ".mka"))
    with path.open("rb", buffering=0) as file, open_reader(file, "talk.mka") as reader:
        assert isinstance(reader, MediaReader)
        assert len(reader.block(RATE)) == RATE
        os.kill(reader.child.pid, signal.SIGKILL)
        with pytest.raises(AudioError, match=r"talk\.mka .* ended \(with signal 9\)"):
            reader.block(60 * RATE)
        assert reader.child.returncode == -signal.SIGKILL


@needs_av
def test_a_stream_that_is_left_early_ends_its_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []
    start = MediaReader._start

    def remember(self: MediaReader, file: Any) -> subprocess.Popen[bytes]:
        started.append(start(self, file))
        return started[-1]

    monkeypatch.setattr(MediaReader, "_start", remember)
    path = tmp_path / "sound.mka"
    path.write_bytes(media_file(chirps(60.0), RATE, ".mka"))
    blocks = iter(SoundStream(path, target_rate=RATE, seconds=1.0))
    assert len(next(blocks)) == RATE
    (child,) = started
    assert child.returncode is None
    blocks.close()  # type: ignore[attr-defined]
    assert child.returncode is not None
