"""Configuration: a ConfigDict at the edge, frozen dataclasses inside.

`base()` gives the defaults of `fields` as a `ConfigDict` for an experiment file to change; `load()` runs such a file;
`override()` applies command line assignments; `resolve()` checks the result and freezes it; `from_stored()` reads the
config.json of a run, of earlier versions too.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from cola_jax.config.build import base as base
from cola_jax.config.build import build, check, plain_of, settle
from cola_jax.config.build import start_from as start_from
from cola_jax.config.build import to_config_dict as to_config_dict
from cola_jax.config.checks import inconsistencies as inconsistencies
from cola_jax.config.errors import ConfigError as ConfigError
from cola_jax.config.families.llada import mask_id as mask_id
from cola_jax.config.families.text_vae import VAE_GROUPS as VAE_GROUPS
from cola_jax.config.fields import CHOICES as CHOICES
from cola_jax.config.fields import BackboneConfig as BackboneConfig
from cola_jax.config.fields import CheckpointConfig as CheckpointConfig
from cola_jax.config.fields import ComputeConfig as ComputeConfig
from cola_jax.config.fields import DataConfig as DataConfig
from cola_jax.config.fields import DCNConfig as DCNConfig
from cola_jax.config.fields import DiTConfig as DiTConfig
from cola_jax.config.fields import FlowConfig as FlowConfig
from cola_jax.config.fields import LLaDAConfig as LLaDAConfig
from cola_jax.config.fields import LLaDASamplingConfig as LLaDASamplingConfig
from cola_jax.config.fields import MeshConfig as MeshConfig
from cola_jax.config.fields import ObjectiveConfig as ObjectiveConfig
from cola_jax.config.fields import OptimizerConfig as OptimizerConfig
from cola_jax.config.fields import PlaidConfig as PlaidConfig
from cola_jax.config.fields import PlaidSamplingConfig as PlaidSamplingConfig
from cola_jax.config.fields import RunConfig as RunConfig
from cola_jax.config.fields import SamplingConfig as SamplingConfig
from cola_jax.config.fields import SourceConfig as SourceConfig
from cola_jax.config.fields import TextVAEConfig as TextVAEConfig
from cola_jax.config.fields import TokenizerConfig as TokenizerConfig
from cola_jax.config.fields import TrainConfig as TrainConfig
from cola_jax.config.fields import VAEBlockConfig as VAEBlockConfig
from cola_jax.config.files import literal as literal
from cola_jax.config.files import load as load
from cola_jax.config.files import overridden
from cola_jax.config.files import override as override
from cola_jax.config.kernels import for_platform as for_platform
from cola_jax.config.kernels import without_kernels as without_kernels
from cola_jax.config.paths import changes as changes
from cola_jax.config.paths import differences as differences
from cola_jax.config.paths import identity as identity
from cola_jax.config.paths import to_dict as to_dict
from cola_jax.config.profile import profiled_steps as profiled_steps
from cola_jax.config.reads import read_by_none as read_by_none
from cola_jax.config.reads import unread_fields
from cola_jax.config.sizes import facts as facts
from cola_jax.config.sizes import tokens_of_block as tokens_of_block
from cola_jax.config.sizes import vocabulary as vocabulary
from cola_jax.config.stored import ALIASES, renamed
from cola_jax.config.stored import from_stored as from_stored


def tree_of(spec: str = "", changes: Mapping[str, Any] | None = None) -> ConfigDict:
    """Returns the tree of a config before it is checked; arguments and errors as in `load_config`."""
    assigned = [(path, value if isinstance(value, str) else repr(value)) for path, value in (changes or {}).items()]
    return override(load(spec) if spec else base(), assigned)


def load_config(spec: str = "", changes: Mapping[str, Any] | None = None) -> RunConfig:
    """Returns the checked config of an experiment.

    Args:
      spec: FILE.py[:ARG], or NAME[:ARG] of a file in experiments/; the base config if it is empty.
      changes: {"group.field": value}, as --config.group.field=VALUE of the command line.

    Raises:
      ConfigError: if the file cannot be run, a field does not exist, or see `resolve`.
    """
    return resolve(tree_of(spec, changes))


def unread(tree: ConfigDict, assignments: Sequence[tuple[str, str]]) -> set[str]:
    """Returns the paths of assignments that the run of a config, so changed, would not read.

    Raises:
      ConfigError: for an invalid assignment.
    """
    changed = override(copy.deepcopy(tree), list(assignments))
    found = unread_fields(build(renamed(plain_of(changed))[0]))
    return {path for path, _ in assignments if ALIASES.get(path, path) in found}


def resolve(tree: ConfigDict | dict[str, Any], assigned: Sequence[str] = ()) -> RunConfig:
    """Checks a config and freezes it.

    Fields that the run does not read are reset to their defaults; see `build.settle` for which of them are refused.

    Args:
      assigned: paths that were set on purpose, besides those of `override`: they must be read.

    Raises:
      ConfigError: for an unknown or missing field, a value of the wrong type or outside its range, a name that is not among
        the choices, a field that is set and not read, and sizes that do not fit each other; every problem found is in the
        message.
    """
    plain, _ = renamed(plain_of(tree))
    on_purpose = [ALIASES.get(path, path) for path in overridden(tree)]
    config = settle(build(plain), [*on_purpose, *assigned])
    check(config)
    return config
