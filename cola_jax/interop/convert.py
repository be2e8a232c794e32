"""Import and export of released checkpoints.

An imported workdir has the content of a trained one, except the optimizer state: config.json, the tokenizer, and a
checkpoint of step 0 from which training starts. Its folder released/ records the files of the import.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from cola_jax import storage
from cola_jax.config import VAE_GROUPS, ConfigError, MeshConfig, RunConfig, differences, resolve, to_dict, vocabulary
from cola_jax.data import tokenizers
from cola_jax.data.new_folder import check_free, new_folder
from cola_jax.families import FAMILIES
from cola_jax.interop import record, release, released
from cola_jax.interop.errors import ReleasedFormatError
from cola_jax.interop.import_tokenizer import copy_files_beside, import_tokenizer, special_names
from cola_jax.interop.released_config import check_pair
from cola_jax.interop.tensor_names import GROUPS
from cola_jax.parallel import rules
from cola_jax.parallel.mesh import MeshError, make_mesh
from cola_jax.storage import AnyPath
from cola_jax.train.checkpoint import load_params, save_params
from cola_jax.train.workdir import TOKENIZER, WorkdirError, stored_config, write_config

RECORD = "released"  # folder of an imported workdir
PARTS = tuple(GROUPS)  # folders of the released form
# Model fields that keep the config's values: there are no released fields for them.
NOT_RELEASED = {"vae": ("fixed_logsnr",), "dit": ("zero_init",)}
Say = Callable[[str], None]


def import_released(
    source: str | AnyPath, workdir: str | AnyPath, tree: ConfigDict, explicit: list[str], say: Say
) -> RunConfig:
    """Makes a workdir, for training and generation, from a released folder. Returns its config.

    Args:
      tree: data, training and sampling of the run; its model is replaced by the released one; `say` is called with a line if
        they differ.
      explicit: paths of fields that the user set, "a.b.c".

    Raises:
      ReleasedFormatError: if the folder cannot be used. ConfigError: if `tree` does not fit.
      DataError: if the workdir is not empty, there is no tokenizer, or it has more tokens than the model.
    """
    source, workdir = storage.absolute(storage.path(source)), storage.path(workdir, "target")
    if jax.process_count() > 1:
        raise ConfigError("convert runs in one process; the workdir it makes trains on any number")
    vae, dit = (read(source / part) for part, read in zip(PARTS, (released.read_vae_config, released.read_dit_config)))
    check_pair(source / "cola_dit", vae)
    cfg = _config(tree, explicit, source, {"vae": dataclasses.asdict(vae), "dit": dataclasses.asdict(dit)}, say)
    tokenizer = import_tokenizer(cfg, source)
    with new_folder(check_free(workdir, "target"), "config.json") as partial:
        mesh, params = roomiest_mesh(cfg), {}
        with storage.local_copy(source) as folder:
            for part in PARTS:
                params |= released.read_part(part, folder / part, cfg, mesh)
                record.keep(folder, part, cfg, partial / RECORD)
        fill_workdir(partial, source, cfg, params, tokenizer)
    report_import(workdir, cfg, params, tokenizer, say)
    return cfg


def fill_workdir(partial: Path, source: AnyPath, cfg: RunConfig, params: Any, tokenizer: tokenizers.Tokenizer) -> None:
    """Writes an imported workdir: the checkpoint of step 0, tokenizer, config, and the source's other files."""
    copy_files_beside(source, partial / RECORD)
    tokenizers.save(tokenizer, partial / TOKENIZER)
    save_params(partial, cfg, params, tokenizers.files_of(tokenizer))
    write_config(partial, cfg)


def report_import(workdir: AnyPath, cfg: RunConfig, params: Any, tokenizer: tokenizers.Tokenizer, say: Say) -> None:
    count, size = sum(leaf.size for leaf in jax.tree.leaves(params)), vocabulary(cfg).size
    words = f"{tokenizer.vocab_size} of {size} words in the tokenizer"
    say(f"{workdir}: family {cfg.family}, {count:,} parameters, {words}")
    say(f"training will read {', '.join(' '.join((s.kind, *s.path)) for s in cfg.data.sources)}")


