"""The base config: every option of the project is a field here, with its default, its unit and its source.

Defaults are the paper's recipe (Cola DLM, Tables 8 and 9) unless the comment says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass

from cola_jax.config.change import identity, length, placement, reporting
from cola_jax.config.families import FACTS
from cola_jax.config.models import BackboneConfig as BackboneConfig
from cola_jax.config.models import DiTConfig as DiTConfig
from cola_jax.config.models import LLaDAConfig as LLaDAConfig
from cola_jax.config.models import PlaidConfig as PlaidConfig
from cola_jax.config.models import TextVAEConfig as TextVAEConfig
from cola_jax.config.models import VAEBlockConfig as VAEBlockConfig
from cola_jax.config.sampling import LLaDASamplingConfig as LLaDASamplingConfig
from cola_jax.config.sampling import PlaidSamplingConfig as PlaidSamplingConfig
from cola_jax.config.sampling import SamplingConfig as SamplingConfig


@dataclass(frozen=True)
class SourceConfig:
    """One corpus of a mixture."""

    # tinyworld (generated stories) | pydocs (documentation of the running Python) | text (plain text files) | jsonl, parquet,
    # arrow, array_record (one field of each record) | tfds (a TFDS dataset on disk) | prepared (output of cola-jax prepare)
    kind: str = identity("tinyworld", traced=False)
    # files, folders or globs; for tfds "name[:version]" and optionally its data_dir
    path: tuple[str, ...] = placement((), traced=False)
    # the text field of jsonl, parquet, arrow, array_record (JSON records) and tfds
    field: str = identity("text", traced=False)
    split: str = identity("train", traced=False)  # the split of a tfds dataset, or of an arrow folder with several
    weight: float = identity(1.0, traced=False, above=0.0, most=1e9)  # relative share of the rows of a batch


@dataclass(frozen=True)
class DataConfig:
    """Text sources, and their conversion to rows of tokens."""

    sources: tuple[SourceConfig, ...] = (SourceConfig(),)
    # concat: documents joined with separators and split into rows (the paper's) | best_fit: whole documents, with segment ids
    packing: str = identity("concat")
    # seed of the order of rows and of generated documents
    seed: int = identity(6198, traced=False, least=0, most=2**32 - 1)
    shuffle: bool = identity(True, traced=False)  # shuffle rows, anew in each epoch
    # number of training documents that a generator (tinyworld) makes
    generated_documents: int = identity(20_000, traced=False, least=1)
    heldout_documents: int = identity(500, traced=False, least=0)  # held-out documents of a generator
    # share of the documents of a finite corpus that is held out
    heldout_fraction: float = identity(0.02, traced=False, least=0.0, below=1.0)
    # refuse: name the file and line | skip: leave the record out and count it
    on_bad_record: str = identity("refuse", traced=False)
    # if the corpus differs from that of the run's first start: refuse | warn
    on_changed_corpus: str = reporting("refuse")
    # rows of a prepared corpus that cannot be read: refuse: stop | skip: name the shard, count them, give them weight 0
    on_damaged_shard: str = reporting("refuse")
    threads: int = placement(2, traced=False, least=0, most=1024)  # Grain read threads
    prefetch: int = placement(4, traced=False, least=1, most=1_000_000)  # batches read ahead
    # local folder for files of gs:// and s3://; ~/.cache/cola_jax/objects if empty
    cache_dir: str = placement("", traced=False)
    # GiB of files in cache_dir; a prepared corpus that is larger is read by ranges of bytes, row by row
    cache_gib: float = placement(100.0, traced=False, above=0.0, most=1e6)


@dataclass(frozen=True)
class TokenizerConfig:
    """SentencePiece trained on the corpus, bytes, or an existing file."""

    # sentencepiece (trained on the corpus) | bytes (256 values, pad and end of document) | file (the one at path)
    kind: str = identity("sentencepiece", traced=False)
    path: str = placement("", traced=False)  # kind=file: a SentencePiece .model or a Hugging Face tokenizer.json
    # kind=sentencepiece: pieces to train, special tokens included
    vocab_size: int = identity(8192, traced=False, least=3)
    training_documents: int = identity(20_000, traced=False, least=1)  # documents that SentencePiece is trained on
    pad_token: str = identity("<pad>", traced=False)  # kind=file: name of the padding token in the tokenizer file
    # kind=file: name of the end-of-document token in the tokenizer file
    eos_token: str = identity("</s>", traced=False)


@dataclass(frozen=True)
class FlowConfig:
    """Flow matching: the distribution of t and the known prefix of blocks (SPEC 2)."""

    timestep_law: str = identity("logit_normal")  # t ~ sigmoid(N(loc, scale^2)) | uniform
    timestep_loc: float = identity(1.0, least=-20.0, most=20.0)  # mean of the normal distribution before the sigmoid
    timestep_scale: float = identity(1.0, above=0.0, most=20.0)  # its standard deviation
    time_per: str = identity("sample")  # one t per sample | per block
    # share of the blocks that keep their first k in [1, S-1] latents clean
    known_prefix_probability: float = identity(0.05, least=0.0, most=1.0)
    # none | input | input_and_target: how the current block's z0 reaches the encoder
    encoder_gradient: str = identity("input_and_target")


@dataclass(frozen=True)
class ObjectiveConfig:
    """Weights of the loss terms and the latent policy (SPEC 2). The paper does not publish the weights: these are ours.

    Every ELBO term is in nats per token, so that kl_weight = 1 is the bound itself.
    """

    kl_weight: float = identity(1e-3, least=0.0)  # beta
    mask_weight: float = identity(0.1, least=0.0)  # lambda_mask
    mask_rate: float = identity(0.15, least=0.0, most=1.0)  # share of the tokens replaced by the mask token
    vae_weight: float = identity(1.0, least=0.0)  # lambda_VAE, stage 2
    flow_weight: float = identity(1.0, least=0.0)  # lambda_fm, stage 2
    # lambda_ref: KL to the frozen stage 1 encoder; needs a stage 1 VAE
    reference_weight: float = identity(0.0, least=0.0)
    # fixed (VAE frozen, DiT trained) | joint (both trained) | scratch (joint, from random parameters) | interval (joint at the
    # start of each period, fixed for the rest); fixed and interval need a stage 1 VAE
    latent_policy: str = identity("joint")
    vae_lr_ratio: float = identity(1.0, least=0.0)  # learning rate of the VAE over that of the DiT, stage 2
    interval_period: int = identity(5000, least=1)  # latent_policy=interval: steps of a period ...
    interval_joint: int = identity(2000, least=1)  # ... and how many of them, at its start, train the VAE too


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW and its schedule (Table 8). Weight decay applies to every parameter, the default of torch.optim.AdamW.

    muon: the momentum of a layer's matrices is orthogonalised by Newton-Schulz steps (Jordan et al. 2024) and scaled so that
    its root mean square is that of an AdamW update, 0.2 (Liu et al. 2025, arXiv 2502.16982): rates and decay carry over.
    Everything else (embeddings, read-outs, norms, biases) stays with AdamW.
    """

    name: str = identity("adamw")  # adamw | muon (matrices of the blocks by Muon, all else by AdamW)
    learning_rate: float = identity(1.5e-4, above=0.0)  # the peak, after the warm-up
    initial_learning_rate: float = identity(1e-6, least=0.0)  # at step 0
    final_learning_rate: float = identity(1e-5, least=0.0)  # at the end of the schedule
    warmup_steps: int = identity(5000, least=0)  # steps of linear warm-up
    schedule: str = identity("cosine")  # after the warm-up: cosine | linear | constant | wsd (constant, then a decay)
    decay_steps: int = length(1_000_000, least=0)  # the step at which final_learning_rate is reached; 0: train.steps
    cooldown_steps: int = length(0, least=0)  # schedule=wsd: the steps of its decay, the last before decay_steps
    cooldown_form: str = length("sqrt")  # schedule=wsd: sqrt (1 - sqrt, arXiv 2405.18392) | linear | cosine
    b1: float = identity(0.9, least=0.0, below=1.0)  # decay of Adam's first moment
    b2: float = identity(0.95, least=0.0, below=1.0)  # decay of Adam's second moment
    eps: float = identity(1e-8, above=0.0)  # added to the root of the second moment
    weight_decay: float = identity(0.01, least=0.0)  # decoupled; times the learning rate
    clip_norm: float = identity(1.0, least=0.0)  # global gradient norm; 0: no clip
    muon_momentum: float = identity(0.95, least=0.0, below=1.0)  # decay per step of the (Nesterov) momentum
    muon_steps: int = identity(5, least=1, most=100)  # Newton-Schulz iterations
    # of all moments between steps: float32 | bfloat16 (half the memory; rounded each step)
    moment_dtype: str = identity("float32")


