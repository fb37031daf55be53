"""E-LDMs on disk: a diffusers folder that needs nothing but diffusers, opened here without running code from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import UNet2DConditionModel

from histogen.diffusion.autoencoder_files import check_names, load_autoencoder
from histogen.diffusion.conditioning import Conditioner
from histogen.diffusion.pipeline import EldmPipeline
from histogen.diffusion.sampling import build_sampler
from histogen.diffusion.settings import SamplerSettings
from histogen.diffusion.travelling import CONDITIONER, PIPELINE, joined
from histogen.errors import ConfigError
from histogen.files import read_json, write_atomic
from histogen.training.weights import usable, weights_sha256

INDEX = "model_index.json"
PIPELINE_FILE, CONDITIONER_FILE = "eldm_pipeline", "eldm_conditioner"
CLASSES = (EldmPipeline.__name__, [PIPELINE_FILE, EldmPipeline.__name__])
"""What an index calls the pipeline: before its code travelled with it, and since."""


def pipeline_sha256(pipeline: EldmPipeline) -> str:
    """Return one digest of the U-Net's, the autoencoder's and the conditioner's weights."""
    parts = {part: getattr(pipeline, part) for part in ("unet", "autoencoder", "conditioner")}
    return weights_sha256(
        {f"{part}.{key}": value for part, model in parts.items() for key, value in model.state_dict().items()}
    )


def save_pipeline(pipeline: EldmPipeline, folder: Path) -> None:
    """Write the parts and the code that samples with them, for ``DiffusionPipeline.from_pretrained`` anywhere."""
    pipeline.save_pretrained(folder)
    write_atomic(folder / f"{PIPELINE_FILE}.py", joined(PIPELINE))
    write_atomic(folder / "conditioner" / f"{CONDITIONER_FILE}.py", joined(CONDITIONER))
    index = read_json(folder / INDEX) | {
        "_class_name": [PIPELINE_FILE, EldmPipeline.__name__],
        "conditioner": [CONDITIONER_FILE, Conditioner.__name__],
    }
    write_atomic(folder / INDEX, json.dumps(index, indent=2) + "\n")


def load_pipeline(run: Path, device: torch.device | str = "cpu") -> EldmPipeline:
    """Open the pipeline of a train-eldm run (or a pipeline folder), frozen and in evaluation mode.

    Raises:
        ConfigError: there is none.
    """
    folder = run / "pipeline" if (run / "pipeline" / INDEX).exists() else run
    if not (folder / INDEX).exists():
        what = "holds no E-LDM (no pipeline/model_index.json)" if run.exists() else "does not exist"
        raise ConfigError(
            f"'{run}' {what}; train one: histogen train-eldm TILES --encoder E --autoencoder RUN --out RUN"
        )
    index = read_json(folder / INDEX)
    if index.get("_class_name") not in CLASSES:
        raise ConfigError(f"'{folder}' holds another kind of diffusers pipeline; give a run folder of train-eldm")
    with usable(f"E-LDM '{folder}'", "train it again, or copy it again"):
        pipeline = _load(folder, index)
    for part in (pipeline.unet, pipeline.autoencoder, pipeline.conditioner):
        part.eval().requires_grad_(False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def _load(folder: Path, index: Mapping[str, Any]) -> Any:
    if index["unet"][1] != UNet2DConditionModel.__name__:
        raise ValueError(f"its U-Net is a {index['unet'][1]}")
    scheduler = getattr(diffusers, index["scheduler"][1]).from_pretrained(folder / "scheduler")
    how = {"local_files_only": True, "low_cpu_mem_usage": False}  # which would need accelerate, to save some seconds
    pipeline = EldmPipeline(
        UNet2DConditionModel.from_pretrained(folder / "unet", **how),
        load_autoencoder(folder / "autoencoder"),
        scheduler,
        Conditioner.from_pretrained(folder / "conditioner", **how),
        **{key: index[key] for key in ("encoder_name", "supervision", "sampler") if key in index},
    )
    for part in ("unet", "conditioner"):
        check_names(getattr(pipeline, part), folder / part)
    is_flow = "FlowMatch" in type(scheduler).__name__
    build_sampler(SamplerSettings(name="flow_euler" if is_flow else "dpmpp_2m"), scheduler)
    return pipeline
