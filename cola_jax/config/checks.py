"""Checks of fields against each other; each value is already known to be in its range."""

from __future__ import annotations

from cola_jax.config.axes import MESH_AXES
from cola_jax.config.families.facts import Check
from cola_jax.config.fields import RunConfig
from cola_jax.config.profile import profiled_steps
from cola_jax.config.sizes import facts, tokens_of_block
from cola_jax.config.source_fields import too_many_paths


def inconsistencies(c: RunConfig) -> list[str]:
    """Returns one sentence for every pair of fields that contradict each other."""
    checks = _size_checks(c) + _optimizer_checks(c) + _mesh_checks(c) + _source_checks(c) + _init_checks(c)
    checks += _profile_checks(c)
    checks += facts(c).checks(c)
    return [message for broken, message in checks if broken] + too_many_paths(c.data)


def _size_checks(c: RunConfig) -> list[Check]:
    train, align = c.train, tokens_of_block(c)
    return [
        (
            train.sequence_length % align != 0,
            f"train.sequence_length={train.sequence_length} is not a multiple of {align}, the tokens of a block",
        ),
        (
            train.batch_size % train.accumulate != 0,
            f"train.batch_size={train.batch_size} is not a multiple of train.accumulate={train.accumulate}",
        ),
    ]


def _optimizer_checks(c: RunConfig) -> list[Check]:
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


def _mesh_checks(c: RunConfig) -> list[Check]:
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


def _source_checks(c: RunConfig) -> list[Check]:
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


def _init_checks(c: RunConfig) -> list[Check]:
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


def _profile_checks(c: RunConfig) -> list[Check]:
    text, steps = c.train.profile, profiled_steps(c.train.profile)
    return [
        (
            bool(text) and steps is None,
            f"train.profile={text!r} must be START:COUNT, two numbers of at least 1, e.g. '20:3' for steps 20 to 22",
        ),
        (
            steps is not None and steps[0] > c.train.steps,
            f"train.profile={text!r} starts after train.steps={c.train.steps}",
        ),
    ]
