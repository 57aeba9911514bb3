"""What rows are measured on and with."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch

from .cases import Selection, cases_of
from .child_process import Send
from .floor import copy_bandwidth
from .inputs import InputMaker
from .libraries import Library, load_fla, load_gla_tune
from .operations import CHUNK_FORWARD_BACKWARD
from .shapes import parse_shape
from .stopwatch import CudaStopwatch

LARGEST_L2 = 128 << 20  # of any GPU; for a PyTorch before 2.5, which does not tell


@dataclass(frozen=True)
class Versions:
    torch: str | None
    triton: str | None
    gla_tune: str | None
    fla: str | None
    driver: str | None


@dataclass(frozen=True)
class Machine:
    device: str
    l2_bytes: int
    copy_bandwidth: float  # bytes per second, read and written
    versions: Versions
    without_fla: str | None  # why FLA cannot be measured
    without_gradients: str | None  # why gla_tune's backward cannot be measured


@dataclass(frozen=True)
class Questions:
    fla: bool
    gradients: bool


def inspect_machine(questions: Questions, send: Send) -> None:
    """Sends the Machine."""
    properties = torch.cuda.get_device_properties(0)
    without_fla = _without_fla() if questions.fla else "left out by --no-fla"
    send(
        Machine(
            device=properties.name,
            l2_bytes=getattr(properties, "L2_cache_size", LARGEST_L2),
            copy_bandwidth=copy_bandwidth(CudaStopwatch()),
            versions=Versions(
                torch=torch.__version__,
                triton=_version("triton"),
                gla_tune=_version("gla-tune"),
                fla=None if without_fla else _version("flash-linear-attention") or _version("fla-core"),
                driver=_driver(),
            ),
            without_fla=without_fla,
            without_gradients=why_no_gradients(load_gla_tune(), "cuda") if questions.gradients else None,
        )
    )


def why_no_gradients(library: Library, device: str) -> str | None:
    """What the library says when it is asked for gradients; None if it has them."""
    case = cases_of(Selection([CHUNK_FORWARD_BACKWARD.name], [parse_shape("B1_T16_H1_D64")]))[0]
    try:
        CHUNK_FORWARD_BACKWARD.bind(library, InputMaker(case, device).make())()
    except NotImplementedError as error:
        return str(error) or "not implemented"
    return None


def _without_fla() -> str | None:
    try:
        load_fla()
    except ImportError as error:
        return f"FLA is not installed: {error}"
    return None


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _driver() -> str | None:
    """Of the kernel module; there is no file in some containers and on Windows."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text()
    except OSError:
        return None
    match = re.search(r"\s(\d+\.\d+(?:\.\d+)?)\s", text)
    return match[1] if match else None
