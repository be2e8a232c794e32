"""What every family owes to the trainer and to who reads its text, whatever is inside it.

Axes: B rows, A microbatches.
"""

import functools
import io

import bigram_family
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh
from tiny import batch_of, close, config, packed, parameters, read_by

from cola_jax import compare_runs, compile_program, estimate_likelihood, run_training
from cola_jax import config as settings
from cola_jax.config import CHOICES, ConfigError, RunConfig
from cola_jax.families import FAMILIES
from cola_jax.families.rows import RowOptions
from cola_jax.generate.prompts import PromptError
from cola_jax.parallel.hosts import batch_putter
from cola_jax.parallel.mesh import AXES, make_mesh
from cola_jax.parallel.rules import shardings
from cola_jax.runs.writer import Writer
from cola_jax.train.state import abstract_state, init_state
from cola_jax.train.step import train_step

NAMES = [*FAMILIES, bigram_family.NAME]
WRITERS = [name for name in NAMES if name == bigram_family.NAME or FAMILIES[name].generator is not None]
SMALL = {"dit__num_layers": 1, "vae__encoder_blocks": 1, "vae__decoder_blocks": 1, "data__packing": "best_fit"}
LENGTHS = (8, 4)  # documents of a packed row of 16


@pytest.fixture(scope="module", autouse=True)
def known():
    """The family of bigram_family.py, which no table of the library has, in all of them."""
    with bigram_family.registered():
        yield


@functools.cache
def setup(name, **changes):
    cfg = config(family=name, **read_by(name, SMALL | changes))
    return cfg, parameters(cfg)


def drawn(cfg, batch):
    return FAMILIES[cfg.family].objective.draw(cfg, batch, jax.random.PRNGKey(3), jnp.int32(0))


@functools.cache
def compiled(cfg):
    """(params, batch, noise, counts) -> (loss, sums)."""
    return jax.jit(lambda params, *drawn: FAMILIES[cfg.family].objective.loss(cfg, params, {}, *drawn, jnp.int32(0)))


def test_the_table_and_the_configs_name_the_same_families():
    assert set(FAMILIES) == set(CHOICES["family"])
    assert all(family.name == name for name, family in FAMILIES.items())


@pytest.mark.parametrize("name", NAMES)
def test_groups_ratios_and_shardings_cover_the_parameters(name):
    cfg, family = RunConfig(family=name), FAMILIES[name]
    params = jax.eval_shape(lambda: family.objective.init(cfg, jax.random.PRNGKey(0)))
    assert set(params) == set(family.groups) == set(family.training(cfg, 0).rates)
    assert set(family.training(cfg, 0).groups) <= set(family.groups)
    placed = shardings(params, AbstractMesh((1, 2, 4, 1, 2), AXES))
    for leaf, sharding in zip(jax.tree.leaves(params), jax.tree.leaves(placed), strict=True):
        assert leaf.size < 1_000_000 or any(axes for axes in sharding.spec), leaf.shape


@pytest.mark.parametrize("name", NAMES)
def test_microbatches_add_up_to_the_batch(name):
    cfg, params = setup(name)
    batch = packed(cfg, LENGTHS)
    batch["weights"][0, :4] = 0.0  # microbatches count differently
    noise, counts = drawn(cfg, batch)
    assert all(leaf.shape[0] == 4 for leaf in jax.tree.leaves(noise))
    whole = compiled(cfg)(params, batch, noise, counts)
    assert all(leaf.shape == () for leaf in jax.tree.leaves(whole)) and np.isfinite(whole[0])
    pieces = [jax.tree.map(lambda x, i=i: x[i::2], (batch, noise)) for i in range(2)]
    parts = [compiled(cfg)(params, *piece, counts) for piece in pieces]
    close(jax.tree.map(lambda a, b: a + b, *parts), whole, atol=1e-4, rtol=1e-4)


def changed(batch, where):
    """The batch with other tokens, still none that is spare, where `where` (B, L) holds."""
    tokens = np.where(where, (batch["tokens"] + 1) % 11, batch["tokens"])
    return batch | {"tokens": tokens.astype(np.int32)}


