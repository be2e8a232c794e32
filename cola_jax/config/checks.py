"""Which values of the config's fields fit each other; each is in its range already."""

from __future__ import annotations

from cola_jax.config.axes import MESH_AXES
from cola_jax.config.fields import RunConfig
from cola_jax.config.sizes import tokens_of_block
from cola_jax.config.source_fields import too_many_paths

VAE_GROUPS = ("encoder", "decoder")


def inconsistencies(c: RunConfig) -> list[str]:
    """Returns one sentence for every pair of fields that cannot both hold."""
    checks = _size_checks(c) + _optimizer_checks(c) + _mesh_checks(c) + _source_checks(c) + _init_checks(c)
    checks += _objective_checks(c) + _backbone_checks(c) + _llada_checks(c) + _plaid_checks(c)
    return [message for broken, message in checks if broken] + too_many_paths(c.data)


def _size_checks(c: RunConfig) -> list[tuple[bool, str]]:
    vae, dit, train, heads = c.vae, c.dit, c.train, c.vae.num_heads
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
    ]


def _optimizer_checks(c: RunConfig) -> list[tuple[bool, str]]:
    optimizer = c.optimizer
    end, warmup, name = optimizer.decay_steps or c.train.steps, optimizer.warmup_steps, "optimizer.decay_steps"
    end_name = name if optimizer.decay_steps else f"{name}=0, train.steps"
    decays = optimizer.schedule in ("cosine", "linear")
    wsd = optimizer.schedule == "wsd"
    return [
        (decays and end <= warmup, f"{end_name}={end} must exceed optimizer.warmup_steps={warmup}"),
        (wsd and optimizer.cooldown_steps < 1, "optimizer.schedule='wsd' needs optimizer.cooldown_steps, at least 1"),
        (
            wsd and end - optimizer.cooldown_steps < warmup,
            f"optimizer.cooldown_steps={optimizer.cooldown_steps} must leave optimizer.warmup_steps={warmup} of "
            f"{end_name}={end}",
        ),
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


def _init_checks(c: RunConfig) -> list[tuple[bool, str]]:
    train, step = c.train, c.train.init_step
    return [
        (
            step not in ("", "best") and not (step.isascii() and step.isdigit()),
            f"train.init_step={step!r} must be a step, 'best', or empty for the newest",
        ),
        (
            train.init_continue and bool(train.init_groups),
            "train.init_continue takes over a whole run: leave out train.init_groups",
        ),
    ]


def starts_from_vae(c: RunConfig) -> bool:
    """Whether a config starts from an encoder and a decoder."""
    return bool(c.train.init_from) and (not c.train.init_groups or set(VAE_GROUPS) <= set(c.train.init_groups))


def _objective_checks(c: RunConfig) -> list[tuple[bool, str]]:
    if c.family != "cola":
        return []
    flow, objective, begins = c.flow, c.objective, starts_from_vae(c)
    from_vae = "train.init_from, a run or folder with an encoder and a decoder"
    return [
        (
            flow.known_prefix_probability > 0 and c.dit.block_size == 1,
            "flow.known_prefix_probability must be 0 where dit.block_size=1: a block of one has no known part",
        ),
        (
            objective.latent_policy in ("fixed", "interval") and not begins,
            f"objective.latent_policy={objective.latent_policy!r} needs {from_vae}",
        ),
        (
            objective.latent_policy == "scratch" and begins and not c.train.init_continue,
            "objective.latent_policy='scratch' starts from nothing, but train.init_from is set",
        ),
        (
            objective.reference_weight > 0 and not begins,
            f"objective.reference_weight>0 needs {from_vae}: its encoder is the reference",
        ),
        (
            objective.reference_weight > 0 and not c.vae.use_variation,
            "objective.reference_weight>0 compares posteriors: it needs vae.use_variation=True",
        ),
        (
            objective.interval_joint > objective.interval_period,
            "objective.interval_joint must be between 1 and objective.interval_period",
        ),
    ]


def _backbone_checks(c: RunConfig) -> list[tuple[bool, str]]:
    net = c.backbone
    return [
        (
            net.dim % (2 * net.num_heads) != 0,
            f"backbone.dim={net.dim} is not a multiple of twice backbone.num_heads={net.num_heads}: RoPE needs pairs",
        ),
        (
            net.num_heads % net.kv_heads != 0,
            f"backbone.num_heads={net.num_heads} is not a multiple of backbone.kv_heads={net.kv_heads}",
        ),
    ]


def _plaid_checks(c: RunConfig) -> list[tuple[bool, str]]:
    plaid = c.plaid
    return [(plaid.gamma_0 >= plaid.gamma_1, f"plaid.gamma_0={plaid.gamma_0} must be below gamma_1={plaid.gamma_1}")]


def _llada_checks(c: RunConfig) -> list[tuple[bool, str]]:
    llada, sampling, new = c.llada, c.sampling.llada, c.sampling.max_new_tokens
    if c.family != "llada":
        return []
    checks = [
        (
            llada.mask_id >= c.backbone.vocab_size,
            f"llada.mask_id={llada.mask_id} must be below backbone.vocab_size={c.backbone.vocab_size}, or -1",
        ),
        (c.backbone.vocab_size < 2, "backbone.vocab_size=1 has no spare id for the mask"),
    ]
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
