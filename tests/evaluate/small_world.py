"""A tiny writer of bytes on the small world, its parameters drawn at random."""

from __future__ import annotations

import tiny

from cola_jax.data.tokenizers import BytesTokenizer
from cola_jax.runs.writer import Writer

CHANGES = {
    "vae__vocab_size": 258,
    "tokenizer__kind": "bytes",
    "train__sequence_length": 128,
    "vae__encoder_blocks": 1,
    "vae__decoder_blocks": 1,
    "dit__num_layers": 1,
    "compute__attention_chunks": 1,
    "dit__block_size": 8,
    "data__packing": "best_fit",
    "data__generated_documents": 40,
    "data__heldout_documents": 24,
    "sampling__max_new_tokens": 12,
}


def writer(**changes) -> Writer:
    cfg = tiny.config(**CHANGES | changes)
    return Writer(cfg, tiny.parameters(cfg), BytesTokenizer())
