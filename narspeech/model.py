"""frontend -> encoder -> decoder, and the one CTC head that they share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from narspeech.batch import Batch, Encoded, Loss, Padded, TrainStep
from narspeech.calibration import Calibration
from narspeech.decoders.align_refine import AlignRefine, AlignRefineConfig
from narspeech.decoders.ar import AR, ARConfig
from narspeech.decoders.base import DecodeOptions, Decoder
from narspeech.decoders.cmlm import CMLM, CMLMConfig
from narspeech.decoders.ctc import CTCDecoder, CTCDecoderConfig
from narspeech.decoders.dag import DAG, DAGConfig
from narspeech.decoders.glat_ctc import GlatCTC, GlatCTCConfig
from narspeech.decoders.levenshtein import Levenshtein, LevenshteinConfig
from narspeech.decoders.mask_ctc import MaskCTC, MaskCTCConfig
from narspeech.decoders.nat import NAT, NATConfig
from narspeech.encoders.base import Encoder
from narspeech.encoders.conformer import Conformer, ConformerConfig
from narspeech.encoders.transformer import Transformer, TransformerConfig
from narspeech.errors import ConfigError
from narspeech.frontends.base import Frontend
from narspeech.frontends.fbank import Fbank, FbankConfig
from narspeech.frontends.text import TextConfig, TextEmbedding
from narspeech.nn.heads import CTCHead
from narspeech.ops.ctc import ctc_loss, guided_path, path_loss
from narspeech.ops.scorer import Scorer
from narspeech.refine import decode
from narspeech.result import Hypothesis
from narspeech.tokenizer import Tokenizer

FRONTENDS = {"fbank": Fbank, "text": TextEmbedding}
ENCODERS = {"conformer": Conformer, "transformer": Transformer}
DECODERS: dict[str, type[Decoder]] = {
    "ctc": CTCDecoder,
    "mask_ctc": MaskCTC,
    "cmlm": CMLM,
    "nat": NAT,
    "dag": DAG,
    "ar": AR,
    "levenshtein": Levenshtein,
    "align_refine": AlignRefine,
    "glat_ctc": GlatCTC,
}


@dataclass(frozen=True, kw_only=True)
class CTCConfig:
    """The loss is weight x CTC + (1 - weight) x the decoder's.

    CTC is (1 - intermediate) x the last layer's + intermediate x the mean of the taps' (Lee & Watanabe 2021);
    condition: feed the taps' posteriors back (Nozaki & Komatsu 2021); consistency: weight alpha of the divergence
    between two augmented views of an utterance, 0 for one view, .2 as published (CR-CTC: Yao et al. 2024);
    guided: share of the training over which the likelihood of a given alignment (`Batch.guide`) fades into CTC's.
    """

    weight: float = 0.3
    intermediate: float = 0.5
    condition: bool = False
    consistency: float = 0.0
    guided: float = 0.0


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """ctc: None for a model without a CTC head, as of text whose states are too few to spell the target; decoding: the
    settings that suit the trained model, used where a user gives none; language: the code of what it writes, "en";
    calibration: of its word times and confidence, None before it was calibrated."""

    frontend: FbankConfig | TextConfig = field(default_factory=FbankConfig)
    encoder: ConformerConfig | TransformerConfig = field(default_factory=ConformerConfig)
    decoder: (
        CTCDecoderConfig
        | MaskCTCConfig
        | CMLMConfig
        | NATConfig
        | DAGConfig
        | ARConfig
        | LevenshteinConfig
        | AlignRefineConfig
        | GlatCTCConfig
    ) = field(default_factory=MaskCTCConfig)
    ctc: CTCConfig | None = field(default_factory=CTCConfig)
    decoding: DecodeOptions = field(default_factory=DecodeOptions)
    language: str | None = None
    calibration: Calibration | None = None


# Frames that a guided token lasts at most: longer gaps between tokens are silence.
HOLD = 4


class Guidance(NamedTuple):
    """share: weight of the given path (B, T) against the CTC loss."""

    share: float
    path: Tensor | None

    def blend(self, ctc: Tensor, log_probs: Padded) -> Tensor:
        """The CTC loss, or its mean with the path's loss as the share says."""
        if self.path is None:
            return ctc
        return (1 - self.share) * ctc + self.share * path_loss(log_probs, self.path).sum()


