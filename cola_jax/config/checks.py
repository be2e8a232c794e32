"""Which values of the config's fields fit each other."""

from __future__ import annotations

from dataclasses import fields

from cola_jax.config.axes import MESH_AXES
from cola_jax.config.fields import ObjectiveConfig, RunConfig, SamplingConfig
from cola_jax.config.sizes import BACKBONE_FAMILIES, tokens_of_block

COLA_SAMPLING = ("steps", "solver", "guidance", "first_block", "repaint_rounds", "repaint_time")


def inconsistencies(c: RunConfig) -> list[str]:
    """Returns one sentence for every pair of fields that cannot both hold."""
    checks = _size_checks(c) + _range_checks(c) + _source_checks(c) + _objective_checks(c)
    checks += _backbone_checks(c) + _llada_checks(c) + _plaid_checks(c)
    return [message for broken, message in checks if broken]


def _size_checks(c: RunConfig) -> list[tuple[bool, str]]:
    vae, dit, train = c.vae, c.dit, c.train
    heads = max(vae.num_heads, 1)
    positive = {
        "vae.dim": vae.dim, "vae.ffn_dim": vae.ffn_dim, "vae.num_heads": vae.num_heads, "vae.vocab_size": vae.vocab_size,
        "vae.encoder_blocks": vae.encoder_blocks, "vae.decoder_blocks": vae.decoder_blocks,
        "vae.latent_dim": vae.latent_dim, "vae.patch_size": vae.patch_size, "vae.block_size": vae.block_size,
        "vae.block.shared_heads_kv": vae.block.shared_heads_kv,
        "dit.dim": dit.dim, "dit.num_layers": dit.num_layers, "dit.num_heads": dit.num_heads,
        "dit.head_dim": dit.head_dim, "dit.block_size": dit.block_size, "dit.expand_ratio": dit.expand_ratio,
        "dit.time_frequencies": dit.time_frequencies,
        "train.steps": train.steps, "train.batch_size": train.batch_size, "train.accumulate": train.accumulate,
        "train.sequence_length": train.sequence_length, "train.log_every": train.log_every,
        "compute.attention_chunks": c.compute.attention_chunks,
        "compute.cross_entropy_chunk": c.compute.cross_entropy_chunk,
        "checkpoint.every": c.checkpoint.every, "checkpoint.keep_last": c.checkpoint.keep_last,
        "sampling.steps": c.sampling.steps, "sampling.max_new_tokens": c.sampling.max_new_tokens,
    }  # fmt: skip
    checks = [(value < 1, f"{name}={value} must be at least 1") for name, value in positive.items()]
    if any(broken for broken, _ in checks):
        return checks
    align = tokens_of_block(c)
    return [
        (vae.dim % heads != 0, f"vae.dim={vae.dim} is not a multiple of vae.num_heads={vae.num_heads}"),
        ((vae.dim // heads) % 2 != 0, f"vae.dim/vae.num_heads={vae.dim // heads} must be even for RoPE"),
        (
            heads % vae.block.shared_heads_kv != 0,
            f"vae.num_heads={heads} is not a multiple of vae.block.shared_heads_kv={vae.block.shared_heads_kv}",
        ),
        (
            vae.block.activation == "swiglu" and vae.ffn_dim % 2 != 0,
            f"vae.ffn_dim={vae.ffn_dim} must be even for swiglu",
        ),
        (
            dit.rope_dim % 2 != 0 or not 0 < dit.rope_dim <= dit.head_dim,
            f"dit.rope_dim={dit.rope_dim} must be even and at most dit.head_dim={dit.head_dim}",
        ),
        (
            train.sequence_length % align != 0,
            f"train.sequence_length={train.sequence_length} is not a multiple of {align}, the tokens of a block",
        ),
        (
            c.family == "cola" and dit.block_size % vae.block_size != 0 and vae.block_size % dit.block_size != 0,
            f"vae.block_size={vae.block_size} and dit.block_size={dit.block_size}: one must divide the other",
        ),
        (
            train.batch_size % train.accumulate != 0,
            f"train.batch_size={train.batch_size} is not a multiple of train.accumulate={train.accumulate}",
        ),
        (
            vae.fixed_logsnr is not None and not vae.encoder_last_ln and train.accumulate > 1,
            "vae.fixed_logsnr without vae.encoder_last_ln averages over the batch, which train.accumulate>1 splits",
        ),
        (
            vae.fixed_logsnr is not None and not vae.use_variation,
            "vae.fixed_logsnr needs vae.use_variation=True",
        ),
    ]


def _range_checks(c: RunConfig) -> list[tuple[bool, str]]:
    flow, objective, optimizer, sampling = c.flow, c.objective, c.optimizer, c.sampling
    shares = {
        "flow.known_prefix_probability": flow.known_prefix_probability, "objective.mask_rate": objective.mask_rate,
        "data.heldout_fraction": c.data.heldout_fraction, "sampling.top_p": sampling.top_p,
        "sampling.repaint_time": sampling.repaint_time,
    }  # fmt: skip
    weights = {
        f"objective.{name}": getattr(objective, name)
        for name in (
            "kl_weight",
            "mask_weight",
            "vae_weight",
            "flow_weight",
            "reference_weight",
            "vae_lr_ratio",
        )
    }
    checks = [(not 0 <= value <= 1, f"{name}={value} must be between 0 and 1") for name, value in shares.items()]
    checks += [(value < 0, f"{name}={value} must not be negative") for name, value in weights.items()]
    checks += _mesh_checks(c)
    return checks + [
        (flow.timestep_scale <= 0, f"flow.timestep_scale={flow.timestep_scale} must be positive"),
        (
            optimizer.schedule == "cosine" and optimizer.decay_steps <= optimizer.warmup_steps,
            f"optimizer.decay_steps={optimizer.decay_steps} must exceed warmup_steps={optimizer.warmup_steps}",
        ),
        (optimizer.muon_steps < 1, f"optimizer.muon_steps={optimizer.muon_steps} must be at least 1"),
        (not 0 <= optimizer.muon_momentum < 1, "optimizer.muon_momentum must be at least 0 and less than 1"),
        (optimizer.learning_rate <= 0, f"optimizer.learning_rate={optimizer.learning_rate} must be positive"),
        (sampling.temperature < 0, f"sampling.temperature={sampling.temperature} must not be negative"),
        (sampling.repetition_penalty <= 0, "sampling.repetition_penalty must be positive"),
        (sampling.repaint_rounds < 1, "sampling.repaint_rounds must be at least 1"),
    ]


def _mesh_checks(c: RunConfig) -> list[tuple[bool, str]]:
    checks = [
        (
            c.mesh.sequence == -1,
            "mesh.sequence=-1: name the devices that positions are split over; -1 is for another axis",
        )
    ]
    for name, group in (("mesh", c.mesh), ("mesh.dcn", c.mesh.dcn)):
        sizes = tuple(getattr(group, axis) for axis in MESH_AXES)
        checks += [
            (sizes.count(-1) > 1, f"{name}: only one of {', '.join(MESH_AXES)} may be -1, got {sizes}"),
            (any(size == 0 or size < -1 for size in sizes), f"{name}: sizes are positive or -1, got {sizes}"),
        ]
    return checks


def _source_checks(c: RunConfig) -> list[tuple[bool, str]]:
    data = c.data
    return [
        (not data.sources, "data.sources is empty: name at least one source"),
        (any(s.weight <= 0 for s in data.sources), "data.sources.weight must be positive"),
        (
            any(s.kind == "prepared" for s in data.sources) and len(data.sources) > 1,
            "data.sources: a prepared corpus is already packed; it cannot be mixed with others",
        ),
        (
            any(s.kind not in ("tinyworld", "pydocs") and not s.path for s in data.sources),
            "data.sources.path is empty: name the files",
        ),
        (c.tokenizer.kind == "file" and not c.tokenizer.path, "tokenizer.kind='file' needs tokenizer.path"),
    ]


def _objective_checks(c: RunConfig) -> list[tuple[bool, str]]:
    flow, objective = c.flow, c.objective
    return [
        (
            flow.known_prefix_probability > 0 and c.dit.block_size == 1 and c.family == "cola",
            "flow.known_prefix_probability must be 0 where dit.block_size=1: a block of one has no known part",
        ),
        (
            objective.latent_policy in ("fixed", "interval") and c.family == "cola" and not objective.vae_from,
            f"objective.latent_policy={objective.latent_policy!r} needs objective.vae_from, a trained VAE",
        ),
        (
            objective.latent_policy == "scratch" and bool(objective.vae_from),
            "objective.latent_policy='scratch' starts from nothing, but objective.vae_from is set",
        ),
        (
            objective.reference_weight > 0 and c.family == "cola" and not objective.vae_from,
            "objective.reference_weight>0 needs objective.vae_from, whose encoder is the reference",
        ),
        (
            objective.reference_weight > 0 and not c.vae.use_variation,
            "objective.reference_weight>0 compares posteriors: it needs vae.use_variation=True",
        ),
        (
            not 0 < objective.interval_joint <= objective.interval_period,
            "objective.interval_joint must be between 1 and objective.interval_period",
        ),
    ]


def _backbone_checks(c: RunConfig) -> list[tuple[bool, str]]:
    net = c.backbone
    sizes = ("vocab_size", "dim", "ffn_dim", "num_layers", "num_heads", "kv_heads")
    checks = [(getattr(net, name) < 1, f"backbone.{name}={getattr(net, name)} must be at least 1") for name in sizes]
    if not any(broken for broken, _ in checks):
        checks += [
            (
                net.dim % (2 * net.num_heads) != 0,
                f"backbone.dim={net.dim} is not a multiple of twice backbone.num_heads={net.num_heads}: RoPE needs pairs",
            ),
            (
                net.num_heads % net.kv_heads != 0,
                f"backbone.num_heads={net.num_heads} is not a multiple of backbone.kv_heads={net.kv_heads}",
            ),
        ]
    if c.family in BACKBONE_FAMILIES:
        checks += _unread(c, "objective", ObjectiveConfig(), [field.name for field in fields(ObjectiveConfig)])
        checks += _unread(c, "sampling", SamplingConfig(), COLA_SAMPLING)
    if c.family != "llada":
        checks += _unread(c, "sampling", SamplingConfig(), ["llada"])
    if c.family != "plaid":
        checks += _unread(c, "sampling", SamplingConfig(), ["plaid"])
    else:
        checks += _unread(c, "sampling", SamplingConfig(), ["temperature", "top_k", "top_p"])
    return checks


def _unread(c: RunConfig, group: str, default: object, names: list[str] | tuple[str, ...]) -> list[tuple[bool, str]]:
    """Fields of a shared group that the config's family never reads: they may not be set."""
    given = getattr(c, group)
    return [
        (
            getattr(given, name) != getattr(default, name),
            f"{group}.{name}={getattr(given, name)!r} is not read by family {c.family!r}: leave it out",
        )
        for name in names
    ]


def _plaid_checks(c: RunConfig) -> list[tuple[bool, str]]:
    plaid, sampling = c.plaid, c.sampling.plaid
    shares = {name: getattr(plaid, name) for name in ("self_condition_probability", "reconstruction_share")}
    checks = [(not 0 <= value <= 1, f"plaid.{name}={value} must be between 0 and 1") for name, value in shares.items()]
    positive = {
        "plaid.embedding_dim": plaid.embedding_dim,
        "plaid.schedule_width": plaid.schedule_width,
        "sampling.plaid.steps": sampling.steps,
    }
    checks += [(value < 1, f"{name}={value} must be at least 1") for name, value in positive.items()]
    return checks + [
        (
            plaid.reconstruction_share in (0.0, 1.0),
            f"plaid.reconstruction_share={plaid.reconstruction_share}: both terms of the bound need rows",
        ),
        (plaid.gamma_0 >= plaid.gamma_1, f"plaid.gamma_0={plaid.gamma_0} must be below gamma_1={plaid.gamma_1}"),
        (plaid.bias_warmup_steps < 0, f"plaid.bias_warmup_steps={plaid.bias_warmup_steps} must not be negative"),
        (plaid.schedule_lr_ratio < 0, f"plaid.schedule_lr_ratio={plaid.schedule_lr_ratio} must not be negative"),
        (
            sampling.score_temperature <= 0,
            f"sampling.plaid.score_temperature={sampling.score_temperature} must be positive",
        ),
    ]


def _llada_checks(c: RunConfig) -> list[tuple[bool, str]]:
    llada, sampling, new = c.llada, c.sampling.llada, c.sampling.max_new_tokens
    checks = [
        (
            not -1 <= llada.mask_id < c.backbone.vocab_size,
            f"llada.mask_id={llada.mask_id} must be below backbone.vocab_size={c.backbone.vocab_size}, or -1",
        ),
        (
            not 0 <= llada.random_length_probability <= 1,
            f"llada.random_length_probability={llada.random_length_probability} must be between 0 and 1",
        ),
        (sampling.steps < 0, f"sampling.llada.steps={sampling.steps} must not be negative"),
        (sampling.block_length < 0, f"sampling.llada.block_length={sampling.block_length} must not be negative"),
        (sampling.guidance < 0, f"sampling.llada.guidance={sampling.guidance} must not be negative"),
        (c.family == "llada" and c.backbone.vocab_size < 2, "backbone.vocab_size=1 has no spare id for the mask"),
    ]
    if c.family != "llada" or new < 1 or any(broken for broken, _ in checks):
        return checks
    length, steps = sampling.block_length or new, sampling.steps or new
    blocks = max(new // length, 1)
    return checks + [
        (
            new % length != 0,
            f"sampling.max_new_tokens={new} is not a multiple of sampling.llada.block_length={length}",
        ),
        (
            new % length == 0 and steps % blocks != 0,
            f"sampling.llada.steps={steps} is not a multiple of the {blocks} blocks of sampling.llada.block_length={length}",
        ),
    ]
