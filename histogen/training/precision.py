"""In which arithmetic networks compute: chosen by the machine, in one place, for every command."""

from __future__ import annotations

import os

import torch

from histogen.config import Precision
from histogen.errors import ConfigError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
LIMITS_BELOW_BF16 = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI")
"""Values of ``ONEDNN_MAX_CPU_ISA`` that keep oneDNN, which multiplies for torch, from bfloat16 in hardware."""


def resolve_precision(name: Precision, device: torch.device) -> Precision:
    """Return ``float32``, ``bfloat16`` or ``float16``: what ``name`` stands for on ``device``.

    ``auto`` is bfloat16 where the hardware multiplies it, else float32: a processor without it computes bfloat16 right
    and many times slower (a training step: 12 times at AVX2, 3 times at AVX-512).

    Raises:
        ConfigError: float16 on a CPU, which would be slower than float32 and of a smaller range.
    """
    if name == "float16" and device.type != "cuda":
        raise ConfigError("precision 'float16' needs a GPU; use auto, float32 or bfloat16")
    if name != "auto":
        return name
    return "bfloat16" if _multiplies_bf16(device) else "float32"


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Return the context in which torch computes in a resolved ``precision`` where it finds that safe."""
    return torch.autocast(device.type, DTYPES[precision], enabled=precision != "float32")


def _multiplies_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or ""
    return (
        torch.backends.mkldnn.is_available()
        and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
        and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
        and limit.upper() not in LIMITS_BELOW_BF16
        # torch's own kernels for bfloat16 attention need AVX-512 (ATEN_CPU_CAPABILITY limits them)
        and torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    )
