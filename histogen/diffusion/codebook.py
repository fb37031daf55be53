"""How much of its codebook a VQ autoencoder uses: a codebook of which few codes are used is a smaller one."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import VQModel
from torch import Tensor


class CodeCounter:
    """Counts how often each code stands in what ``autoencoder`` decodes, from when it is made until :meth:`close`."""

    def __init__(self, autoencoder: VQModel) -> None:
        self.counts = torch.zeros(int(autoencoder.config["num_vq_embeddings"]), dtype=torch.float64)
        self._hook = autoencoder.quantize.register_forward_hook(self._count)

    def _count(self, _module: Any, _inputs: Any, answer: Any) -> None:
        codes = answer[2][2].detach().flatten().cpu()
        self.counts += torch.bincount(codes, minlength=len(self.counts))

    def take(self) -> Tensor:
        """Return the counts float64 [K] since the last time, and begin anew."""
        taken, self.counts = self.counts, torch.zeros_like(self.counts)
        return taken

    def close(self) -> None:
        """Count no more."""
        self._hook.remove()


def codebook_figures(counts: Tensor) -> dict[str, float]:
    """Return of counts [K] by code the share of codes in use, and the perplexity.

    The perplexity is exp(entropy): how many codes, used equally often, would tell as much; between 1 and K.
    """
    share = counts.double() / counts.sum()
    return {
        "codebook_used": float((counts > 0).double().mean()),
        "codebook_perplexity": float(torch.exp(torch.special.entr(share).sum())),
    }