class Model(nn.Module):
    """From samples to hypotheses; `tokenizer` turns their ids into text."""

    def __init__(self, config: ModelConfig, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.config, self.tokenizer = config, tokenizer
        self.frontend: Frontend = FRONTENDS[config.frontend.kind](config.frontend, tokenizer.size)
        self.encoder: Encoder = ENCODERS[config.encoder.kind](config.encoder, self.frontend.num_features)
        width, size, ctc = self.encoder.width, tokenizer.size, config.ctc
        self.ctc = None if ctc is None else CTCHead(width, size, condition=ctc.condition)
        self.decoder: Decoder = DECODERS[config.decoder.kind](config.decoder, width, size)
        self.greedy = CTCDecoder()
        if self.decoder.reads_ctc and ctc is None:
            raise ConfigError(
                f"expected a CTC head for the decoder {config.decoder.kind} to read, received ctc none: set model.ctc"
            )

    @property
    def device(self) -> torch.device:
        return self._weight.device

    @property
    def _weight(self) -> Tensor:
        """Any weight of the layers, all of which share a device and a precision."""
        return next(self.encoder.parameters())

    def encode(self, source: Padded, *, views: bool = False) -> Encoded:
        """source (B, N) samples -> states and CTC log-probabilities; 2 B rows where two `views` are asked for."""
        features = self.frontend(source, views=views)
        # Features are float32 whatever the weights are.
        features = Padded(features.data.to(self._weight.dtype), features.lengths)
        head = self.ctc
        encoded: Encoded = self.encoder(features, None if head is None or head.condition is None else head.feedback)
        states = encoded.states
        return encoded if head is None else encoded._replace(ctc=Padded(head(states.data), states.lengths))

    def forward(self, batch: Batch, step: TrainStep = TrainStep()) -> Loss:  # noqa: B008 - an immutable default
        """The training loss of a batch, summed over its target tokens.

        Targets longer than their frames can spell count as `infeasible` and add nothing else to the CTC loss.
        """
        config = self.config.ctc
        if config is None or self.ctc is None:
            return self.decoder.loss(self.encode(batch.source), batch, step)
        views = config.consistency > 0 and self.training
        encoded = self.encode(batch.source, views=views)
        if views:
            both = torch.arange(len(batch.ids), device=self.device).repeat(2)
            guide = None if batch.guide is None else batch.guide.rows(both)
            batch = batch._replace(ids=batch.ids * 2, target=batch.target.rows(both), guide=guide)
        assert encoded.ctc is not None
        losses, fits = ctc_loss(encoded.ctc, batch.target)
        guidance = self._guidance(encoded, batch, step, config.guided)
        ctc = losses.sum()
        total = guidance.blend(ctc, encoded.ctc)
        parts = {"ctc": ctc.detach(), "infeasible": (~fits[: len(fits) // 2 if views else None]).sum()}
        if encoded.taps and config.intermediate > 0:
            taps = [Padded(self.ctc(tap), encoded.states.lengths) for tap in encoded.taps]
            sums = [ctc_loss(tap, batch.target)[0].sum() for tap in taps]
            blended = [guidance.blend(loss, tap) for loss, tap in zip(sums, taps, strict=True)]
            total = (1 - config.intermediate) * total + config.intermediate * torch.stack(blended).mean()
            parts["intermediate"] = torch.stack(sums).mean().detach()
        if views:
            consistency = symmetric_divergence(encoded.ctc)
            total = total + config.consistency * consistency
            parts["consistency"] = consistency.detach()
        if config.weight < 1:
            loss = self.decoder.loss(encoded, batch, step._replace(views=views))
            total = config.weight * total + (1 - config.weight) * loss.total
            parts |= {"decoder": loss.total.detach(), **loss.parts}
        return Loss(total, batch.target.lengths.sum(), parts)

    def _guidance(self, encoded: Encoded, batch: Batch, step: TrainStep, guided: float) -> Guidance:
        """How much a given alignment counts at this moment of the training, and what it labels each frame."""
        share = max(0.0, 1 - step.progress / guided) if guided > 0 else 0.0
        if share == 0 or batch.guide is None:
            return Guidance(0.0, None)
        rate = self.frontend.frames_per_second / self.encoder.reduction
        starts = (batch.guide.data * rate).long()
        return Guidance(share, guided_path(batch.target, starts, encoded.states.data.shape[1], HOLD))

    def decode(
        self,
        source: Padded,
        options: DecodeOptions | None = None,
        decoder: Literal["ctc"] | Decoder | None = None,
        scorer: Scorer | None = None,
        encoded: Encoded | None = None,
    ) -> list[Hypothesis]:
        """One hypothesis a row of source (B, N) or (B, L); decoder: "ctc" reads the CTC head alone, and one that is
        given takes the place of the model's; scorer: what is added to the log-probabilities of tokens, such as a
        language model's, weights included; encoded: what `encode` gave for the source, for a caller who reads more of
        it than the text."""
        family = self.greedy if decoder == "ctc" else decoder or self.decoder
        if family.reads_ctc and self.ctc is None:
            raise ConfigError("expected a model with a CTC head to decode by CTC, received one without: drop decoder")
        if encoded is None:
            with torch.inference_mode():
                encoded = self.encode(source)
        return decode(family, encoded, options or self.config.decoding, scorer)


def symmetric_divergence(log_probs: Padded) -> Tensor:
    """Sum over the real frames of all views of the KL divergence to the other view, whose gradient is stopped.

    log_probs (2 B, T, V), rows i and i + B being views of one utterance. CR-CTC (Yao et al. 2024) takes half of this
    sum and half of both views' CTC losses; here both are whole, and so is the count of tokens that divides them.
    """
    first, second = log_probs.data.chunk(2)
    other = torch.cat([second, first]).detach()
    divergence = (other.exp() * (other - log_probs.data)).sum(-1)
    return (divergence * log_probs.mask).sum()