@dataclass(frozen=True)
class TrainConfig:
    """Length of training and sizes of its batches."""

    steps: int = length(1_000_000, traced=False, least=1)  # updates of the whole run
    batch_size: int = identity(1408, least=1)  # rows of a global batch
    sequence_length: int = identity(512, least=1)  # L, tokens per row
    accumulate: int = placement(1, least=1)  # microbatches per step; the gradient equals that of the whole batch
    log_every: int = reporting(50, least=1)  # steps between lines of metrics
    eval_every: int = reporting(5000, least=0)  # 0: no held-out evaluation
    eval_batches: int = reporting(8, least=1)  # held-out batches of an evaluation
    plot_every: int = reporting(5000, least=0)  # 0: plots at the end only
    # updates that the whole run may skip because the loss or gradient is not finite; one more stops it, 0: the first does. A
    # skipped step leaves parameters, moments and average as they are; the step, and with it the batch, the noise and the
    # learning rate, go on. The field changes no value that is computed, only where a run stops: hence its class
    skip_nonfinite: int = reporting(0, least=0)
    # "START:COUNT": trace COUNT steps from step START on (1 is the first) into WORKDIR/profile, for xprof; empty: no trace
    profile: str = reporting("")
    # decay of the exponential moving average of the trained parameters; 0: no average
    ema_decay: float = identity(0.0, least=0.0, below=1.0)
    # a workdir, or a folder of released or LLaMA form; empty: random initialisation
    init_from: str = identity("", traced=False)
    init_step: str = identity("", traced=False)  # init_from=workdir: its newest checkpoint, "best" or a step
    # parameter groups to take from it; (): all that both have
    init_groups: tuple[str, ...] = identity((), traced=False)
    # continue from its step, data position and optimizer state (cooldowns)
    init_continue: bool = identity(False, traced=False)


