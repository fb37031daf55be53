"""The view slots of a run, and which source each is cut from (real tile, or its generative tile)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from histogen.ssl.augment import Normalisation, make_views
from histogen.ssl.batches import Batch
from histogen.ssl.draws import ViewSpec
from histogen.ssl.masking import draw_masks
from histogen.ssl.settings import SslSettings
from histogen.training.transfer import on_device

REAL, GENERATIVE = 0, 1
_INTERPOLATED_SLOT, _PARTNER_SLOT, _LOCAL_SLOT = 100, 200, 1000
"""First slot numbers: views of other images than the tile's own are drawn independently."""


def view_specs(settings: SslSettings) -> tuple[list[ViewSpec], list[ViewSpec]]:
    """Return the slots of global views (two) and of local views."""
    crops, change = settings.crops, settings.augment

    def spec(kind: int, px: int, scale: tuple[float, float]) -> ViewSpec:
        return ViewSpec(px=px, scale=scale, blur=change.blur[kind], solarize=change.solarize[kind], change=change)

    global_specs = [spec(kind, crops.global_px, crops.global_scale) for kind in (0, 1)]
    return global_specs, [spec(2, crops.local_px, crops.local_scale)] * crops.num_local


@dataclass(frozen=True)
class Views:
    """Normalised float views [V, B, 3, px, px] of one batch."""

    globals: torch.Tensor
    locals: torch.Tensor | None
    generative_first: torch.Tensor | None
    """bool [B]: global view 0 is cut from the generative tile, view 1 from the real one; otherwise the reverse."""
    interpolated: torch.Tensor | None = None
    interpolated_locals: torch.Tensor | None = None
    partners: torch.Tensor | None = None
    """[1 or 2, B, …]: one global view of each partner's real (and generative) tile."""
    masks: torch.Tensor | None = None
    """bool [2, B, h, w]: patches of the global views that are hidden from the student."""


class ViewMaker:
    """Makes the views of batches on a device, as the settings say."""

    def __init__(self, settings: SslSettings, normalisation: Normalisation, device: torch.device) -> None:
        self.settings, self.normalisation, self.device = settings, normalisation, device
        self.global_specs, self.local_specs = view_specs(settings)

    def __call__(self, batch: Batch, *, seed: int) -> Views:
        """Return the views of ``batch``; ``seed`` is the step's."""
        sources = [on_device(batch.real, self.device)]
        slots_global = slots_local = None
        first: torch.Tensor | None = None
        if batch.generative is not None:
            assert batch.generative_first is not None
            sources.append(on_device(batch.generative, self.device))
            first = on_device(batch.generative_first, self.device)
            slots_global = np.where(batch.generative_first[:, None], [[GENERATIVE, REAL]], [[REAL, GENERATIVE]])
            slots_local = np.tile(self.local_sources(), (len(batch.indices), 1))
        make = self._maker(batch, seed)
        local = make(sources, self.local_specs, _LOCAL_SLOT, slots_local) if self.local_specs else None
        views = Views(make(sources, self.global_specs, 0, slots_global), local, first, masks=self._masks(batch, seed))
        return views if batch.interpolated is None else self._with_interpolated(views, batch, seed)

    def _masks(self, batch: Batch, seed: int) -> torch.Tensor | None:
        masks, grid = self.settings.masks, self.settings.crops.global_px // self.settings.patch_px
        if masks.weight == 0:
            return None
        drawn = draw_masks(
            len(self.global_specs), grid, share=masks.share, ratio=masks.ratio, seed=seed, positions=batch.positions
        )
        return on_device(drawn, self.device)

    def local_sources(self) -> np.ndarray:
        """Return which source each local slot is cut from."""
        number = len(self.local_specs)
        share = {"real": number, "generative": 0, "split": (number + 1) // 2}[self.settings.gen.locals]
        return np.where(np.arange(number) < share, REAL, GENERATIVE)

    def _with_interpolated(self, views: Views, batch: Batch, seed: int) -> Views:
        assert batch.interpolated is not None
        make, dis = self._maker(batch, seed), self.settings.dis
        pixels = [on_device(batch.interpolated, self.device)]
        specs = self.global_specs[:1] if dis.mode == "alg1" else self.global_specs
        local = None
        if dis.mode == "figure+local" and self.local_specs:
            local = make(pixels, self.local_specs, _LOCAL_SLOT + _INTERPOLATED_SLOT, None)
        partners = None
        if batch.partner_real is not None:
            theirs = [batch.partner_real] + ([] if batch.partner_generative is None else [batch.partner_generative])
            parts = [
                make([on_device(p, self.device)], self.global_specs[:1], _PARTNER_SLOT + number, None)
                for number, p in enumerate(theirs)
            ]
            partners = torch.cat(parts)
        interpolated = make(pixels, specs, _INTERPOLATED_SLOT, None)
        return replace(views, interpolated=interpolated, interpolated_locals=local, partners=partners)

    def _maker(self, batch: Batch, seed: int):  # type: ignore[no-untyped-def]
        def make(
            sources: list[torch.Tensor], specs: list[ViewSpec], first_slot: int, slots: np.ndarray | None
        ) -> torch.Tensor:
            return make_views(
                sources, specs, self.normalisation, seed=seed, positions=batch.positions,
                source_of_slot=slots, first_slot=first_slot,
            )  # fmt: skip

        return make
