"""The settings of a pretraining run, with the origin of each default.

"DINO": the argument defaults of the published code of Caron et al. 2021 (arXiv 2104.14294), which reproduce its
vanilla ViT-S/16 run of 100 epochs. "Gen-SIS": arXiv 2412.01672 as its authors' page tells it. "ours": our choice
where nothing is published.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from histogen.config import Precision, Settings
from histogen.plain_yaml import is_number


def _rising(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] > bounds[1]:
        raise ValueError(f"{list(bounds)} falls; give the lower bound first")
    return bounds


Chance = Annotated[float, Field(ge=0.0, le=1.0)]
Share = Annotated[float, Field(gt=0.0, le=1.0)]
Length = Annotated[float, Field(ge=0.0)]
Shares = Annotated[tuple[Share, Share], AfterValidator(_rising)]
Lengths = Annotated[tuple[Length, Length], AfterValidator(_rising)]
Chances = tuple[Chance, Chance, Chance]
Normalised = tuple[tuple[Chance, Chance, Chance], tuple[Share, Share, Share]]
"""Means and standard deviations of red, green and blue in 0-1."""


class ModelSettings(Settings):
    """The backbone and the head."""

    name: str = "vit_small_patch16_224"
    """A timm model: a vision transformer, or any that pools its features (ResNet, ConvNeXt, EfficientNet …). DINO:
    ViT-S/16."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Passed to timm, for example ``patch_size``, ``embed_dim``, ``depth``, ``num_heads``."""
    drop_path: float = Field(0.1, ge=0.0, lt=1.0)
    """Stochastic depth of the student, rising linearly over depth; the teacher has none. DINO: 0.1."""
    prototypes: int = Field(65536, ge=2)
    """K, outputs of the head. DINO: 65,536."""
    head_hidden: int = Field(2048, ge=1)
    head_bottleneck: int = Field(256, ge=1)
    head_layers: int = Field(3, ge=1)
    norm_last_layer: bool = True
    """Keep the prototypes at unit length. DINO: true."""

    @field_validator("arguments")
    @classmethod
    def _numbers_are_no_texts(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        for key, value in arguments.items():
            if isinstance(value, str) and is_number(value):
                raise ValueError(f"{key} is the text '{value}'; write the number without quotes")
        return arguments


class CropSettings(Settings):
    """Which crops are taken of a tile."""

    global_px: int = Field(224, ge=8)
    """Side of the two global crops. DINO: 224."""
    global_scale: Shares = (0.4, 1.0)
    """Share of the tile's area in a global crop. DINO: (0.4, 1)."""
    local_px: int = Field(96, ge=8)
    """Side of the local crops. DINO: 96."""
    local_scale: Shares = (0.05, 0.4)
    """Share of the tile's area in a local crop. DINO: (0.05, 0.4)."""
    num_local: int = Field(8, ge=0)
    """Local crops per tile. DINO: 8."""


class ChangeSettings(Settings):
    """How a view is changed: shares of views, and jitter as in torchvision's ColorJitter. All defaults are DINO's."""

    flip: Chance = 0.5
    vertical_flip: Chance = 0.0
    quarter_turn: Chance = 0.0
    """Share of views that are also transposed; with both flips at 0.5, 0.5 gives all eight orientations evenly."""
    jitter: Chance = 0.8
    brightness: Chance = 0.4
    contrast: Chance = 0.4
    saturation: Chance = 0.2
    hue: float = Field(0.1, ge=0.0, le=0.5)
    grayscale: Chance = 0.2
    blur_sigma: Lengths = (0.1, 2.0)
    """Pixels of the view, as DINO's; scale it with the crop when crops are small."""
    stain: float = Field(0.0, ge=0.0, lt=1.0)
    """Stain jitter s: density of haematoxylin, eosin and residual times U(1 - s, 1 + s) plus U(-s, s). Not in DINO."""


class AugmentSettings(ChangeSettings):
    """How views are changed; lists are (global 1, global 2, local). All defaults are DINO's."""

    blur: Chances = (1.0, 0.1, 0.5)
    solarize: Chances = (0.0, 0.2, 0.0)
    normalise: Literal["imagenet", "tiles"] | Normalised = "imagenet"
    """Mean and standard deviation per channel: ImageNet's (DINO), measured on 1,024 of the tiles, or given."""


class LossSettings(Settings):
    """DINO's loss and its teacher."""

    student_temp: float = Field(0.1, gt=0.0)
    teacher_temp: float = Field(0.04, gt=0.0)
    teacher_temp_start: float = Field(0.04, gt=0.0)
    teacher_temp_warmup_epochs: float = Field(0.0, ge=0.0)
    """DINO: 0.04 throughout; its longer recipes go from 0.04 to 0.07 in 30 epochs."""
    centre: bool | Literal["sinkhorn"] = True
    """``sinkhorn``: prototypes of equal weight in every step, as SwAV and DINOv2, instead of DINO's moving mean. False
    leaves centring out: it collapses, for demonstrations only."""
    centre_momentum: float = Field(0.9, ge=0.0, le=1.0)
    koleo: float = Field(0.0, ge=0.0)
    """Weight of KoLeo on the student's features of each global view; 0 is none. DINOv2: 0.1."""
    uniformity: float = Field(0.0, ge=0.0)
    """Weight of Wang & Isola's uniformity of the same features; 0 is none. Pathology recipes: about 0.05."""
    teacher_momentum: float = Field(0.996, ge=0.0, le=1.0)
    """The teacher's momentum at the start; a cosine takes it to 1. DINO: 0.996 (its authors advise 0.9995 for
    batches well under 512)."""


class MaskSettings(Settings):
    """Masked patches (iBOT, arXiv 2111.07832): the student predicts the teacher's output at patches it does not see.

    The head is shared with DINO's, as iBOT's is; patches have a centre of their own. Memory grows with hidden patches
    times prototypes: iBOT takes 8,192.
    """

    weight: float = Field(0.0, ge=0.0)
    """Beside DINO's loss; 0 is none. iBOT: 1."""
    share: Chance = 0.5
    """Of the global views that are masked. iBOT: 0.5."""
    ratio: Shares = (0.1, 0.5)
    """Of the patches of a masked view that are hidden. iBOT: (0.1, 0.5)."""


class OptimSettings(Settings):
    """Length, batch and rates. All defaults are DINO's."""

    epochs: float = Field(100.0, gt=0.0)
    num_steps: int | None = Field(None, ge=1)
    """Steps in all; when given, ``epochs`` is not used."""
    batch: int = Field(512, ge=1)
    """Tiles per step, over all processes."""
    accumulate: int = Field(1, ge=1)
    """Split each process's batch into so many passes: the same step in less memory."""
    lr: float = Field(5e-4, ge=0.0)
    """Peak learning rate for a batch of 256; it is scaled by batch / 256. At 0 no weight is trained: the untrained
    network, its batch statistics gathered as in training, is what a trained one is to be compared with."""
    min_lr: float = Field(1e-6, ge=0.0)
    warmup_epochs: float = Field(10.0, ge=0.0)
    weight_decay: float = Field(0.04, ge=0.0)
    weight_decay_end: float = Field(0.4, ge=0.0)
    clip: float = Field(3.0, ge=0.0)
    """Largest norm of one tensor's gradient; 0 is no clipping."""
    freeze_last_layer_epochs: float = Field(1.0, ge=0.0)
    precision: Precision = "auto"
    """Arithmetic of the networks; auto is bfloat16 where the hardware multiplies it, else float32. DINO: float16 with
    loss scaling."""


class GenSettings(Settings):
    """Pair views: real and generative tiles of the same source (Gen-SIS)."""

    probability: Chance = 1.0
    """Share of tiles, at each step, that get their generative tile as the second source of views. Gen-SIS words it as
    always."""
    swap: Chance = 0.5
    """Share of tiles whose first global view (always blurred) is the generative one. Ours."""
    locals: Literal["split", "real", "generative"] = "split"
    """Which of the two the local views are cut from. Ours: split evenly."""
    allow_missing: bool = False
    """Train a tile without synthetic tiles on the real one alone, instead of stopping."""


class DisSettings(Settings):
    """The disentanglement loss on interpolated tiles (Gen-SIS)."""

    mode: Literal["alg1", "figure", "figure+local"] = "figure"
    """``alg1``: one student view against one target from the real tiles, as Algorithm 1. ``figure``: two student views
    against the targets from the real and from the generative tiles, as the authors' figure draws it.
    ``figure+local``: local student views too."""
    weight: float = Field(1.0, ge=0.0)
    """Beside DINO's loss. Not published; ours: 1."""
    mix_space: Literal["logits", "probs"] = "logits"
    """Gen-SIS: logits."""
    teacher_temp: float | None = Field(None, gt=0.0)
    """Its own teacher temperature; DINO's at that step when not given."""
    pairing: Literal["matching", "arbitrary"] = "matching"
    """``matching``: a tile and its partner are in one batch, so the teacher runs no extra pass; the interpolated
    stores must have been made with mutual partners. ``arbitrary``: partners are read besides."""


class CollapseSettings(Settings):
    """The watch over the run."""

    every: int = Field(20, ge=1)
    """Steps between looks; three bad looks in a row name a collapse."""
    stop: bool = False
    """Stop the run when it collapses, instead of saying so."""


class SslSettings(Settings):
    """Everything of a pretraining run but its inputs and outputs."""

    model: ModelSettings = ModelSettings()
    crops: CropSettings = CropSettings()
    augment: AugmentSettings = AugmentSettings()
    loss: LossSettings = LossSettings()
    masks: MaskSettings = MaskSettings()
    optim: OptimSettings = OptimSettings()
    gen: GenSettings = GenSettings()
    dis: DisSettings = DisSettings()
    collapse: CollapseSettings = CollapseSettings()

    @model_validator(mode="after")
    def _patch_divides_crops(self) -> SslSettings:
        given = self.model.arguments.get("patch_size", 1)
        if not isinstance(given, int) or given < 1:
            raise ValueError(f"model.arguments.patch_size cannot be {given!r}; give the side of a patch in pixels")
        patch = self.patch_px
        for name in ("global_px", "local_px"):
            value = getattr(self.crops, name)
            if value % patch and not (name == "local_px" and self.crops.num_local == 0):
                raise ValueError(
                    f"crops.{name} {value} is not a multiple of the patch of {patch} px; change one of them"
                )
        return self

    @property
    def patch_px(self) -> int:
        """Side of a patch, from the arguments or timm's name."""
        given = self.model.arguments.get("patch_size")
        digits = self.model.name.partition("patch")[2].partition("_")[0]
        return int(given or digits or 1)
