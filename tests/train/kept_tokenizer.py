"""The tokenizer that a checkpoint carries."""

import base64

import orbax.checkpoint as ocp

from cola_jax.train import stored


def load_tokenizer(workdir):
    """{file name: bytes} of the newest checkpoint."""
    directory = stored.folder(workdir)
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as orbax:
        files = stored.read_json(orbax, directory / str(stored.steps_in(directory)[-1]), "tokenizer")
    return {name: base64.b64decode(data) for name, data in files.items()}