@pytest.mark.parametrize("apart", ["rows", "documents"])
@pytest.mark.parametrize("name", NAMES)
def test_what_lies_apart_adds_to_the_loss_apart(name, apart):
    """L(a, b) + L(a', b') = L(a', b) + L(a, b') holds where neither of a and b sees the other."""
    cfg, params = setup(name)
    batch = packed(cfg, LENGTHS)
    noise, counts = drawn(cfg, batch)
    of = lambda batch: float(compiled(cfg)(params, batch, noise, counts)[0])
    a = np.arange(4)[:, None] < 2 if apart == "rows" else batch["segments"] == 1
    b = np.arange(4)[:, None] >= 2 if apart == "rows" else batch["segments"] == 2
    one, other, both = (changed(batch, where) for where in (a, b, a | b))
    effects = of(one) - of(batch), of(other) - of(batch)
    assert min(map(abs, effects)) > 1e-3
    assert of(both) - of(batch) == pytest.approx(sum(effects), abs=2e-5)


LEARNT = {  # a metric in nats per token, after how many steps, and what is good
    "ar": ("cross_entropy", 120, 0.1),
    "llada": ("masked_cross_entropy", 400, 0.6),
    "plaid": ("bound", 400, 0.5),
    "bigram": ("cross_entropy", 120, 0.1),
}


RATES = {"bigram": 0.1}  # a table of log p wants larger steps than a network


@pytest.mark.parametrize(
    "name", ["ar", *(pytest.param(n, marks=pytest.mark.slow) for n in ("llada", "plaid")), "bigram"]
)
def test_a_small_repetitive_language_is_learnt(name):
    more = {"plaid__bias_warmup_steps": 0} if name == "plaid" else {}
    cfg = config(
        family=name, **more, backbone__init_std=0.1, optimizer__learning_rate=RATES.get(name, 1e-2),
        optimizer__warmup_steps=1, optimizer__schedule="constant", train__batch_size=16, train__accumulate=2, mesh__data=1,
        backbone__vocab_size=7, backbone__dim=32,
    )  # fmt: skip
    family, mesh = FAMILIES[name], make_mesh(cfg.mesh, jax.devices()[:1])
    abstract = abstract_state(cfg, family, mesh)
    state, put = init_state(cfg, family, abstract), batch_putter(mesh, 16)
    update = train_step(cfg, family, family.training(cfg, 0).groups, mesh, abstract)
    random, losses = np.random.default_rng(0), []
    metric, steps, good = LEARNT[name]
    for _ in range(steps):
        start = random.integers(0, 5, (16, 1))
        tokens = ((start + np.arange(16)) % 5).astype(np.int32)  # 0 1 2 3 4 0 1 2 ...
        state, metrics = update(state, put(batch_of(cfg) | {"tokens": tokens}))
        losses.append(float(metrics[metric]))
    first, last = np.mean(losses[:5]), np.mean(losses[-20:])
    assert first > 1.3 and last < good, (first, last)
    cfg = config(family=name, backbone__vocab_size=7, backbone__dim=32, sampling__max_new_tokens=6)
    [rows] = [new for new, _ in family.generator.generate(cfg, state.params, [[0, 1, 2, 3, 4] * 2] * 32, RowOptions(6))]
    right = np.mean(np.array(rows) == [0, 1, 2, 3, 4, 0])
    assert right > 0.8, f"{right} of the tokens of 32 samples; chance is 0.2"


def written(cfg, params, prompts, **options):
    """All new tokens of every row."""
    stretches = [
        new for new, _ in FAMILIES[cfg.family].generator.generate(cfg, params, prompts, RowOptions(0, **options))
    ]
    return [sum((stretch[row] for stretch in stretches), []) for row in range(len(prompts))]


PROMPTS = [[1, 2, 3, 4, 5], [6], [7, 8, 9, 1, 2, 3, 4, 5] * 3]  # padded to another length than each alone


@pytest.fixture(
    scope="module", params=["ar", "llada", "plaid", "bigram"]
)  # tests/generate/test_blocks.py has the same of cola
def sampled(request):
    drawn = {"sampling__plaid__steps": 3} if request.param == "plaid" else {"sampling__temperature": 1.0}
    cfg, params = setup(request.param, **drawn)
    return cfg, params, written(cfg, params, PROMPTS, seed=5)


