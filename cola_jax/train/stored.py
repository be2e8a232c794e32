"""Reading of checkpoints: which ones exist, and whether each equals what was written.

A checkpoint is a folder (see `saves`) of Orbax items:
  meta       format version, step, attempt, config, held-out metrics, every leaf's shape, dtype and fingerprint, and params_only
             if the checkpoint has initial parameters of a run and nothing else by design
  tokenizer  {file name: base64}
  params, opt_state, frozen, ema  {path: array}; an empty one is left out
A restored leaf is compared with its fingerprint, because a damaged file can still decode.
"""

from __future__ import annotations

import base64
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from cola_jax import storage
from cola_jax.errors import UserError
from cola_jax.storage import AnyPath
from cola_jax.train import saves
from cola_jax.train.integrity import fingerprints, leaves_by_path, tree_problems
from cola_jax.train.orbax_files import checkpointer

FORMAT = 1
CHUNK = 2**28  # bytes over all devices


class CheckpointError(UserError):
    """There is no usable checkpoint; the message says what was found and what was expected."""

    exit_status = 1


class Damaged(Exception):
    """A checkpoint that cannot be read back as it was written."""


def to_stderr(line: str) -> None:
    """Writes a warning."""
    print(line, file=sys.stderr, flush=True)


def folder(workdir: str | AnyPath) -> AnyPath:
    """Returns the folder of a run's checkpoints."""
    return storage.absolute(storage.path(workdir)) / "checkpoints"


def steps_in(directory: AnyPath) -> list[int]:
    """Returns the steps of the whole and visible checkpoints, ascending."""
    return list(saves.saves_in(directory))


def items(trees: dict[str, Any], facts: dict[str, Any], tokenizer: dict[str, bytes]) -> ocp.args.Composite:
    """Returns the arguments of Orbax: `trees` by item name, and `facts`, the fields of meta that do not follow from them."""
    flat = {name: leaves_by_path(tree) for name, tree in trees.items()}
    leaves = {f"{name}/{path}": leaf for name, tree in flat.items() for path, leaf in tree.items()}
    prints = fingerprints(leaves)
    forms = {p: {"shape": x.shape, "dtype": x.dtype.name, "fingerprint": prints[p]} for p, x in leaves.items()}
    files = {name: base64.b64encode(data).decode() for name, data in tokenizer.items()}
    arrays = {name: ocp.args.StandardSave(tree) for name, tree in flat.items() if tree}
    meta = {"format": FORMAT, **facts, "leaves": forms}
    return ocp.args.Composite(**arrays, meta=ocp.args.JsonSave(meta), tokenizer=ocp.args.JsonSave(files))


def _item(orbax: ocp.Checkpointer, path: AnyPath, name: str, args: Any) -> Any:
    """Returns one item; raises Damaged if it cannot be read."""
    try:
        item = orbax.restore(path, args=ocp.args.Composite(**{name: args}))[name]
    except (MemoryError, jax.errors.JaxRuntimeError):
        raise
    except Exception as error:  # Orbax and TensorStore raise bare Exception for some kinds of damage
        raise Damaged(f"{name}: {type(error).__name__}: {str(error).splitlines()[0][:200]}") from error
    if item is None:
        raise Damaged(f"{name} is missing")
    return item


def read_json(orbax: ocp.Checkpointer, path: AnyPath, name: str) -> dict[str, Any]:
    """Returns the JSON item `name` of the checkpoint at `path`; raises Damaged if it cannot be read."""
    return _item(orbax, path, name, ocp.args.JsonRestore())


def read_meta(orbax: ocp.Checkpointer, path: AnyPath) -> dict[str, Any]:
    """Returns the item meta.

    Raises:
      CheckpointError: if another version of the format wrote it.
      Damaged: if it cannot be read.
    """
    meta = read_json(orbax, path, "meta")
    if meta.get("format") != FORMAT:
        raise CheckpointError(f"{path} has checkpoint format {meta.get('format')!r}; this version reads {FORMAT}")
    return meta


