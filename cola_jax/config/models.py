"""The sizes of the models: groups of the base config in `fields`, with their defaults and sources."""

from __future__ import annotations

from dataclasses import dataclass

from cola_jax.config.change import identity


@dataclass(frozen=True)
class VAEBlockConfig:
    """A transformer block of the Text VAE (SPEC 1.1)."""

    activation: str = identity("swiglu")  # of the feed-forward: swiglu (gated) | silu | gelu (exact, by erf)
    post_norm: bool = identity(True)  # the released form x = LN(x) + Attn(x); False: pre-norm
    norm_affine: bool = identity(True)  # gain and bias of the attention norm; the other norms have theirs always
    norm_eps: float = identity(1e-6, above=0.0, below=1.0)  # added to the variance under a norm's root
    qk_norm: bool = identity(True)  # layer norm of q and k over the full width, before the split into heads
    qk_norm_affine: bool = identity(True)  # gain and bias of the norms of q and k
    qk_bias: bool = identity(False)  # bias of the qkv projection
    bias: bool = identity(True)  # bias of the other dense layers, of all but patching and its inverse
    clip_qkv: float = identity(0.0, least=0.0)  # clip q, k, v to +-this before their norm; 0: no clip
    shared_heads_kv: int = identity(1, least=1)  # query heads that share one key/value head
    rope_theta: float = identity(500_000.0, above=0.0)  # base of the rotary frequencies
    init_std: float = identity(0.02, above=0.0)  # normal, truncated at 3 standard deviations


@dataclass(frozen=True)
class TextVAEConfig:
    """Text VAE: encoder q_phi and decoder p_theta (SPEC 1.1). Defaults are the released sizes."""

    vocab_size: int = identity(100_278, least=1)  # V; the embedding has one more row, the mask token
    dim: int = identity(1536, least=1)  # D, width
    ffn_dim: int = identity(6144, least=1)  # hidden width of a feed-forward
    num_heads: int = identity(12, least=1)  # attention heads
    encoder_blocks: int = identity(4, least=1)  # transformer blocks of the encoder
    decoder_blocks: int = identity(4, least=1)  # transformer blocks of the decoder
    latent_dim: int = identity(16, least=1)  # C
    patch_size: int = identity(1, least=1)  # P, tokens per latent
    block_size: int = identity(1, least=1)  # latents per block of the VAE's own block-causal mask; 1 is strictly causal
    use_variation: bool = identity(True)  # False: an autoencoder without a posterior
    # layer norm of the mean over C, no gain or bias; a plain autoencoder always has it
    encoder_last_ln: bool = identity(True)
    # sigma^2 = mean(mu^2) exp(-fixed_logsnr) instead of a learnt variance
    fixed_logsnr: float | None = identity(None, least=-20.0, most=20.0)
    # latents cross to the DiT as (z - latent_shift) * latent_scale
    latent_shift: float = identity(0.0, least=-1e6, most=1e6)
    latent_scale: float = identity(1.0, above=0.0, most=1e6)  # factor; its inverse is applied before the decoder
    block: VAEBlockConfig = VAEBlockConfig()


@dataclass(frozen=True)
class DiTConfig:
    """Block-causal diffusion transformer v_psi (SPEC 1.2). Defaults are the released sizes."""

    dim: int = identity(2048, least=1)  # D, width
    num_layers: int = identity(24, least=1)  # transformer blocks
    num_heads: int = identity(16, least=1)  # attention heads
    head_dim: int = identity(128, least=1)  # channels of a head
    expand_ratio: int = identity(4, least=1)  # MLP width / dim
    block_size: int = identity(16, least=1)  # S, latents per block
    rope_dim: int = identity(96, least=2)  # channels of a head that are rotated
    rope_theta: float = identity(10_000.0, above=0.0)  # base of the rotary frequencies
    norm_eps: float = identity(1e-5, above=0.0, below=1.0)  # added to the variance under a norm's root
    qk_bias: bool = identity(False)  # bias of the qkv and attention output projections
    time_frequencies: int = identity(128, least=1)  # sinusoids that embed t
    zero_init: bool = identity(True)  # AdaLN and the output layer start at zero


@dataclass(frozen=True)
class BackboneConfig:
    """The LLaMA-form stack of the baselines (SPEC 5, BASELINES 1). Defaults are the matched sizes.

    Not published, and chosen here as LLaMA has them: rope_theta, norm_eps, init_std.
    """

    vocab_size: int = identity(100_278, least=1)  # V
    dim: int = identity(2048, least=1)  # D, width
    ffn_dim: int = identity(8192, least=1)  # of the SwiGLU, three matrices of dim x ffn_dim
    num_layers: int = identity(27, least=1)  # transformer blocks
    num_heads: int = identity(16, least=1)  # attention heads
    kv_heads: int = identity(16, least=1)  # key/value heads; each serves num_heads / kv_heads neighbouring query heads
    rope_theta: float = identity(10_000.0, above=0.0)  # base of the rotary frequencies
    norm_eps: float = identity(1e-5, above=0.0, below=1.0)  # added to the variance under a norm's root
    tie_embeddings: bool = identity(False)  # the read-out is the embedding's transpose
    init_std: float = identity(0.02, above=0.0)  # normal, truncated at 3 standard deviations


@dataclass(frozen=True)
class LLaDAConfig:
    """Masked diffusion over the backbone without its causal mask (BASELINES 2)."""

    # the id of a masked token, which no text may contain; -1: the last of the vocabulary
    mask_id: int = identity(-1, least=-1)
    # share of the batches that are truncated to a length ~ U{1..L}
    random_length_probability: float = identity(0.01, least=0.0, most=1.0)


@dataclass(frozen=True)
class PlaidConfig:
    """Diffusion of learnt token embeddings over the backbone's blocks (BASELINES 3)."""

    embedding_dim: int = identity(16, least=1)  # E; rows of the table have unit length in every use
    gamma_0: float = identity(-3.0, least=-40.0, most=40.0)  # initial -log SNR at t = 0; learnt
    gamma_1: float = identity(6.0, least=-40.0, most=40.0)  # the same at t = 1
    schedule_width: int = identity(1024, least=1)  # hidden width of the monotone network between them
    # share of the rows that train the read-out at t = 0; the others train the diffusion
    reconstruction_share: float = identity(0.125, above=0.0, below=1.0)
    # share of the rows that see the network's own first estimate
    self_condition_probability: float = identity(0.25, least=0.0, most=1.0)
    # steps until the noised embedding's own evidence counts fully in the logits; generation always uses it fully
    bias_warmup_steps: int = identity(5000, least=0)
    # learning rate of embeddings and schedule over that of the network; Plaid's published value is 7
    schedule_lr_ratio: float = identity(1.0, least=0.0)
