"""The networks of a config."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from cola_jax.config import ComputeConfig, RunConfig
from cola_jax.models.backbone import Backbone
from cola_jax.models.denoiser import Denoiser
from cola_jax.models.dit import DiT
from cola_jax.models.text_vae import Decoder, Encoder


def compute_dtype(compute: ComputeConfig) -> jnp.dtype:
    """The matmul dtype: fp32 on CPU and bfloat16 elsewhere unless the config names one."""
    if compute.dtype == "auto":
        return jnp.dtype(jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16)
    return jnp.dtype(compute.dtype)


def encoder(cfg: RunConfig) -> Encoder:
    return Encoder(cfg.vae, cfg.compute, compute_dtype(cfg.compute))


def decoder(cfg: RunConfig) -> Decoder:
    return Decoder(cfg.vae, cfg.compute, compute_dtype(cfg.compute))


def dit(cfg: RunConfig) -> DiT:
    return DiT(cfg.dit, cfg.vae.latent_dim, cfg.compute, compute_dtype(cfg.compute))


def denoiser(cfg: RunConfig) -> Denoiser:
    return Denoiser(cfg.backbone, cfg.plaid, cfg.compute, compute_dtype(cfg.compute))


def backbone(cfg: RunConfig) -> Backbone:
    return Backbone(cfg.backbone, cfg.compute, compute_dtype(cfg.compute))
