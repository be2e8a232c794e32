"""The base config: every option of the project is a field here, with its default, its unit and its source.

Defaults are the paper's recipe (Cola DLM, Tables 8 and 9) unless the comment says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass

from cola_jax.config.sampling import LLaDASamplingConfig as LLaDASamplingConfig
from cola_jax.config.sampling import PlaidSamplingConfig as PlaidSamplingConfig
from cola_jax.config.sampling import SamplingConfig as SamplingConfig


@dataclass(frozen=True)
class SourceConfig:
    """One corpus of a mixture."""

    kind: str = "tinyworld"  # tinyworld | pydocs | text | jsonl | parquet | arrow | array_record | tfds | prepared
    path: tuple[str, ...] = ()  # files, folders or globs; for tfds "name[:version]" and optionally its data_dir
    field: str = "text"  # the text field of jsonl, parquet, arrow, array_record (JSON records) and tfds
    split: str = "train"  # the split of a tfds dataset, or of an arrow folder that holds several
    weight: float = 1.0  # relative share of the rows of a batch


@dataclass(frozen=True)
class DataConfig:
    """Where text comes from and how it becomes rows of tokens."""

    sources: tuple[SourceConfig, ...] = (SourceConfig(),)
    packing: str = "concat"  # concat: documents with separators, cut (the paper's) | best_fit: whole ones, segment ids
    seed: int = 6198
    shuffle: bool = True
    generated_documents: int = 20_000  # how many training documents a generator (tinyworld) is asked for
    heldout_documents: int = 500  # held-out documents of a generator
    heldout_fraction: float = 0.02  # share of the documents of a finite corpus that is held out
    on_bad_record: str = "refuse"  # refuse: name the file and line | skip: leave the record out and count it
    on_changed_corpus: str = "refuse"  # where the corpus is not that of the run's first start: refuse | warn
    threads: int = 2  # Grain read threads
    prefetch: int = 4  # batches read ahead


@dataclass(frozen=True)
class TokenizerConfig:
    """SentencePiece trained on the corpus, bytes, or an existing file."""

    kind: str = "sentencepiece"  # sentencepiece | bytes | file
    path: str = ""  # kind=file: a SentencePiece .model or a Hugging Face tokenizer.json
    vocab_size: int = 8192  # kind=sentencepiece: pieces to train, special tokens included
    training_documents: int = 20_000  # documents that SentencePiece is trained on
    pad_token: str = "<pad>"  # kind=file: names of the special tokens in a tokenizer.json
    eos_token: str = "</s>"


@dataclass(frozen=True)
class VAEBlockConfig:
    """What a transformer block of the Text VAE is made of (SPEC 1.1)."""

    activation: str = "swiglu"  # swiglu | silu | gelu
    post_norm: bool = True  # the released form x = LN(x) + Attn(x); False: pre-norm
    norm_affine: bool = True  # gain and bias of the attention norm; the other norms have theirs always
    norm_eps: float = 1e-6
    qk_norm: bool = True  # layer norm of q and k over the full width, before the split into heads
    qk_norm_affine: bool = True
    qk_bias: bool = False  # bias of the qkv projection
    bias: bool = True  # bias of the other dense layers, of all but patching and its inverse
    clip_qkv: float = 0.0  # clip q, k, v to +-this before their norm; 0: no clip
    shared_heads_kv: int = 1  # query heads that share one key/value head
    rope_theta: float = 500_000.0
    init_std: float = 0.02  # normal, truncated at 3 standard deviations


@dataclass(frozen=True)
class TextVAEConfig:
    """Text VAE: encoder q_phi and decoder p_theta (SPEC 1.1). Defaults are the released sizes."""

    vocab_size: int = 100_278  # V; the embedding has one more row, the mask token
    dim: int = 1536
    ffn_dim: int = 6144
    num_heads: int = 12
    encoder_blocks: int = 4
    decoder_blocks: int = 4
    latent_dim: int = 16  # C
    patch_size: int = 1  # P, tokens a latent
    block_size: int = 1  # latents a block of the VAE's own block-causal mask; 1 is strictly causal
    use_variation: bool = True  # False: an autoencoder without a posterior
    encoder_last_ln: bool = True  # layer norm of the mean over C, no gain or bias; a plain autoencoder always has it
    fixed_logsnr: float | None = None  # sigma^2 = mean(mu^2) exp(-fixed_logsnr) instead of a learnt variance
    latent_shift: float = 0.0  # latents cross to the DiT as (z - latent_shift) * latent_scale
    latent_scale: float = 1.0
    block: VAEBlockConfig = VAEBlockConfig()


@dataclass(frozen=True)
class DiTConfig:
    """Block-causal diffusion transformer v_psi (SPEC 1.2). Defaults are the released sizes."""

    dim: int = 2048
    num_layers: int = 24
    num_heads: int = 16
    head_dim: int = 128
    expand_ratio: int = 4  # MLP width / dim
    block_size: int = 16  # S, latents a block
    rope_dim: int = 96  # channels of a head that are rotated
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-5
    qk_bias: bool = False  # bias of the qkv and attention output projections
    time_frequencies: int = 128
    zero_init: bool = True  # AdaLN and the output layer start at zero


@dataclass(frozen=True)
class BackboneConfig:
    """The LLaMA-form stack of the baselines (SPEC 5, BASELINES 1). Defaults are the matched sizes.

    Not published, and chosen here as LLaMA has them: rope_theta, norm_eps, init_std.
    """

    vocab_size: int = 100_278  # V
    dim: int = 2048
    ffn_dim: int = 8192  # of the SwiGLU, three matrices of dim x ffn_dim
    num_layers: int = 27
    num_heads: int = 16
    kv_heads: int = 16  # key/value heads; each serves num_heads / kv_heads neighbouring query heads
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-5
    tie_embeddings: bool = False  # the read-out is the embedding's transpose
    init_std: float = 0.02  # normal, truncated at 3 standard deviations


@dataclass(frozen=True)
class LLaDAConfig:
    """Masked diffusion over the backbone without its causal mask (BASELINES 2)."""

    mask_id: int = -1  # the id of a masked token, which no text may hold; -1: the last of the vocabulary
    random_length_probability: float = 0.01  # share of the batches that are cut to a length ~ U{1..L}


@dataclass(frozen=True)
class PlaidConfig:
    """Diffusion of learnt token embeddings over the backbone's blocks (BASELINES 3)."""

    embedding_dim: int = 16  # E; rows of the table have unit length wherever they are used
    gamma_0: float = -3.0  # -log SNR at t = 0 to begin with; learnt
    gamma_1: float = 6.0  # the same at t = 1
    schedule_width: int = 1024  # of the monotone network between them
    reconstruction_share: float = 0.125  # of the rows, which train the read-out at t = 0; the others the diffusion
    self_condition_probability: float = 0.25  # share of the rows that see the network's own first estimate
    bias_warmup_steps: int = (
        5000  # until the logits have all of the noised embedding's own evidence; writing always has
    )
    schedule_lr_ratio: float = (
        1.0  # learning rate of embeddings and schedule over that of the network; Plaid's own is 7
    )