def leaf_forms(meta: dict[str, Any]) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns {item/path: shape and dtype} of every array of a checkpoint."""
    return {p: jax.ShapeDtypeStruct(tuple(x["shape"]), jnp.dtype(x["dtype"])) for p, x in meta["leaves"].items()}


def read_trees(
    orbax: ocp.Checkpointer, path: AnyPath, expected: dict[str, dict[str, jax.ShapeDtypeStruct]]
) -> tuple[dict[str, Any], dict[str, dict[str, jax.Array]]]:
    """Returns (meta, {item: {path: array}}) for the items of `expected`, each leaf with the sharding given there.

    Raises:
      CheckpointError: naming every leaf that is missing, extra or misshapen in the checkpoint.
      Damaged: if a file is missing or unreadable, or a leaf's bits differ from those that were written.
    """
    meta = read_meta(orbax, path)
    wanted = {f"{name}/{leaf}": form for name, tree in expected.items() for leaf, form in tree.items()}
    stored = {leaf: form for leaf, form in leaf_forms(meta).items() if leaf.split("/")[0] in expected}
    problems = tree_problems(stored, wanted)
    if problems:
        raise CheckpointError(f"checkpoint {path} does not fit the config: " + "; ".join(problems))
    trees = {
        name: _item(orbax, path, name, ocp.args.StandardRestore(tree)) if tree else {}
        for name, tree in expected.items()
    }
    found = fingerprints({f"{name}/{leaf}": x for name, tree in trees.items() for leaf, x in tree.items()})
    changed = sorted(leaf for leaf in wanted if found[leaf] != meta["leaves"][leaf]["fingerprint"])
    if changed:
        raise Damaged(f"other values than were written: {', '.join(changed)}")
    return meta, trees


def verify(path: AnyPath, trees: dict[str, dict[str, Any]]) -> None:
    """Reads back a complete checkpoint that was written from `trees`, CHUNK bytes at a time.

    Args:
      trees: {item: {path: array}} of the arrays that were written, still on their devices.

    Raises:
      Damaged: if a leaf cannot be read, or its shape or bits differ from the array's.
    """
    with checkpointer(path) as orbax:
        written = read_meta(orbax, path)["leaves"]
    with checkpointer(path, ocp.PyTreeCheckpointHandler()) as orbax:
        for item, leaves in trees.items():
            for part in _parts(leaves):
                forms = {p: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding) for p, x in part.items()}
                places = ocp.checkpoint_utils.construct_restore_args(forms)
                args = ocp.args.PyTreeRestore(item=forms, restore_args=places, partial_restore=True)
                try:
                    read = orbax.restore(path / item, args=args)
                except (MemoryError, jax.errors.JaxRuntimeError):
                    raise
                except Exception as error:  # as in `_item`
                    raise Damaged(f"{item}: {type(error).__name__}: {str(error).splitlines()[0][:200]}") from error
                found = fingerprints(read)
                changed = [f"{item}/{p}" for p in part if found[p] != written[f"{item}/{p}"]["fingerprint"]]
                changed += [f"{item}/{p}" for p, x in part.items() if read[p].shape != x.shape]
                if changed:
                    raise Damaged(f"other values than were written: {', '.join(sorted(set(changed)))}")


def _parts(leaves: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yields the leaves in parts of at most CHUNK bytes, or of one leaf; this much is in memory twice."""
    part: dict[str, Any] = {}
    for path, leaf in leaves.items():
        if part and sum(x.nbytes for x in part.values()) + leaf.nbytes > CHUNK:
            yield part
            part = {}
        part[path] = leaf
    if part:
        yield part


def first_good(
    directory: AnyPath, steps: list[int], read: Callable[[AnyPath], Any], warn: Callable[[str], None]
) -> tuple[int, Any]:
    """Returns (step, read(its folder)) for the first of `steps` that is not damaged; each one skipped is named to `warn`.

    Raises:
      CheckpointError: if all are damaged, each with its reason, and errors of `read`.
    """
    reasons, paths = [], saves.saves_in(directory)
    for step in steps:
        try:
            return step, read(paths[step])
        except Damaged as damage:
            reasons.append(f"{paths[step]} ({damage})")
            if step != steps[-1]:
                warn(f"warning: checkpoint {reasons[-1]} is damaged and skipped; trying step {steps[len(reasons)]}")
    raise CheckpointError("no checkpoint is usable: " + "; ".join(reasons))


def candidates(orbax: ocp.Checkpointer, directory: AnyPath, step: int | str | None) -> list[int]:
    """Returns the steps to try in turn: all, newest first (None); those with a best_metric, lowest first ("best"); or one.

    Raises:
      CheckpointError: if there is none.
    """
    paths = saves.saves_in(directory)
    steps = list(paths)
    if step == "best":
        scores = {s: score for s, path in paths.items() if (score := best_score(orbax, path)) is not None}
        if not scores:
            raise CheckpointError(f"{directory}: of its checkpoints {steps} none has the metric checkpoint.best_metric")
        return sorted(scores, key=lambda s: (scores[s], -s))
    if not steps or (step is not None and step not in steps):
        wanted = "checkpoint" if step is None else f"checkpoint of step {step}"
        raise CheckpointError(f"{directory} has no {wanted}; it has {steps or 'none'}")
    return steps[::-1] if step is None else [step]


def best_score(orbax: ocp.Checkpointer, path: AnyPath) -> float | None:
    """Returns the value of the run's checkpoint.best_metric in one checkpoint, None where it has none or is damaged."""
    try:
        meta = read_meta(orbax, path)
    except Damaged:
        return None
    return meta["metrics"].get(meta["config"]["checkpoint"]["best_metric"])