@dataclass(frozen=True)
class CheckpointConfig:
    """Which checkpoints are written and kept."""

    every: int = reporting(5000, least=1)  # steps
    # and after this many minutes without one; 0: by steps alone
    every_minutes: float = reporting(0.0, least=0.0, most=1e6)
    keep_last: int = reporting(3, least=1)  # newest checkpoints that are kept
    keep_every: int = reporting(0, least=0)  # keep every checkpoint whose step is a multiple; 0: none
    # a held-out metric, e.g. "loss", by which the keep_best checkpoints with the lowest value are kept; empty: none
    best_metric: str = reporting("")
    keep_best: int = reporting(1, least=1)  # number of best checkpoints that are kept in addition
    asynchronous: bool = reporting(True)  # write checkpoints in the background


@dataclass(frozen=True)
class DCNConfig:
    """The factor of each mesh axis that spans slices, over the data-centre network; the rest is within one slice.

    A slice is connected by fast links: a TPU slice, or a node of GPUs. The product of the five is the number of slices; each
    divides its mesh axis; -1 is inferred.
    """

    replica: int = placement(-1, traced=False, least=-1)  # factor of mesh.replica across slices; -1: inferred
    data: int = placement(1, traced=False, least=-1)  # factor of mesh.data across slices
    # factor of mesh.fsdp across slices; above 1 shards parameters over DCN
    fsdp: int = placement(1, traced=False, least=-1)
    sequence: int = placement(1, traced=False, least=-1)  # factor of mesh.sequence across slices
    tensor: int = placement(1, traced=False, least=-1)  # factor of mesh.tensor across slices


