"""Packing: no token is lost or mixed, and a block never holds two documents."""

import dataclasses
import random

import numpy as np
import pytest

from cola_jax.config import RunConfig
from cola_jax.config.fields import DataConfig, TrainConfig
from cola_jax.data import packing
from cola_jax.data.errors import DataError

PAD, EOS = 0, 1


def documents(count=200, longest=90, seed=0):
    """Documents of distinct tokens: document d has only tokens of 1000 d + position."""
    rng = random.Random(seed)
    return [[1000 * (d + 1) + k for k in range(rng.randint(0, longest))] for d in range(count)]


def config(packing="best_fit", length=64, patch=1, block=16, vae_block=1, family="cola"):
    base = RunConfig(family=family)
    return dataclasses.replace(
        base,
        data=DataConfig(packing=packing),
        train=dataclasses.replace(TrainConfig(), sequence_length=length),
        vae=dataclasses.replace(base.vae, patch_size=patch, block_size=vae_block),
        dit=dataclasses.replace(base.dit, block_size=block),
    )


def test_the_tokens_of_a_block_follow_patch_and_blocks():
    assert packing.tokens_of_block(config(patch=2, block=8)) == 16
    assert packing.tokens_of_block(config(patch=2, block=8, family="text_vae", vae_block=4)) == 8
    assert packing.tokens_of_block(config(block=4, vae_block=8)) == 8


def test_concat_keeps_every_token_in_order():
    packed = packing.pack(documents(), config("concat"), PAD, EOS, keep_tail=True)
    stream = [token for document in documents() for token in [*document, EOS]]
    assert packed.tokens_NL[packed.weights_NL == 1].tolist() == stream
    assert (packed.tokens_NL[packed.weights_NL == 0] == PAD).all()
    assert (packed[0]["segments"] == 1).all() and packed[0]["positions"].tolist() == list(range(64))


def test_concat_drops_only_an_unfilled_last_row_of_training():
    whole = packing.pack(documents(), config("concat"), PAD, EOS, keep_tail=True)
    train = packing.pack(documents(), config("concat"), PAD, EOS, keep_tail=False)
    assert len(train) == len(whole) - 1 and (train.weights_NL == 1).all()
    assert (train.tokens_NL == whole.tokens_NL[:-1]).all()


def test_a_corpus_shorter_than_a_row_is_padded_to_one():
    packed = packing.pack([[5, 6]], config("concat"), PAD, EOS, keep_tail=False)
    assert len(packed) == 1
    assert packed[0]["tokens"].tolist() == [5, 6, EOS] + [PAD] * 61 and packed[0]["weights"].sum() == 3


def test_rows_do_not_depend_on_where_chunks_end(monkeypatch):
    kinds = {}
    for chunk in (50, 2**24):
        monkeypatch.setattr(packing, "CHUNK_TOKENS", chunk)
        kinds[chunk] = packing.pack(documents(), config("concat"), PAD, EOS, keep_tail=True)
    assert (kinds[50].tokens_NL == kinds[2**24].tokens_NL).all()
    assert (kinds[50].weights_NL == kinds[2**24].weights_NL).all()


@pytest.mark.parametrize("align", [1, 4, 16, 64])
def test_a_block_of_best_fit_never_holds_two_documents(align):
    packed = packing.pack(documents(), config(block=align), PAD, EOS, keep_tail=False)
    blocks = packed.segments_NL.reshape(len(packed), -1, align)
    assert (blocks == blocks[..., :1]).all()
    for index in range(len(packed)):
        row = packed[index]
        for segment in range(1, row["segments"].max() + 1):
            members = row["segments"] == segment
            tokens = row["tokens"][members & (row["weights"] == 1)]
            assert len(set(tokens[tokens != EOS] // 1000)) <= 1


def test_best_fit_keeps_every_token_of_every_document_once():
    packed = packing.pack(documents(), config(), PAD, EOS, keep_tail=False)
    kept = sorted(packed.tokens_NL[(packed.weights_NL == 1) & (packed.tokens_NL != EOS)].tolist())
    assert kept == sorted(token for document in documents() for token in document)
    assert (packed.tokens_NL[packed.weights_NL == 0] == PAD).all()


def test_best_fit_gives_padding_its_documents_segment_and_the_remainder_none():
    packed = packing.pack([[5] * 4, [7] * 20], config(length=64, block=16), PAD, EOS, keep_tail=False)
    row = packed[0]
    assert len(packed) == 1
    assert row["segments"].tolist() == [1] * 16 + [2] * 32 + [0] * 16
    assert row["weights"].tolist() == [1.0] * 5 + [0.0] * 11 + [1.0] * 21 + [0.0] * 27
    assert row["positions"].tolist() == [*range(16), *range(32), *range(16)]


def test_a_document_longer_than_a_row_is_cut_and_leaves_no_lone_end():
    packed = packing.pack([[5] * 150, [6] * 64], config(), PAD, EOS, keep_tail=False)
    assert (packed.tokens_NL == 5).sum() == 150 and (packed.tokens_NL == 6).sum() == 64
    assert (packed.tokens_NL == EOS).sum() == 1


def test_best_fit_fills_rows_well():
    packed = packing.pack(documents(longest=60), config(block=4), PAD, EOS, keep_tail=False)
    blocks = sum(-(-(len(d) + 1) // 4) for d in documents(longest=60))
    assert len(packed) <= 1.05 * blocks / 16 + 1


def test_rows_have_the_dtypes_of_a_batch():
    row = packing.pack(documents(), config(), PAD, EOS, keep_tail=False)[0]
    assert {name: value.dtype for name, value in row.items()} == {
        "tokens": np.int32, "segments": np.int32, "positions": np.int32, "weights": np.float32
    }  # fmt: skip


def test_a_length_of_broken_blocks_is_refused():
    with pytest.raises(DataError, match="train.sequence_length=60 is not a multiple of 16"):
        packing.pack([[1]], config(length=60), PAD, EOS, keep_tail=False)
