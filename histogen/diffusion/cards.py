"""Model cards: the README beside exported weights, with the YAML header that model hubs read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from histogen.config import Settings

HEADER = {"library_name": "diffusers", "tags": ["histopathology", "histogen", "Gen-SIS"]}


def autoencoder_card(name: str, model: Settings, scores: Mapping[str, Any], supervision: str) -> str:
    """Return the card of an autoencoder."""
    return _card(
        f"Autoencoder {name}",
        "A diffusers autoencoder trained by histogen on unlabelled tiles, for the latents of an E-LDM.",
        {"supervision": supervision, "held-out reconstruction": dict(scores), "shape": model.model_dump(mode="json")},
    )


def eldm_card(name: str, facts: Mapping[str, Any]) -> str:
    """Return the card of an E-LDM pipeline."""
    return _card(
        f"E-LDM {name}",
        "A latent diffusion model conditioned on the embedding of a frozen self-supervised encoder, trained by "
        "histogen. `DiffusionPipeline.from_pretrained(FOLDER, trust_remote_code=True)(embeddings, seeds)` gives tiles "
        "uint8 [B, H, W, 3] of embeddings float32 [B, D] and of a seed for each. The code it trusts lies here: "
        "`eldm_pipeline.py` and `conditioner/eldm_conditioner.py`; every other part is a stock diffusers class. "
        "histogen itself never runs them. The method follows Gen-SIS "
        "(arXiv 2412.01672); sizes and schedules are our reconstruction.",
        facts,
    )


def _card(title: str, about: str, facts: Mapping[str, Any]) -> str:
    header = yaml.safe_dump(HEADER, sort_keys=False).strip()
    body = yaml.safe_dump(dict(facts), sort_keys=False, allow_unicode=True).strip()
    return f"---\n{header}\n---\n\n# {title}\n\n{about}\n\n```yaml\n{body}\n```\n"
