"""A family added the way the design document says: its facts, its functions, and one line in each table.

log p(next | token) is a row of a table: the smallest model that learns, generates and estimates a likelihood.
Axes: B rows, L tokens, V vocabulary.
"""

from __future__ import annotations

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from cola_jax.config import CHOICES
from cola_jax.config.families import FACTS, backbone
from cola_jax.config.families.facts import CUT, Facts
from cola_jax.families import FAMILIES
from cola_jax.families.cost import TRAINED, CostPart, of_parts
from cola_jax.families.family import (
    Family,
    Generator,
    LikelihoodEstimator,
    Objective,
    text_batch,
    trains_all,
)
from cola_jax.families.likelihood import Likelihood
from cola_jax.generate.prompts import pad_prompts
from cola_jax.models import flops
from cola_jax.parallel import rules

NAME, GROUPS = "bigram", ("bigram",)
BIGRAM_FACTS = Facts(
    reads=("backbone.vocab_size", "backbone.init_std", "sampling.temperature", *CUT),
    ignores=("compute.attention_chunks", "compute.remat", "compute.scan_layers"),
    checks=lambda c: [],
    vocabulary=backbone.vocabulary,
    tokens_of_block=backbone.tokens_of_block,
    attention=lambda c: (),
    split_by_tensor=lambda c: {},
)
RULE = (r"bigram/table", P(None, "tensor"))


def init(cfg, rng):
    size = cfg.backbone.vocab_size
    return {"bigram": {"table": cfg.backbone.init_std * jax.random.normal(rng, (size, size))}}


def draw(cfg, batch, rng, step):
    return {}, {"tokens": jnp.sum(_weights(batch))}


def _weights(batch):
    """1 where the next token is of the same document, (B, L - 1)."""
    same = batch["segments"][:, 1:] == batch["segments"][:, :-1]
    return batch["weights"][:, 1:] * same


def loss(cfg, params, frozen, batch, noise, counts, step):
    log_p = jax.nn.log_softmax(params["bigram"]["table"])[batch["tokens"][:, :-1], batch["tokens"][:, 1:]]
    nats = -jnp.sum(log_p * _weights(batch))
    return nats / counts["tokens"], {"cross_entropy": nats, "tokens": jnp.sum(_weights(batch))}


def summarize(cfg, sums):
    return {"cross_entropy": sums["cross_entropy"] / sums["tokens"]}


def cost(cfg):
    work = flops.dense(cfg.train.sequence_length, 1, cfg.backbone.vocab_size)
    return of_parts(cfg, init, {"table": CostPart(work, TRAINED)}, GROUPS)


def padded(cfg, prompts, pad_id):
    return pad_prompts(prompts, patch_size=1, block_size=1, pad_id=pad_id, vocab_size=cfg.backbone.vocab_size)


@jax.jit
def next_token(params, last_B, keys_B, temperature):
    logits = params["bigram"]["table"][last_B]
    drawn = jax.vmap(jax.random.categorical)(keys_B, logits / jnp.maximum(temperature, 1e-6))
    return jnp.where(temperature > 0, drawn, jnp.argmax(logits, axis=-1)).astype(jnp.int32)


def generate(cfg, params, prompts, rows):
    batch = padded(cfg, prompts, rows.pad_id)
    keys_B = rows.keys(len(prompts))
    last_B = rows.place(batch.tokens[np.arange(len(prompts)), batch.known - 1])
    written = []
    for index in range(cfg.sampling.max_new_tokens):
        keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys_B, index)
        last_B = next_token(params, last_B, keys, cfg.sampling.temperature)
        written.append(last_B)
    tokens = jnp.stack(written, axis=1)
    yield jax.device_get(tokens).tolist(), tokens


def abstract_step(cfg, params, rows, prompt):
    of = jax.ShapeDtypeStruct
    return next_token, (params, of((rows,), "int32"), of((rows, 2), "uint32"), cfg.sampling.temperature)


def log_likelihood(cfg, params, prompts, answers, rows, settings):
    table = jax.nn.log_softmax(params["bigram"]["table"])
    whole = [[*prompt, *answer] for prompt, answer in zip(prompts, answers, strict=True)]
    padded(cfg, whole, rows.pad_id)
    of = lambda row, first: sum(float(table[row[i - 1], row[i]]) for i in range(first, len(row)))
    return Likelihood(np.array([of(row, len(prompt)) for row, prompt in zip(whole, prompts)]), "exact", {})


FAMILY = Family(
    name=NAME,
    groups=GROUPS,
    objective=Objective(init, text_batch, draw, loss, summarize, cost),
    training=trains_all(GROUPS),
    generator=Generator(generate, abstract_step, needs_prompt=True),
    likelihood=LikelihoodEstimator(log_likelihood, options=()),
)


@contextlib.contextmanager
def registered():
    """The family in each table that the design document lists, while the body runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(FAMILIES, NAME, FAMILY)
        patch.setitem(FACTS, NAME, BIGRAM_FACTS)
        patch.setitem(CHOICES, "family", (*CHOICES["family"], NAME))
        patch.setattr(rules, "RULES", (*rules.RULES, RULE))
        yield
