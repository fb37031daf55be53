"""``histogen train-autoencoder``: the autoencoder of the latent diffusion model."""
