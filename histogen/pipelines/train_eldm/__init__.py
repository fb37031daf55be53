"""``histogen train-eldm``: the embedding-conditioned latent diffusion model."""
