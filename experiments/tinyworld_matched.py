"""Cola, AR, LLaDA and Plaid on the small world with cores of equal size: the configs of benchmarks/families.py.

cola-jax compare tinyworld_matched:cola tinyworld_matched:ar tinyworld_matched:llada tinyworld_matched:plaid
cola-jax train --config tinyworld_matched:vae --workdir W          stage 1 of Cola
cola-jax train --config tinyworld_matched:cola,W --workdir W2      stage 2
cola-jax train --config tinyworld_matched:ar --workdir W3          likewise llada, plaid

Everything is tinyworld.py's, except that documents are joined and cut, as in the paper, into rows of twice the length:
with rows that end with their document, LLaDA and Plaid, which generate a window of fixed size, would never see text
after an end. The core is the DiT's 4 layers of 18 D^2, 1.18 M parameters, against 5 LLaMA layers whose feed-forwards
make up the same number to 0.05 %. The paper has nine layers of 16 D^2 for eight of those, which here would be four and
a half. Steps and learning rates here are tinyworld.py's; the comparison sets both (equal FLOPs, a search).

Plaid trains with AdamW: under Muon it stays at the entropy of single tokens (a bound of 3.9 to 4.1 nats per token
whatever the rate, with 4 rows per step or 32), under AdamW it learns to use context from the first hundred steps (1.74
after 1,616 steps). Its gradients are dominated by few noise levels of a few rows; orthogonalised, all directions of one
step have equal weight.

LLaDA generates well-formed sentences here and gives each question of a kind the same answer, the most frequent one,
for all values of sampling.llada.block_length, max_new_tokens and guidance: it has learnt which kind of word a question asks
for, but not to retrieve the word. For that it needs rows in which the answer is masked and the words that decide it
are not. With p uniform in (0, 1), an answer is masked and four given words are not in one of thirty rows, while AR sees
all earlier tokens at every token. More steps have not sufficed: 6,580 (three times) and 16,897 (7.7 times) change no
answer; by that count, as many answers to learn from as AR has would take thirty times. AdamW in place of Muon does not
help either.
"""

import math

from cola_jax import config
from experiments import tinyworld


def get_config(arg: str | None = None):
    """arg: "vae", "cola[,STAGE_1_WORKDIR]", "ar", "llada" or "plaid"."""
    family, _, vae_from = (arg or "").partition(",")
    if family not in ("vae", "cola", "ar", "llada", "plaid") or (vae_from and family != "cola"):
        raise config.ConfigError(
            f"tinyworld_matched:{arg}: the argument is vae, cola, cola,STAGE_1_WORKDIR, ar, llada or plaid"
        )
    c = tinyworld.get_config("vae" if family == "vae" else f"joint,{vae_from}")
    c.data.packing = "concat"
    c.train.sequence_length *= 2
    c.compute.cross_entropy_chunk = c.train.sequence_length
    c.train.batch_size //= 2  # as many tokens per step as in tinyworld.py
    return c if family in ("vae", "cola") else baseline(c, family)


def baseline(c, family: str):
    """Config of a family with the backbone instead of VAE and DiT; objective and sampler of Cola are left out."""
    base, dim = config.base(), c.dit.dim
    c.family = family
    new_tokens, penalty = c.sampling.max_new_tokens, c.sampling.repetition_penalty
    c.sampling = base.sampling
    c.sampling.max_new_tokens = new_tokens
    if family != "plaid":
        c.sampling.repetition_penalty = penalty
    layers = math.ceil(c.dit.num_layers * 9 / 8)
    ffn_dim = round((18 * c.dit.num_layers / layers - 4) * dim / 3)  # of layers of 4 D^2 + 3 D F
    c.backbone.update(dim=dim, num_layers=layers, ffn_dim=ffn_dim, num_heads=c.dit.num_heads, kv_heads=c.dit.num_heads)
    c.backbone.update(vocab_size=c.tokenizer.vocab_size + 1, init_std=c.vae.block.init_std)  # the last id: LLaDA's mask
    if family == "plaid":
        c.optimizer.update(name="adamw", learning_rate=3e-3)
        c.plaid.update(embedding_dim=c.vae.latent_dim, bias_warmup_steps=c.optimizer.warmup_steps)
    if family != "ar":
        c.compute.attention_chunks = base.compute.attention_chunks  # their attention has no mask to chunk by
    for group in ("vae", "dit", "flow", "objective"):
        c[group] = base[group]
    return c
