"""The embedding-conditioned latent diffusion model (E-LDM): autoencoder, conditioning, denoiser, sampling."""
