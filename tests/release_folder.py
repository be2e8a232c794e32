"""Released folders to damage and to convert, made from a golden."""

import json
import shutil
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors.numpy import load_file, save_file

GOLDENS = Path(__file__).parent / "data" / "goldens"
PARTS = ("cola_vae", "cola_dit")
TEXT = "Story 0123456789. Anna has apples and gives away.\n It was"


def released_folder(target, name="base", dtype="float32", shards=1, specials=("<pad>", "</s>")):
    """Writes both parts of a golden with weights of `dtype`, in `shards` files each, and a tokenizer of characters."""
    for part in PARTS:
        (target / part).mkdir(parents=True)
        config = json.loads((GOLDENS / name / part / "config.json").read_text()) | {"dtype": dtype}
        (target / part / "config.json").write_text(json.dumps(config))
        kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.float32
        tensors = load_file(GOLDENS / name / part / "model.safetensors")
        tensors = {n: np.ascontiguousarray(t if n.endswith("freqs") else t.astype(kind)) for n, t in tensors.items()}
        write_weights(target / part, tensors, shards)
    write_tokenizer(target / "tokenizer.json", specials)
    return target


def write_weights(folder, tensors, shards):
    """Writes tensors as one file or as shards with their index."""
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return
    places = {name: f"model-{i % shards + 1:05d}-of-{shards:05d}.safetensors" for i, name in enumerate(sorted(tensors))}
    for file in set(places.values()):
        save_file({n: tensors[n] for n in tensors if places[n] == file}, folder / file, metadata={"format": "pt"})
    index = {"metadata": {"total_size": sum(t.nbytes for t in tensors.values())}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def write_tokenizer(path, specials=("<pad>", "</s>"), more=()):
    """Writes a tokenizer.json of the characters of TEXT, and any `more` tokens."""
    import tokenizers

    words = [*specials, "<unk>", *sorted(set(TEXT)), *more]
    inner = tokenizers.Tokenizer(tokenizers.models.BPE({w: i for i, w in enumerate(words)}, [], unk_token="<unk>"))
    inner.decoder = tokenizers.decoders.Fuse()
    inner.add_special_tokens([*specials, "<unk>"])
    inner.save(str(path))


def write_llama(folder):
    """Writes the golden folder of the LLaMA form with a tokenizer beside it; returns it."""
    shutil.copytree(GOLDENS / "llama", folder)
    write_tokenizer(folder / "tokenizer.json")
    (folder / "tokenizer_config.json").write_text('{"eos_token": "</s>", "pad_token": null}')
    return folder


def tensors_of(folder):
    """{tensor: (dtype, bytes)} of all safetensors of a folder, read by the format's own package."""
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= {name: (str(x.dtype), x.tobytes()) for name, x in load_file(path).items()}
    return found


def copy_of(source, target):
    return Path(shutil.copytree(source, target))
