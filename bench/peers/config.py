"""A model's configuration, as config.json holds it, and the segment that a model sees in one step."""

import dataclasses
import json
from typing import ClassVar, NamedTuple, Optional

import torch

PADDING = -1


@dataclasses.dataclass(frozen=True)
class Config:
    """The model's keys of config.json, in its own camelCase; other keys of the file are ignored."""

    architecture: str
    vocabulary: int
    bos: int
    width: int
    heads: int
    feedForward: int
    memorySlots: int
    segmentLength: int
    encoderLayers: int = 0
    decoderLayers: int = 0
    writer: str = "slot-attention"
    writerHeads: int = 0
    writerSteps: int = 1
    writerBias: bool = False
    writerTemperature: float = 0.25
    forgetting: str = "bmn"
    memoryNorm: bool = True
    position: str = "rotary"
    positionBuckets: str = "t5"
    dropout: float = 0.0
    shareEmbedding: bool = True
    tieEmbedding: bool = True
    outputBias: bool = False

    # Options that the peer has in this form alone; a file that lacks one means it.
    PLAIN: ClassVar[dict] = {
        "memory": True,
        "constantSlots": 0,
        "readGate": False,
        "embeddingNorm": False,
        "queryKeyNorm": False,
        "writerQueryKeyNorm": False,
        "writerSharpness": 0,
        "writerValues": "plain",
        "forgettingScaled": False,
    }

    CHOICES = {
        "architecture": ("encoder-decoder", "encoder", "decoder"),
        "writer": ("slot-attention", "gru"),
        "forgetting": ("bmn", "normalize-only", "none"),
        "position": ("rotary", "relative", "t5"),
        "positionBuckets": ("t5", "lucidrains"),
    }

    def __post_init__(self):
        for key, known in self.CHOICES.items():
            if getattr(self, key) not in known:
                raise ValueError(f"config.{key}: expected one of {', '.join(known)}, got {getattr(self, key)!r}")
        if self.width % (2 * self.heads) != 0:
            raise ValueError(f"config.width: expected a multiple of 2 * heads = {2 * self.heads}, got {self.width}")

    @classmethod
    def read(cls, path):
        with open(path, encoding="utf-8") as file:
            values = json.load(file)
        fields = dataclasses.fields(cls)
        missing = [f.name for f in fields if f.default is dataclasses.MISSING and f.name not in values]
        if missing:
            raise ValueError(f"{path}: lacks {', '.join(missing)}")
        for key, plain in cls.PLAIN.items():
            if values.get(key, plain) != plain:
                raise ValueError(f"{path}: {key} {values[key]!r} is not in this program, which has {plain!r} alone")
        known = {field.name for field in fields}
        return cls(**{key: value for key, value in values.items() if key in known})


class Segment(NamedTuple):
    source: torch.Tensor  # (B, T) int64, -1 is padding
    target: torch.Tensor  # (B, T) int64, -1 is never scored
    reset: Optional[torch.Tensor] = None  # (B,) bool; None: no row starts anew
    padded: bool = True  # False: the caller knows of no padding
