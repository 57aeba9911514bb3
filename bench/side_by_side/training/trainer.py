"""One side's model and optimizer, and what a step of them takes."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, replace
from typing import Callable, ContextManager

import torch

from ..errors import UsageError
from ..fla_compiler import MOST_TOKENS, share_configs
from .config import TrainingConfig
from .data import sequences

WARM_UP_STEPS = 20  # of the learning rate
CLIP = 1.0


@dataclass(frozen=True)
class Side:
    name: str
    patched: Callable[[], ContextManager]  # what a step runs in


def _gla_tune_in_fla():
    import gla_tune

    return gla_tune.patch_fla()


SIDES = {side.name: side for side in (Side("fla", contextlib.nullcontext), Side("gla_tune", _gla_tune_in_fla))}


def make_model(config: TrainingConfig) -> torch.nn.Module:
    try:
        from fla.models import GLAConfig, GLAForCausalLM
    except ImportError as error:
        raise UsageError(
            f"FLA's models are needed (pip install flash-linear-attention transformers): {error}"
        ) from error
    torch.manual_seed(config.seed)
    return GLAForCausalLM(
        GLAConfig(
            hidden_size=config.hidden_size,
            num_hidden_layers=config.layers,
            num_heads=config.heads,
            expand_k=config.expand_k,
            expand_v=config.expand_v,
            vocab_size=config.vocabulary,
            attn_mode="chunk",
            use_cache=False,
        )
    ).to("cuda")


def compile_fla(config: TrainingConfig, index: int, count: int) -> None:
    """The work of one process of compile_ahead(): one layer and few tokens have every kernel that a step has."""
    share_configs(index, count)
    short = replace(config, layers=1, tokens=MOST_TOKENS, steps=2)
    Trainer(SIDES["fla"], short, sequences(short.steps * short.batch, short.tokens, short.seed).to("cuda"))


@dataclass
class Trainer:
    """Weights and AdamW in float32, products in bf16 (autocast)."""

    side: Side
    config: TrainingConfig
    data: torch.Tensor  # [steps * batch, tokens] on the GPU
    losses: list = field(default_factory=list)  # of the steps of the curve
    events: list = field(default_factory=list)  # before and after each step that is not the first
    taken: int = 0
    left: dict = field(default_factory=dict)  # calls that stayed with FLA, by reason
    peak_bytes: int = 0

    def __post_init__(self):
        before = torch.cuda.memory_allocated()
        self.model = make_model(self.config)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=self.config.learning_rate, betas=(0.9, 0.95), weight_decay=0.1, fused=True
        )
        self._done = 0
        self._run(1, self.losses)  # with what tuning allocates, which is not a step's
        torch.cuda.reset_peak_memory_stats()
        self._run(self.config.steps - 1, self.losses)
        self.peak_bytes = torch.cuda.max_memory_allocated() - before
        self.losses = torch.stack(self.losses).tolist()

    def time(self, steps: int) -> None:
        """More steps, for their times."""
        self._run(steps, [])

    def step_times(self) -> list[float]:
        """Milliseconds of each step but the first, in which kernels are compiled and tuned."""
        torch.cuda.synchronize()
        return [start.elapsed_time(end) for start, end in self.events]

    def _run(self, steps: int, losses: list) -> None:
        with self.side.patched() as patch:
            for _ in range(steps):
                start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                start.record()
                losses.append(self._step())
                end.record()
                if self._done > 1:
                    self.events.append((start, end))
            torch.cuda.synchronize()
            if patch is None:
                return
            for calls in patch.report().values():
                self.taken += calls.taken
                for reason, count in calls.left.items():
                    self.left[reason] = self.left.get(reason, 0) + count

    def _step(self) -> torch.Tensor:
        place = self._done % self.config.steps * self.config.batch
        tokens = self.data[place : place + self.config.batch]
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * min(1.0, (self._done + 1) / WARM_UP_STEPS)
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = self.model(input_ids=tokens, labels=tokens, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._done += 1
        return loss.detach().float()
