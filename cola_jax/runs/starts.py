"""Starting points of a run: another run's checkpoint, a released folder, or one of the LLaMA form (train.init_from)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from cola_jax import storage
from cola_jax.config import ConfigError, RunConfig, differences, resolve, to_dict
from cola_jax.data import tokenizers
from cola_jax.families import FAMILIES
from cola_jax.interop import llama, released
from cola_jax.interop.tensor_names import GROUPS as RELEASED_GROUPS
from cola_jax.storage import AnyPath
from cola_jax.train import checkpoint
from cola_jax.train.loop import Continued
from cola_jax.train.workdir import TOKENIZER, stored_config

# The config group of a parameter group, and fields in it that given parameters do not depend on.
SIZED_BY = {"encoder": "vae", "decoder": "vae", "dit": "dit", "backbone": "backbone"}
APART = ("dit.zero_init", "backbone.init_std", "vae.latent_shift", "vae.latent_scale")
READS_TOKENS = ("encoder", "decoder", "backbone", "embedding")  # groups whose parameters depend on the vocabulary


@dataclass(frozen=True)
class Start:
    """The starting point of a run.

    Attributes:
      params: {group: parameters} instead of random ones; None if it continues from a checkpoint.
      continued: the checkpoint that it continues from, else None.
      tokenizer: a folder with the tokenizer that the groups were trained with; None: the config's.
    """

    params: dict[str, Any] | None
    continued: Continued | None
    tokenizer: AnyPath | None


def find(cfg: RunConfig, mesh: Mesh) -> Start:
    """Opens train.init_from and reads the parameter groups that the run starts from.

    Args:
      mesh: of the run, for the parameters.

    Raises:
      ConfigError: if it is neither workdir nor folder of weights, lacks a group, or its model differs from the
        config's. CheckpointError: if the workdir has no such checkpoint. ReleasedFormatError: if a folder is damaged.
    """
    source, named = storage.path(cfg.train.init_from, "train.init_from"), f"train.init_from={cfg.train.init_from!r}"
    if not (source / "config.json").is_file() and not (source / "cola_vae").is_dir():
        raise ConfigError(f"{named} is neither a workdir nor a folder of released or LLaMA form")
    is_folder = (source / "cola_vae").is_dir() or llama.is_llama(source)
    if is_folder and (cfg.train.init_step or cfg.train.init_continue):
        field = "init_step" if cfg.train.init_step else "init_continue"
        raise ConfigError(f"train.{field} is for workdirs: {named} contains only weights")
    if is_folder:
        with storage.local_copy(source) as local:
            return Start(_of_folder(cfg, local, named, mesh), None, None)
    step = cfg.train.init_step
    chosen = int(step) if step.isdigit() else step or None
    folder = source / TOKENIZER if tokenizers.is_saved(source / TOKENIZER) else None
    if cfg.train.init_continue:
        theirs = stored_config(source)["family"]
        if theirs != cfg.family:
            raise ConfigError(f"{named} is a run of family {theirs!r}: train.init_continue continues the same family")
        return Start(None, Continued(source, chosen), folder)
    config, params = checkpoint.load_params(source, chosen, mesh)
    groups = wanted(cfg, named, tuple(params))
    _check_model(cfg, to_dict(resolve(config)), groups, named)
    reads = any(group in READS_TOKENS for group in groups)
    return Start({group: params[group] for group in groups}, None, folder if reads else None)


def wanted(cfg: RunConfig, named: str, there: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the groups to read from a source that has the groups `there`: train.init_groups, or all that the run shares.

    Raises:
      ConfigError: if a group is not one of the run's or of the source's, or they have none in common.
    """
    ours, chosen = FAMILIES[cfg.family].groups, cfg.train.init_groups
    unknown = [group for group in chosen if group not in ours]
    if unknown:
        raise ConfigError(f"train.init_groups has {', '.join(unknown)}; family {cfg.family!r} has {', '.join(ours)}")
    missing = [group for group in chosen if group not in there]
    if missing:
        raise ConfigError(f"{named} has no {', '.join(missing)} (train.init_groups); it has {', '.join(there)}")
    groups = chosen or tuple(group for group in ours if group in there)
    if not groups:
        raise ConfigError(f"{named} has {', '.join(there)}: nothing that family {cfg.family!r} has ({', '.join(ours)})")
    return groups


def _of_folder(cfg: RunConfig, source: Path, named: str, mesh: Mesh) -> dict[str, Any]:
    """Returns the groups of a released folder or one of the LLaMA form."""
    if llama.is_llama(source):
        groups, net = wanted(cfg, named, ("backbone",)), llama.read_config(source)
        _check_model(cfg, to_dict(RunConfig(backbone=net)), groups, named)
        return llama.read(source, net)
    parts = [part for part in ("cola_vae", "cola_dit") if (source / part).is_dir()]
    groups = wanted(cfg, named, tuple(group for part in parts for group in RELEASED_GROUPS[part]))
    params: dict[str, Any] = {}
    for part in parts:
        mine = [group for group in groups if group in RELEASED_GROUPS[part]]
        if not mine:
            continue
        is_vae = part == "cola_vae"
        config = (released.read_vae_config if is_vae else released.read_dit_config)(source / part)
        _check_model(cfg, to_dict(RunConfig(**{"vae" if is_vae else "dit": config})), tuple(mine), named)
        read = released.read_part(part, source / part, cfg, mesh)
        params |= {group: read[group] for group in mine}
    return params


def _check_model(cfg: RunConfig, theirs: dict[str, Any], groups: tuple[str, ...], named: str) -> None:
    """Raises ConfigError if the groups belong to another model than the config's; shapes are checked separately."""
    ours, changed = to_dict(cfg), []
    for part in dict.fromkeys(SIZED_BY[group] for group in groups if group in SIZED_BY):
        changed += differences(theirs[part], ours[part], f"{part}.")
    changed = [line for line in changed if not line.startswith(tuple(f"{path}:" for path in APART))]
    if changed:
        what = "VAE" if set(groups) <= {"encoder", "decoder"} else "model"
        raise ConfigError(f"{named} holds another {what} (theirs -> config): {'; '.join(changed)}")
