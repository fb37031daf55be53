"""The model card of a pretraining run, for people and for model hubs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from histogen.config import StageConfig, dump_config
from histogen.encoders.base import EncoderCard
from histogen.files import write_atomic
from histogen.store.tile_set import TileSet


def write_card(
    run_dir: Path,
    config: StageConfig,
    card: EncoderCard,
    *,
    method: str,
    tiles: TileSet,
    num_steps: int,
    results: Mapping[str, Any],
) -> None:
    """Write ``README.md`` into the run: what the encoder is, how to load it, what it saw, every setting."""
    header = {"library_name": "timm", "tags": ["histogen", "self-supervised", "feature-extraction"]}
    measured = "\n".join(f"- {key}: {value:.5g}" for key, value in results.items() if isinstance(value, float))
    stores = ", ".join(store.store_id for store in tiles.stores[:8])
    number = f"{len(tiles.stores):,} store{'' if len(tiles.stores) == 1 else 's'}"
    asked = config.model_copy(
        update={"resume": False, "overwrite": False}
    )  # the same card however often it was stopped
    more = f" and {len(tiles.stores) - 8} more" if len(tiles.stores) > 8 else ""
    text = f"""---
{yaml.safe_dump(header, sort_keys=False).strip()}
---
# {card.name}

{method}, {num_steps:,} steps on {len(tiles):,} unlabelled tiles of {tiles.tile_px} px from {number}
({stores}{more}). Embeddings have {card.dim} numbers. Labels seen: {card.supervision}.

```python
import timm
encoder = timm.create_model("local-dir:encoder", pretrained=True)  # pixels: (x / 255 - mean) / std
```

or, with the resizing and normalisation done, `histogen.load_encoder("{run_dir.name}")(uint8_images)`.

Input: {card.image_px} px, mean {list(card.mean)}, std {list(card.std)}.
Weights: SHA-256 {card.weights_sha256}.

## Means over the last logged steps

{measured}

## Settings

```yaml
{dump_config(asked).strip()}
```
"""
    write_atomic(run_dir / "README.md", text)
