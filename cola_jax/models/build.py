"""The networks of a config, and the part of a config that determines each: the static arguments of compiled programs."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from cola_jax.config import BackboneConfig, ComputeConfig, DiTConfig, PlaidConfig, RunConfig, TextVAEConfig
from cola_jax.config.kernels import matmul_dtype
from cola_jax.models.backbone import Backbone
from cola_jax.models.denoiser import Denoiser
from cola_jax.models.dit import DiT
from cola_jax.models.text_vae import Decoder, Encoder


def compute_dtype(compute: ComputeConfig) -> jnp.dtype:
    """The matmul dtype of a config, on the default backend if it is "auto"."""
    return jnp.dtype(compute.dtype if compute.dtype != "auto" else matmul_dtype("auto", jax.default_backend()))


@dataclass(frozen=True)
class ColaNetworks:
    """The config of encoder, decoder and DiT."""

    vae: TextVAEConfig
    dit: DiTConfig
    compute: ComputeConfig


@dataclass(frozen=True)
class BackboneNetworks:
    """The config of the backbone."""

    backbone: BackboneConfig
    compute: ComputeConfig


@dataclass(frozen=True)
class PlaidNetworks:
    """The config of the denoiser."""

    backbone: BackboneConfig
    plaid: PlaidConfig
    compute: ComputeConfig


def of_cola(cfg: RunConfig) -> ColaNetworks:
    return ColaNetworks(cfg.vae, cfg.dit, cfg.compute)


def of_backbone(cfg: RunConfig) -> BackboneNetworks:
    return BackboneNetworks(cfg.backbone, cfg.compute)


def of_plaid(cfg: RunConfig) -> PlaidNetworks:
    return PlaidNetworks(cfg.backbone, cfg.plaid, cfg.compute)


def encoder(cfg: ColaNetworks | RunConfig) -> Encoder:
    return Encoder(cfg.vae, cfg.compute, compute_dtype(cfg.compute))


def decoder(cfg: ColaNetworks | RunConfig) -> Decoder:
    return Decoder(cfg.vae, cfg.compute, compute_dtype(cfg.compute))


def dit(cfg: ColaNetworks | RunConfig) -> DiT:
    return DiT(cfg.dit, cfg.vae.latent_dim, cfg.compute, compute_dtype(cfg.compute))


def denoiser(cfg: PlaidNetworks | RunConfig) -> Denoiser:
    return Denoiser(cfg.backbone, cfg.plaid, cfg.compute, compute_dtype(cfg.compute))


def backbone(cfg: BackboneNetworks | RunConfig) -> Backbone:
    return Backbone(cfg.backbone, cfg.compute, compute_dtype(cfg.compute))
