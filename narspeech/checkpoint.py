"""A model as a folder: config.json, tokenizer and model.safetensors. Built from closed tables, without pickle."""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError

from narspeech import tokenizer as tokenizers
from narspeech.config import from_dict, to_dict
from narspeech.errors import CheckpointError, NarspeechError
from narspeech.files import write_atomic
from narspeech.model import Model, ModelConfig

FORMAT = 1
CONFIG, WEIGHTS = "config.json", "model.safetensors"
# Weights that mean nothing with another vocabulary, even where their shapes agree.
OF_VOCABULARY = ("ctc.", "decoder.tokens.", "frontend.embedding.")
PARTS = frozenset({"frontend", "encoder", "decoder", "ctc"})


def save(folder: Path, model: Model, *, dtype: torch.dtype | None = None) -> None:
    """Write the model to `folder`; floating-point weights as `dtype` if given (float16 halves the size)."""
    folder.mkdir(parents=True, exist_ok=True)
    model.tokenizer.save(folder)
    write_atomic(folder / WEIGHTS, weights_to_bytes(model.state_dict(), dtype))
    save_config(folder, model.config)


def save_config(folder: Path, config: ModelConfig) -> None:
    """Write the configuration alone, as after a calibration, beside weights that it describes."""
    write_json(folder / CONFIG, {"format": FORMAT, "model": to_dict(config)})


def load(path: str | os.PathLike[str], *, device: str | torch.device = "cpu") -> Model:
    """The model in folder `path`, in float32 on `device`, ready to decode. Raises CheckpointError."""
    folder = Path(path)
    content = read_config(folder)
    try:
        model = Model(from_dict(ModelConfig, content), tokenizers.load(folder))
    except CheckpointError:
        raise
    except (ValueError, RuntimeError) as error:  # ours, and torch's on sizes that cannot be
        reason = str(error).partition("\n")[0]
        raise CheckpointError(
            f"expected {folder / CONFIG} to describe a model, received one that cannot be built: {reason}"
        ) from error
    weights = read_weights(folder / WEIGHTS)
    expected = model.state_dict()
    missing, unknown = sorted(expected.keys() - weights.keys()), sorted(weights.keys() - expected.keys())
    if missing or unknown:
        raise CheckpointError(
            f"expected {folder / WEIGHTS} to hold the weights that its {CONFIG} describes, "
            f"received a file that lacks {missing[:3]} and has unknown {unknown[:3]}: save or download the folder anew"
        )
    for name, tensor in weights.items():
        if tensor.shape != expected[name].shape:
            raise CheckpointError(
                f"expected {name} in {folder / WEIGHTS} to be {tuple(expected[name].shape)}, "
                f"received {tuple(tensor.shape)}: save or download the folder anew"
            )
    model.load_state_dict(weights)
    return model.to(device).eval()


def ready(model: str | os.PathLike[str] | Model, device: str | torch.device | None = None) -> Model:
    """A Model, or the one in a folder, in evaluation mode on `device`: by default where a given Model is, else CUDA
    where there is one. Raises CheckpointError, and NarspeechError for a device that is not there."""
    if isinstance(model, Model):
        return model.to(model.device if device is None else find_device(device)).eval()
    return load(model, device=find_device(device or ("cuda" if torch.cuda.is_available() else "cpu")))


def find_device(name: str | torch.device) -> torch.device:
    """The device that `name` means, once something could be put there. Raises NarspeechError."""
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch was built without CUDA
        reason = str(error).partition("\n")[0]
        raise NarspeechError(
            f"expected a device of this machine such as cpu, received {str(name)!r}: {reason}"
        ) from None


def initialise(model: Model, path: str | os.PathLike[str], parts: Collection[str] = PARTS) -> list[str]:
    """Copy from checkpoint `path` every weight of these parts whose name and shape fit; returns the names, of all
    parts, that kept their own. Raises CheckpointError where none fits.

    From a model of another vocabulary, such as one that recognises what this one shall translate, the rest is taken.
    """
    weights = read_weights(Path(path) / WEIGHTS)
    own = model.state_dict()
    foreign = () if tokenizers.load(Path(path)).pieces == model.tokenizer.pieces else OF_VOCABULARY
    fitting = {
        name: x
        for name, x in weights.items()
        if name.partition(".")[0] in parts
        and name in own
        and own[name].shape == x.shape
        and not name.startswith(foreign)
    }
    if not fitting:
        raise CheckpointError(
            f"expected {path} to share weights of {', '.join(sorted(parts))} with the model, received none that fit: "
            "check the profile"
        )
    model.load_state_dict(fitting, strict=False)
    return sorted(own.keys() - fitting.keys())


def read_config(folder: Path) -> dict[str, object]:
    """The model's part of config.json, its format checked."""
    try:
        content = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"expected a model folder with {CONFIG}, received {folder}: check the path") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"expected {folder / CONFIG} to be readable JSON, received {error}: save or download the folder anew"
        ) from None
    if not isinstance(content, dict) or content.get("format") != FORMAT or not isinstance(content.get("model"), dict):
        found = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise CheckpointError(
            f"expected {folder / CONFIG} of format {FORMAT}, received format {found!r}: use the narspeech that wrote it"
        )
    model: dict[str, object] = content["model"]
    return model


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The tensors in safetensors file `path`, on the CPU. Raises CheckpointError."""
    try:
        return safetensors.torch.load_file(path)
    except FileNotFoundError:
        raise CheckpointError(f"expected weights at {path}, received no such file: check the path") from None
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"expected {path} to be a complete safetensors file, received {error}: save or download it anew"
        ) from None


def weights_to_bytes(weights: dict[str, torch.Tensor], dtype: torch.dtype | None = None) -> bytes:
    """safetensors bytes of the weights on the CPU."""
    tensors = {
        name: x.detach().to("cpu", dtype if dtype is not None and x.is_floating_point() else x.dtype).contiguous()
        for name, x in weights.items()
    }
    return safetensors.torch.save(tensors)


def write_json(path: Path, content: object) -> None:
    """`content` as indented JSON at `path`, atomically."""
    write_atomic(path, (json.dumps(content, indent=2) + "\n").encode())
