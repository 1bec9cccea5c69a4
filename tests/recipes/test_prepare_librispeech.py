from __future__ import annotations

import functools
import hashlib
import http.server
import importlib.util
import os
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from narspeech.data.download import DownloadError
from narspeech.data.example import read_manifest
from narspeech.errors import AudioError, ManifestError

SCRIPT = Path(__file__).parents[2] / "recipes" / "librispeech" / "prepare.py"
spec = importlib.util.spec_from_file_location("librispeech_prepare", SCRIPT)
recipe = importlib.util.module_from_spec(spec)
spec.loader.exec_module(recipe)


def chapter(root: Path, part: str, speaker: int, number: int, texts: list[str], suffix: str = ".flac") -> Path:
    folder = root / part / str(speaker) / str(number)
    folder.mkdir(parents=True)
    lines = []
    for index, text in enumerate(texts):
        name = f"{speaker}-{number}-{index:04d}"
        soundfile.write(folder / f"{name}{suffix}", np.zeros(1600 * (index + 1), np.float32), 16000)
        lines.append(f"{name} {text}\n")
    (folder / f"{speaker}-{number}.trans.txt").write_text("".join(lines))
    return folder


@pytest.mark.parametrize("inside", ["", "LibriSpeech"])
@pytest.mark.parametrize("suffix", [".flac", ".wav", ".ogg"])
def test_parts_are_found_in_the_folder_or_below_with_any_suffix(tmp_path, inside, suffix):
    chapter(tmp_path / inside, "dev-clean", 84, 121, ["GO ON", "DON'T"], suffix)
    chapter(tmp_path / inside, "dev-clean", 7, 3, ["HE SAID"], suffix)
    chapter(tmp_path / inside, "my-own", 1, 2, ["YES"], suffix)
    paths = recipe.prepare(tmp_path, tmp_path / "out", ["dev-clean", "my-own", "dev-clean"])
    assert paths == {part: tmp_path / "out" / f"{part}.jsonl" for part in ("dev-clean", "my-own")}
    found = {example.id: example for example in read_manifest(paths["dev-clean"])}
    assert {name: example.text for name, example in found.items()} == {
        "84-121-0000": "go on",
        "84-121-0001": "don't",
        "7-3-0000": "he said",
    }
    assert found["84-121-0001"].speaker == "84"
    assert found["84-121-0001"].duration == pytest.approx(0.2)
    assert Path(found["84-121-0001"].audio).suffix == suffix


def test_what_lacks_a_sound_or_a_transcript_is_named(tmp_path):
    folder = chapter(tmp_path, "dev-clean", 84, 121, ["GO ON", "YES"])
    (folder / "84-121-0000.flac").unlink()
    soundfile.write(folder / "84-121-0009.flac", np.zeros(1600), 16000)
    with pytest.raises(ManifestError, match=r"received 2 .*0009\.flac has no transcript; .*0000 in .* no sound"):
        recipe.prepare(tmp_path, tmp_path, ["dev-clean"])
    (folder / "84-121.trans.txt").unlink()
    with pytest.raises(ManifestError, match="received 2 that lack one"):
        recipe.prepare(tmp_path, tmp_path, ["dev-clean"])


def test_an_empty_text_an_empty_sound_and_an_empty_part_are_named(tmp_path):
    folder = chapter(tmp_path, "dev-clean", 84, 121, [""])
    with pytest.raises(ManifestError, match="84-121-0000"):
        recipe.prepare(tmp_path, tmp_path, ["dev-clean"])
    (folder / "84-121.trans.txt").write_text("84-121-0000 YES\n")
    (folder / "84-121-0000.flac").write_bytes(b"")
    with pytest.raises(AudioError, match=r"84-121-0000\.flac \(the file is empty\)"):
        recipe.prepare(tmp_path, tmp_path, ["dev-clean"])
    (tmp_path / "test-clean").mkdir()
    with pytest.raises(ManifestError, match=r"test-clean.* received none"):
        recipe.prepare(tmp_path, tmp_path, ["test-clean"])


def test_a_missing_part_tells_how_to_get_it_and_an_unknown_one_that_it_is_unknown(tmp_path):
    with pytest.raises(ManifestError, match=r"--download to fetch it from https://www\.openslr\.org/resources/31/"):
        recipe.prepare(tmp_path, tmp_path, ["train-clean-5"])
    for part in ("dev-claen", "../dev-clean", "", "."):
        with pytest.raises(ManifestError, match="correct --parts"):
            recipe.prepare(tmp_path, tmp_path, ["train-clean-5", part][::-1], download=True)


def test_every_official_part_has_a_checksum():
    assert len({archive.md5 for archive in recipe.ARCHIVES.values()}) == len(recipe.ARCHIVES) == 9
    assert all(len(bytes.fromhex(archive.md5)) == 16 for archive in recipe.ARCHIVES.values())


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A mirror of OpenSLR with a two-utterance train-clean-5."""
    chapter(tmp_path / "made" / "LibriSpeech", "train-clean-5", 1, 2, ["ONE", "TWO"])
    packed = tmp_path / "mirror" / "31" / "train-clean-5.tar.gz"
    packed.parent.mkdir(parents=True)
    with tarfile.open(packed, "w:gz") as tar:
        tar.add(tmp_path / "made" / "LibriSpeech", "LibriSpeech")
    archive = recipe.Archive(31, hashlib.md5(packed.read_bytes()).hexdigest())
    monkeypatch.setitem(recipe.ARCHIVES, "train-clean-5", archive)
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(tmp_path / "mirror"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("name", ["LibriSpeech", "corpora"])
def test_a_missing_part_is_fetched_checked_and_unpacked(tmp_path, mirror, name):
    data = tmp_path / name
    paths = recipe.prepare(data, tmp_path / "out", ["train-clean-5"], download=True, mirror=mirror)
    assert [example.text for example in read_manifest(paths["train-clean-5"])] == ["one", "two"]
    root = data if name == "LibriSpeech" else data / "LibriSpeech"
    assert [path.name for path in root.iterdir()] == ["train-clean-5"]
    recipe.prepare(data, tmp_path / "out", ["train-clean-5"])


def test_an_archive_with_another_checksum_is_refused(tmp_path, mirror, monkeypatch):
    monkeypatch.setitem(recipe.ARCHIVES, "train-clean-5", recipe.Archive(31, "0" * 32))
    with pytest.raises(DownloadError, match="checksum"):
        recipe.prepare(tmp_path / "data", tmp_path / "out", ["train-clean-5"], download=True, mirror=mirror)


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(SCRIPT.parents[2])}
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_the_script_works_alone(tmp_path):
    chapter(tmp_path, "dev-clean", 84, 121, ["GO ON"])
    done = run("--data", tmp_path, "--out", tmp_path / "out", "--parts", "dev-clean")
    assert (done.returncode, done.stderr) == (0, "")
    assert "1 utterances, 0.00 hours, 1 speakers" in done.stdout
    failed = run("--data", tmp_path, "--out", tmp_path / "out", "--parts", "dev-other")
    assert failed.returncode == 1
    assert failed.stderr.startswith("error: expected dev-other")
    assert "Traceback" not in failed.stderr