@dataclass(frozen=True)
class FlowConfig:
    """Flow matching: the law of t and what of a block is known (SPEC 2)."""

    timestep_law: str = "logit_normal"  # t ~ sigmoid(N(loc, scale^2)) | uniform
    timestep_loc: float = 1.0
    timestep_scale: float = 1.0
    time_per: str = "sample"  # one t a sample | a block
    known_prefix_probability: float = 0.05  # share of the blocks that keep their first k in [1, S-1] latents clean
    encoder_gradient: str = (
        "input_and_target"  # none | input | input_and_target: how the current block's z0 reaches the encoder
    )


@dataclass(frozen=True)
class ObjectiveConfig:
    """Weights of the loss terms and the latent policy (SPEC 2). The paper does not publish the weights: these are ours.

    Every ELBO term is in nats a token, so that kl_weight = 1 is the bound itself.
    """

    kl_weight: float = 1e-3  # beta
    mask_weight: float = 0.1  # lambda_mask
    mask_rate: float = 0.15  # share of the tokens replaced by the mask token
    vae_weight: float = 1.0  # lambda_VAE, stage 2
    flow_weight: float = 1.0  # lambda_fm, stage 2
    reference_weight: float = 0.0  # lambda_ref: KL to the frozen stage 1 encoder; needs a stage 1 VAE
    latent_policy: str = "joint"  # fixed | joint | scratch | interval
    vae_lr_ratio: float = 1.0  # learning rate of the VAE over that of the DiT, stage 2
    interval_period: int = 5000  # latent_policy=interval: steps of a period ...
    interval_joint: int = 2000  # ... and how many of them, at its start, train the VAE too
    vae_from: str = ""  # stage 2: a stage 1 workdir to start from; empty: from scratch


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW and its schedule (Table 8). Weight decay applies to every parameter, the default of torch.optim.AdamW.

    muon: the momentum of a layer's matrices is orthogonalised by Newton-Schulz steps (Jordan et al. 2024) and scaled so that
    its root mean square is that of an AdamW update, 0.2 (Liu et al. 2025, arXiv 2502.16982): rates and decay carry over.
    Everything else (embeddings, read-outs, norms, biases) stays with AdamW.
    """

    name: str = "adamw"  # adamw | muon
    learning_rate: float = 1.5e-4
    initial_learning_rate: float = 1e-6
    final_learning_rate: float = 1e-5
    warmup_steps: int = 5000
    decay_steps: int = 1_000_000  # the step at which the cosine reaches final_learning_rate
    schedule: str = "cosine"  # cosine | constant (after the warm-up)
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.01
    clip_norm: float = 1.0  # global gradient norm; 0: no clip
    muon_momentum: float = 0.95
    muon_steps: int = 5  # Newton-Schulz iterations
    moment_dtype: str = (
        "float32"  # of all moments between steps: float32 | bfloat16 (half the memory; rounded each step)
    )


@dataclass(frozen=True)
class TrainConfig:
    """How long and how large."""

    steps: int = 1_000_000
    batch_size: int = 1408  # rows of a global batch
    sequence_length: int = 512  # L, tokens a row
    accumulate: int = 1  # microbatches a step; the gradient equals that of the whole batch
    log_every: int = 50
    eval_every: int = 5000  # 0: no held-out evaluation
    eval_batches: int = 8
    plot_every: int = 5000  # 0: plots at the end only


@dataclass(frozen=True)
class CheckpointConfig:
    """Which checkpoints are written and kept."""

    every: int = 5000
    keep_last: int = 3
    keep_every: int = 0  # keep every checkpoint whose step is a multiple; 0: none
    best_metric: str = ""  # a held-out metric, e.g. "loss", whose lowest keep_best checkpoints stay; empty: none
    keep_best: int = 1
    asynchronous: bool = True


@dataclass(frozen=True)
class DCNConfig:
    """How much of each mesh axis lies across slices, over the data-centre network; the rest lies within one.

    A slice is what fast links join: a TPU slice, or a node of GPUs. The five multiply to the number of slices, 1 where there is
    one; each divides its mesh axis; -1 takes the slices that are left.
    """

    replica: int = -1
    data: int = 1
    fsdp: int = 1
    sequence: int = 1
    tensor: int = 1


@dataclass(frozen=True)
class MeshConfig:
    """Devices as a mesh of named axes, slowest links first; -1 takes what is left."""

    replica: int = (
        1  # batch split, parameters replicated; the axis that runs across slices unless mesh.dcn says otherwise
    )
    data: int = -1  # batch split, parameters replicated, within a slice
    fsdp: int = 1  # batch split, parameters split too
    sequence: int = 1  # positions of a row split: keys travel, queries and blocks stay
    tensor: int = 1  # heads, feed-forward and vocabulary split
    dcn: DCNConfig = DCNConfig()  # of each of these, the part that lies across slices


@dataclass(frozen=True)
class ComputeConfig:
    """What runs where and in which precision; none of it changes the mathematics."""

    dtype: str = "auto"  # matmul dtype: float32 | bfloat16 | auto (bfloat16 on GPU and TPU, float32 on CPU)
    scan_layers: bool = True  # one compiled layer in a loop, or all layers unrolled
    remat: str = (
        "none"  # none | minimal (keep matmul outputs) | full (layer inputs only) | offload (matmul outputs on the host)
    )
    attention: str = "auto"  # kernel of training: xla | splash (TPU) | cudnn (GPU) | auto (splash or else xla)
    attention_chunks: int = 8  # query chunks of attention by xla and cudnn; keys that none of one sees are skipped
    cross_entropy_chunk: int = 512  # positions of a row whose logits exist at once


@dataclass(frozen=True)
class RunConfig:
    """Everything one run is made of."""

    family: str = "cola"  # a key of families.FAMILIES
    seed: int = 66
    data: DataConfig = DataConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()
    vae: TextVAEConfig = TextVAEConfig()
    dit: DiTConfig = DiTConfig()
    backbone: BackboneConfig = BackboneConfig()
    llada: LLaDAConfig = LLaDAConfig()
    plaid: PlaidConfig = PlaidConfig()
    flow: FlowConfig = FlowConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    train: TrainConfig = TrainConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    mesh: MeshConfig = MeshConfig()
    compute: ComputeConfig = ComputeConfig()
    sampling: SamplingConfig = SamplingConfig()


CHOICES = {
    "family": ("text_vae", "cola", "ar", "llada", "plaid"),
    "data.packing": ("concat", "best_fit"),
    "data.on_bad_record": ("refuse", "skip"),
    "data.on_changed_corpus": ("refuse", "warn"),
    "data.sources.kind": (
        "tinyworld",
        "pydocs",
        "text",
        "jsonl",
        "parquet",
        "arrow",
        "array_record",
        "tfds",
        "prepared",
    ),
    "tokenizer.kind": ("sentencepiece", "bytes", "file"),
    "vae.block.activation": ("swiglu", "silu", "gelu"),
    "flow.timestep_law": ("logit_normal", "uniform"),
    "flow.time_per": ("sample", "block"),
    "flow.encoder_gradient": ("none", "input", "input_and_target"),
    "objective.latent_policy": ("fixed", "joint", "scratch", "interval"),
    "optimizer.name": ("adamw", "muon"),
    "optimizer.schedule": ("cosine", "constant"),
    "optimizer.moment_dtype": ("float32", "bfloat16"),
    "compute.dtype": ("auto", "float32", "bfloat16"),
    "compute.attention": ("auto", "xla", "splash", "cudnn"),
    "compute.remat": ("none", "minimal", "full", "offload"),
    "sampling.solver": ("euler", "midpoint", "heun"),
    "sampling.llada.remasking": ("low_confidence", "random"),
    "sampling.first_block": ("clean", "repaint", "left_pad", "right_pad"),
}