def export_released(
    workdir: str | AnyPath,
    target: str | AnyPath,
    step: int | str | None,
    dtype: str | None,
    say: Say,
    ema: bool = False,
) -> None:
    """Writes a checkpoint of a workdir in the released form: the files, names and dtypes of its import, else fp32.

    Args:
      step, ema: as in `load_params`. dtype: a key of release.NAMES for every weight instead of the recorded one.

    Raises:
      ReleasedFormatError: if the model has no released form. CheckpointError: if there is no such checkpoint.
      DataError: if `target` is not empty.
    """
    workdir, target = outside(workdir, target)
    cfg = resolve(stored_config(workdir))
    parts = tuple(part for part, groups in GROUPS.items() if set(groups) <= set(FAMILIES[cfg.family].groups))
    if not parts:
        exported = [name for name, family in FAMILIES.items() if family.forms]
        raise ReleasedFormatError(f"{workdir} is a run of family {cfg.family!r}: {', '.join(exported)} can be exported")
    tokenizer = tokenizers.load(workdir / TOKENIZER)
    with new_folder(check_free(target, "target"), f"{parts[-1]}/config.json") as partial:
        _, params = load_params(workdir, step, roomiest_mesh(cfg, parts), ema=ema)
        for part in parts:
            groups = {group: params[group] for group in GROUPS[part]}
            leaves = {rules.path_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(groups)}
            kept = record.kept(workdir / RECORD, part, cfg)
            release.write_part(part, partial / part, cfg, leaves, kept, dtype)
        if tokenizer.kind == "huggingface":
            (partial / "tokenizer.json").write_bytes(tokenizer.model)
            copy_files_beside(workdir / RECORD, partial)
    if tokenizer.kind != "huggingface":
        say(f"the tokenizer is of kind {tokenizer.kind}: no tokenizer.json was written")
    say(f"{target}: {', '.join(parts)}")


def outside(workdir: str | AnyPath, target: str | AnyPath) -> tuple[AnyPath, AnyPath]:
    """Returns both as paths.

    Raises:
      WorkdirError: if `target` is in the workdir, whose subfolders have fixed meanings.
    """
    workdir, target = storage.path(workdir, "source"), storage.path(target, "target")
    resolved = [place if storage.is_remote(place) else place.resolve() for place in (target, workdir)]
    if (resolved[0] / "x").as_posix().startswith(f"{resolved[1].as_posix()}/"):
        raise WorkdirError(f"{target} is in the workdir {workdir}: export to a folder outside of it")
    return workdir, target


def roomiest_mesh(cfg: RunConfig, parts: tuple[str, ...] = PARTS) -> Mesh:
    """Returns the mesh that shards the parameters over as many local devices as their sizes allow."""
    return roomiest_mesh_of([released.shapes(cfg, part) for part in parts])


def roomiest_mesh_of(trees: list[Any]) -> Mesh:
    """Returns the mesh that shards trees of shapes over as many local devices as all their sizes allow."""
    devices = jax.local_devices()
    for count in range(len(devices), 0, -1):
        mesh = make_mesh(MeshConfig(data=1, fsdp=count, tensor=1), devices[:count])
        try:
            for tree in trees:
                rules.shardings(tree, mesh)
        except MeshError:
            continue
        return mesh
    raise MeshError("no device can hold the parameters: parallel.rules.RULES has no rule for some of them")


def _config(tree: ConfigDict, explicit: list[str], source: AnyPath, model: dict[str, Any], say: Say) -> RunConfig:
    """Puts the released model into `tree` and reports which of its fields were replaced."""
    given, base = tree.to_dict(), to_dict(RunConfig())
    changed = []
    for group, fields in model.items():
        fields |= {name: given[group][name] for name in NOT_RELEASED[group]}
        set_on_purpose = {line.split(":")[0] for line in differences(base[group], given[group], f"{group}.")}
        lines = differences(given[group], fields, f"{group}.")
        changed += [line for line in lines if line.split(":")[0] in set_on_purpose | set(explicit)]
        tree[group] = ConfigDict(fields)
    forced = {"family": "cola", "train.init_from": str(source), "train.init_groups": VAE_GROUPS}
    if given["objective"]["latent_policy"] == "scratch":
        forced["objective.latent_policy"] = "joint"
    if (source / "tokenizer.json").is_file():
        forced |= {"tokenizer.kind": "file", "tokenizer.path": str(source / "tokenizer.json")}
        forced |= {f"tokenizer.{k}": v for k, v in special_names(source).items() if f"tokenizer.{k}" not in explicit}
    for path, value in forced.items():
        *group, name = path.split(".")
        node = tree[group[0]] if group else tree
        default = base[group[0]][name] if group else base[name]
        if node[name] != value and (node[name] != default or path in explicit):
            changed.append(f"{path}: {node[name]!r} -> {value!r}")
        node[name] = value
    if changed:
        say(f"the released checkpoint replaces fields of the config: {'; '.join(changed)}")
    return resolve(tree, assigned=list(forced))