@dataclass(frozen=True)
class MeshConfig:
    """Devices as a mesh of named axes, slowest links first; -1 is inferred from the number of devices."""

    # batch sharded, parameters replicated; the axis that spans slices unless mesh.dcn says otherwise
    replica: int = placement(1, traced=False, least=-1)
    data: int = placement(-1, traced=False, least=-1)  # batch sharded, parameters replicated, within a slice
    fsdp: int = placement(1, traced=False, least=-1)  # batch and parameters sharded
    # positions of a row sharded: keys and values are gathered, queries stay on their devices
    sequence: int = placement(1, traced=False, least=-1)
    tensor: int = placement(1, traced=False, least=-1)  # heads, feed-forward and vocabulary sharded
    dcn: DCNConfig = DCNConfig()  # of each of these, the factor that spans slices


@dataclass(frozen=True)
class ComputeConfig:
    """Placement and precision of computation; the mathematics does not change."""

    dtype: str = identity("auto")  # matmul dtype: float32 | bfloat16 | auto (bfloat16 on GPU and TPU, float32 on CPU)
    scan_layers: bool = placement(True)  # one compiled layer in a loop, or all layers unrolled
    # none | minimal (keep matmul outputs) | full (layer inputs only) | offload (matmul outputs on the host)
    remat: str = placement("none")
    # kernel of training: xla | splash (TPU) | cudnn (GPU) | auto (splash or else xla)
    attention: str = placement("auto")
    # query chunks of attention by xla and cudnn; keys that no query of a chunk attends to are skipped
    attention_chunks: int = placement(8, least=1)
    cross_entropy_chunk: int = placement(512, least=1)  # positions of a row whose logits are in memory at once
    # folder (local, gs:// or s3://) that keeps the compiled programs of training for later starts on the same kind of machine;
    # jax runs what is in it, so let nobody else write there; empty: off, or as JAX_COMPILATION_CACHE_DIR says
    compilation_cache: str = placement("", traced=False)


@dataclass(frozen=True)
class RunConfig:
    """The complete config of a run."""

    family: str = identity("cola")  # a key of families.FAMILIES
    seed: int = identity(66, least=0, most=2**32 - 1)  # seed of parameters, noise and all randomness of training
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
    "family": tuple(FACTS),
    "data.packing": ("concat", "best_fit"),
    "data.on_bad_record": ("refuse", "skip"),
    "data.on_changed_corpus": ("refuse", "warn"),
    "data.on_damaged_shard": ("refuse", "skip"),
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
    "optimizer.schedule": ("cosine", "linear", "constant", "wsd"),
    "optimizer.cooldown_form": ("sqrt", "linear", "cosine"),
    "optimizer.moment_dtype": ("float32", "bfloat16"),
    "compute.dtype": ("auto", "float32", "bfloat16"),
    "compute.attention": ("auto", "xla", "splash", "cudnn"),
    "compute.remat": ("none", "minimal", "full", "offload"),
    "sampling.solver": ("euler", "midpoint", "heun"),
    "sampling.llada.remasking": ("low_confidence", "random"),
    "sampling.first_block": ("clean", "repaint", "left_pad", "right_pad"),
}