def test_text_depends_on_seed_and_sample_alone(sampled):
    cfg, params, rows = sampled
    assert written(cfg, params, PROMPTS, seed=5) == rows
    assert written(cfg, params, PROMPTS, seed=6) != rows
    assert written(cfg, params, PROMPTS, seed=5, samples=[3, 4, 5]) != rows
    assert written(cfg, params, PROMPTS[::-1], seed=5, samples=[2, 1, 0]) == rows[::-1]


def test_a_prompt_among_longer_ones_is_continued_as_it_would_be_alone(sampled):
    cfg, params, rows = sampled
    [alone] = written(cfg, params, PROMPTS[1:2], seed=5, samples=[1])
    assert len(alone) >= cfg.sampling.max_new_tokens and alone == rows[1][: len(alone)]


def test_as_many_tokens_are_written_as_were_asked_for_at_least(sampled):
    cfg, _, rows = sampled
    assert all(cfg.sampling.max_new_tokens <= len(row) < cfg.sampling.max_new_tokens + 16 for row in rows)
    assert all(0 <= token < 13 for row in rows for token in row)


VALUES = {  # of sampling, twice
    "cola": ({"guidance": 2.0, "temperature": 0.5}, {"guidance": 3.0, "temperature": 0.9}),
    "ar": ({"temperature": 0.5, "top_k": 3}, {"temperature": 0.9, "top_k": 5}),
    "llada": ({"temperature": 0.5, "llada__guidance": 0.5}, {"temperature": 0.9, "llada__guidance": 1.0}),
    "plaid": (
        {"plaid__score_temperature": 0.9, "plaid__steps": 3},
        {"plaid__score_temperature": 0.7, "plaid__steps": 3},
    ),
    "bigram": ({"temperature": 0.5}, {"temperature": 0.9}),
}


@pytest.mark.parametrize("name", WRITERS)
def test_another_value_of_sampling_compiles_nothing(name):
    sizes = []
    for values in VALUES[name]:
        cfg, params = setup(name, **{f"sampling__{field}": value for field, value in values.items()})
        written(cfg, params, PROMPTS)
        step, _ = FAMILIES[name].generator.step(cfg, jax.eval_shape(lambda p=params: p), len(PROMPTS), 16)
        sizes.append(step._cache_size())
    assert sizes[0] == sizes[1] > 0


@pytest.mark.parametrize("name", WRITERS)
def test_no_prompts_and_tokens_outside_the_vocabulary_are_refused(name):
    cfg, params = setup(name)
    for prompts, message in (([], "no prompts"), ([[1], [2, 13]], "prompt 1 has token 13")):
        with pytest.raises(PromptError, match=message):
            written(cfg, params, prompts)


def test_a_family_of_the_tables_alone_trains_resumes_compiles_compares_and_generates(tmp_path):
    """Every room serves a family that it has never heard of."""
    fields = {
        "tokenizer__kind": "bytes", "backbone__vocab_size": 258, "train__steps": 4, "train__eval_every": 4,
        "train__eval_batches": 1, "train__log_every": 1, "train__plot_every": 0, "data__generated_documents": 20,
        "data__heldout_documents": 8, "optimizer__warmup_steps": 1, "optimizer__schedule": "constant", "checkpoint__every": 2,
    }  # fmt: skip
    cfg = config(family="bigram", **fields)
    with pytest.raises(ConfigError, match=r"backbone\.dim=32 is not read by family 'bigram'"):
        settings.resolve(settings.override(settings.to_config_dict(cfg), [("backbone.dim", "32")]))
    half = config(family="bigram", **fields | {"train__steps": 2})
    run_training(half, tmp_path, stream=io.StringIO())
    summary = run_training(cfg, tmp_path, stream=io.StringIO())
    assert summary.step == 4 and summary.heldout["cross_entropy"] < 5.6  # log(258) = 5.55
    [text] = Writer.load(tmp_path).write(["Anna"], max_new_tokens=5)
    assert isinstance(text, str)
    [row] = estimate_likelihood(Writer.load(tmp_path), [("Anna", " was")])
    assert row["kind"] == "exact" and row["tokens"] == 4
    compared = compare_runs([str(tmp_path)])
    assert compared["figures"]["family"] == ["bigram"] and compared["figures"]["parameters"] == [258**2]
    for program in ("train", "generate"):
        report, compiled = compile_program(cfg, "cpu:1", program, rows=2, prompt=4)
        assert compiled is not None and report.fits
