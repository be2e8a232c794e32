"""Pretraining continuous latent diffusion language models in JAX."""
