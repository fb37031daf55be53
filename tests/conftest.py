"""Fixtures that many rooms use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Small matrices on a shared machine: OpenMP threads that spin for each other made some tests a hundred times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real slides and tiles beside the project; a test that needs it is not run without it."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"not run: the real data are not beside the project ({folder.name} is missing)")
    return folder
