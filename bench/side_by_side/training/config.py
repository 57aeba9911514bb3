"""What is trained: FLA's GLA model of 340M parameters, unless said otherwise."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TrainingConfig:
    batch: int = 8
    tokens: int = 2048
    steps: int = 200  # of the loss curve
    seed: int = 7
    learning_rate: float = 3e-4
    hidden_size: int = 1024
    layers: int = 24
    heads: int = 4
    expand_k: float = 0.5  # K = 128
    expand_v: float = 1.0  # V = 256
    vocabulary: int = 32000
    precision: str = "float32 weights and AdamW, bf16 autocast"

    @property
    def head_dims(self) -> tuple[int, int]:
        return tuple(int(self.hidden_size * expand) // self.heads for expand in (self.expand_k, self.expand_v))
