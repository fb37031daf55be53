"""What the tests of pretraining share."""

from __future__ import annotations

from histogen.ssl.settings import CropSettings, ModelSettings, SslSettings

TINY = SslSettings(
    model=ModelSettings(
        name="vit_tiny_patch16_224",
        arguments={"patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2},
        prototypes=32, head_hidden=32, head_bottleneck=16,
    ),
    crops=CropSettings(global_px=32, local_px=16, num_local=2),
)  # fmt: skip
