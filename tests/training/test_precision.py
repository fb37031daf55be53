"""What ``auto`` stands for: by what the hardware multiplies, and by what its libraries are limited to."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from histogen.errors import ConfigError
from histogen.training.precision import autocast, resolve_precision

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A processor with AVX-512 and AMX, and nothing that limits it."""
    for name in LIMITS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    return monkeypatch


@pytest.mark.parametrize("limit", ["", "ALL", "DEFAULT", "AVX512_CORE_BF16", "avx512_core_amx", "AVX10_1_512_AMX"])
def test_a_processor_with_bfloat16_takes_it(processor: pytest.MonkeyPatch, limit: str) -> None:
    for name in LIMITS:
        with processor.context() as limited:
            limited.setenv(name, limit)
            assert resolve_precision("auto", CPU) == "bfloat16"


@pytest.mark.parametrize("limit", ["SSE41", "AVX", "avx2", "AVX2_VNNI_2", "AVX512_CORE", "avx512_core_vnni"])
def test_a_limit_below_bfloat16_is_honoured(processor: pytest.MonkeyPatch, limit: str) -> None:
    for name in LIMITS:
        with processor.context() as limited:
            limited.setenv(name, limit)
            assert resolve_precision("auto", CPU) == "float32"


@pytest.mark.parametrize(
    ("where", "attribute", "value"),
    [
        (torch.backends.mkldnn, "is_available", False),
        (torch.ops.mkldnn, "_is_mkldnn_bf16_supported", False),
        (torch.backends.cpu, "get_cpu_capability", "AVX2"),
        (torch.backends.cpu, "get_cpu_capability", "DEFAULT"),
    ],
)
def test_what_torch_itself_lacks_is_float32(
    processor: pytest.MonkeyPatch, where: object, attribute: str, value: object
) -> None:
    processor.setattr(where, attribute, lambda: value)
    assert resolve_precision("auto", CPU) == "float32"


def test_avx512_without_bfloat16_is_float32(processor: pytest.MonkeyPatch) -> None:
    processor.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    assert resolve_precision("auto", CPU) == "bfloat16"  # by AMX
    processor.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert resolve_precision("auto", CPU) == "float32"


@pytest.mark.parametrize("has", [True, False])
def test_a_gpu_that_only_emulates_bfloat16_takes_float32(monkeypatch: pytest.MonkeyPatch, has: bool) -> None:
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: True if including_emulation else has
    )
    assert resolve_precision("auto", CUDA) == ("bfloat16" if has else "float32")


def test_what_is_asked_for_is_taken_but_float16_on_a_cpu() -> None:
    assert [resolve_precision(name, CPU) for name in ("float32", "bfloat16")] == ["float32", "bfloat16"]
    assert resolve_precision("float16", CUDA) == "float16"
    with pytest.raises(ConfigError, match="'float16' needs a GPU; use auto, float32 or bfloat16"):
        resolve_precision("float16", CPU)


def test_a_limited_process_is_found_limited() -> None:
    """The real thing: torch and oneDNN read their limits when they start."""
    code = (
        "import torch; from histogen.training.precision import resolve_precision;"
        "print(resolve_precision('auto', torch.device('cpu')))"
    )
    limits = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
    for limit in limits:
        environment = {key: value for key, value in os.environ.items() if key not in LIMITS} | {limit: limits[limit]}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "float32", limit


@pytest.mark.parametrize(("name", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_products_are_computed_in_it(name: str, dtype: torch.dtype) -> None:
    with autocast(CPU, name):  # type: ignore[arg-type]
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
