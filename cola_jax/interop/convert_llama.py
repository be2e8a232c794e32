"""Import and export of the Hugging Face LLaMA form, for families ar and llada, which have that network.

`convert` describes the content of an imported workdir.
"""

from __future__ import annotations

import dataclasses

import jax
from ml_collections import ConfigDict

from cola_jax import storage
from cola_jax.config import ConfigError, RunConfig, differences, facts, resolve, to_dict
from cola_jax.data import tokenizers
from cola_jax.data.new_folder import check_free, new_folder
from cola_jax.families import FAMILIES
from cola_jax.interop import llama
from cola_jax.interop.convert import RECORD, Say, fill_workdir, outside, report_import, roomiest_mesh_of
from cola_jax.interop.import_tokenizer import copy_files_beside, import_tokenizer, special_names
from cola_jax.parallel import rules
from cola_jax.storage import AnyPath
from cola_jax.train.checkpoint import load_params
from cola_jax.train.workdir import TOKENIZER, stored_config

FAMILIES_OF_THE_FORM = tuple(name for name, family in FAMILIES.items() if "llama" in family.forms)
OTHERS = ("vae", "dit", "flow", "objective", "plaid", "sampling")  # groups of a config that other families read


def import_llama(
    source: str | AnyPath, workdir: str | AnyPath, tree: ConfigDict, explicit: list[str], say: Say
) -> RunConfig:
    """Makes a workdir, for training and generation, from a folder of the LLaMA form. Returns its config.

    Args:
      tree: data, training and sampling of the run. Its family is kept if it is ar or llada, and ar otherwise; its model
        fields, and fields that the family never reads, are replaced.
      explicit: paths of fields that the user set, "a.b.c".

    Raises:
      LlamaFormatError: if the folder cannot be used. ConfigError: if `tree` does not fit.
      DataError: if the workdir is not empty, there is no tokenizer, or it has more tokens than the model.
    """
    source, workdir = storage.absolute(storage.path(source)), storage.path(workdir, "target")
    if jax.process_count() > 1:
        raise ConfigError("convert runs in one process; the workdir it makes trains on any number")
    net = llama.read_config(source)
    cfg = _config(tree, explicit, source, dataclasses.asdict(net), say)
    tokenizer = import_tokenizer(cfg, source)
    with new_folder(check_free(workdir, "target"), "config.json") as partial:
        with storage.local_copy(source) as folder:
            params = llama.read(folder, net)
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)
        params = jax.tree.map(jax.device_put, params, rules.shardings(shapes, roomiest_mesh_of([shapes])))
        (partial / RECORD).mkdir()
        fill_workdir(partial, source, cfg, params, tokenizer)
    report_import(workdir, cfg, params, tokenizer, say)
    return cfg


def export_llama(
    workdir: str | AnyPath,
    target: str | AnyPath,
    step: int | str | None,
    dtype: str | None,
    say: Say,
    ema: bool = False,
) -> None:
    """Writes a checkpoint of a run of family ar or llada in the LLaMA form, fp32 or of `dtype`.

    Raises:
      CheckpointError: if there is no such checkpoint. DataError: if `target` is not empty.
    """
    workdir, target = outside(workdir, target)
    cfg = resolve(stored_config(workdir))
    tokenizer = tokenizers.load(workdir / TOKENIZER)
    shapes = jax.eval_shape(lambda: FAMILIES[cfg.family].objective.init(cfg, jax.random.PRNGKey(0)))
    with new_folder(check_free(target, "target"), "config.json") as partial:
        _, params = load_params(workdir, step, roomiest_mesh_of([shapes]), ema=ema)
        length = cfg.train.sequence_length
        llama.write(
            partial / "llama",
            cfg.backbone,
            params,
            dtype=dtype or "float32",
            max_positions=length,
            eos_id=tokenizer.eos_id,
        )
        for path in list((partial / "llama").iterdir()):
            path.rename(partial / path.name)
        (partial / "llama").rmdir()
        if tokenizer.kind == "huggingface":
            (partial / "tokenizer.json").write_bytes(tokenizer.model)
            copy_files_beside(workdir / RECORD, partial)
    if tokenizer.kind != "huggingface":
        say(f"the tokenizer is of kind {tokenizer.kind}: no tokenizer.json was written")
    if not all(part.masked for part in facts(cfg).attention(cfg)):
        say(f"other programs read these weights with a causal mask, which {cfg.family} does not have")
    say(f"{target}: the LLaMA form, {dtype or 'float32'}")


def _config(tree: ConfigDict, explicit: list[str], source: AnyPath, model: dict, say: Say) -> RunConfig:
    """Puts the model into `tree` and reports which of the fields that the user set were replaced."""
    given, base = tree.to_dict(), to_dict(RunConfig())
    new = given | {"backbone": model, "vae": base["vae"], "dit": base["dit"], "flow": base["flow"]}
    new |= {"plaid": base["plaid"], "objective": base["objective"]}
    if given["family"] not in FAMILIES_OF_THE_FORM:  # a config of another family, with the sampling of that family
        new |= {"family": "ar", "sampling": base["sampling"] | {"max_new_tokens": given["sampling"]["max_new_tokens"]}}
    new["tokenizer"] = dict(given["tokenizer"])
    if (source / "tokenizer.json").is_file():
        names = special_names(source)
        names.setdefault(
            "pad_token", names.get("eos_token", given["tokenizer"]["pad_token"])
        )  # the form often has no padding token
        new["tokenizer"] |= {"kind": "file", "path": str(source / "tokenizer.json")}
        new["tokenizer"] |= {k: v for k, v in names.items() if f"tokenizer.{k}" not in explicit}
    plain = {name: group.to_dict() if isinstance(group, ConfigDict) else group for name, group in given.items()}
    chosen = {line.split(":")[0] for line in differences(base, plain)} | set(explicit) | {"family"}
    lines = [line for line in differences(plain, new) if line.split(":")[0] in chosen]
    if new["family"] != given["family"]:  # the groups of the old family are removed
        lines = [line for line in lines if line.split(".")[0] not in OTHERS or line.split(":")[0] in explicit]
    if lines:
        say(f"the imported model replaces fields of the config: {'; '.join(lines)}")
    return resolve(new, assigned=("family", "tokenizer.kind"))
