"""The losses of ar and llada written out plainly, and what their texts must not depend on.

Axes: B rows, L tokens, V vocabulary.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import plain_backbone
import pytest
from tiny import batch_of, close, config, packed, parameters, replace

from cola_jax.config import mask_id
from cola_jax.families import FAMILIES, ar, llada
from cola_jax.families.likelihood import MonteCarlo
from cola_jax.families.rows import RowOptions
from cola_jax.generate.prompts import PromptError

MASK = 12


@functools.cache
def setup(family, **changes):
    cfg = config(family=family, compute__cross_entropy_chunk=5, **changes)
    return cfg, parameters(cfg)


def drawn(cfg, batch, seed=3):
    return FAMILIES[cfg.family].objective.draw(cfg, batch, jax.random.PRNGKey(seed), jnp.int32(0))


def log_p(cfg, params, tokens, batch, causal):
    """log softmax (B, L, V) of the plain network."""
    mask = plain_backbone.mask_of(np.asarray(batch["segments"]), causal)
    plain = plain_backbone.logits(cfg.backbone, params["backbone"], tokens, batch["positions"], mask)
    return jax.nn.log_softmax(plain)


def gradients_too(cfg, params, batch, noise, counts, plain):
    """Asserts that loss and gradient are those of `plain(params)`."""
    value = lambda params: FAMILIES[cfg.family].objective.loss(cfg, params, {}, batch, noise, counts, 0)
    (found, sums), gradient = jax.jit(jax.value_and_grad(value, has_aux=True))(params)
    expected, expected_gradient = jax.jit(jax.value_and_grad(plain))(params)
    close(found, expected, atol=1e-5, rtol=1e-5)
    close(gradient, expected_gradient, atol=1e-4, rtol=1e-3)
    return sums


def test_the_next_token_loss_is_the_mean_over_tokens_inside_documents():
    cfg, params = setup("ar", data__packing="best_fit", backbone__num_layers=1)
    batch = packed(cfg, (8, 4))

    def plain(params):
        p = log_p(cfg, params, batch["tokens"], batch, causal=True)
        places = np.array([*range(7), *range(8, 11)])  # documents are 0..7 and 8..11
        return -jnp.mean(p[np.arange(4)[:, None], places, batch["tokens"][:, places + 1]])

    sums = gradients_too(cfg, params, batch, *drawn(cfg, batch), plain)
    assert sums["tokens"] == 4 * (7 + 3)
    metrics = ar.summarize(cfg, sums)
    assert metrics["perplexity"] == pytest.approx(np.exp(float(plain(params))), rel=1e-4)
    assert 0 <= metrics["accuracy"] <= 1


def test_rows_of_joined_documents_predict_all_but_their_first_token_and_no_padding():
    cfg, params = setup("ar", data__packing="concat")
    batch = batch_of(cfg)
    batch["weights"][3, 10:] = 0.0
    _, counts = drawn(cfg, batch)
    assert counts["tokens"] == 3 * 15 + 9
    padded = batch | {"tokens": np.where(batch["weights"] > 0, batch["tokens"], 5).astype(np.int32)}
    value = lambda batch: ar.loss(cfg, params, {}, batch, {}, counts, 0)[0]
    close(value(padded), value(batch))


@pytest.mark.parametrize("packing", ["concat", "best_fit"])
def test_the_masked_loss_is_cross_entropy_over_p_on_masked_tokens(packing):
    cfg, params = setup("llada", data__packing=packing, backbone__num_layers=1)
    batch = packed(cfg, (8, 4)) if packing == "best_fit" else batch_of(cfg)
    noise, counts = drawn(cfg, batch)
    real = batch["weights"] > 0
    assert counts["tokens"] == real.sum() and not np.asarray(noise["masked"])[~real].any()
    hidden = jnp.where(noise["masked"], MASK, batch["tokens"])

    def plain(params):
        p = log_p(cfg, params, hidden, batch, causal=False)
        own = jnp.take_along_axis(p, batch["tokens"][..., None], axis=-1)[..., 0]
        return -jnp.sum(own * noise["masked"] / noise["p"][:, None]) / real.sum()

    sums = gradients_too(cfg, params, batch, noise, counts, plain)
    metrics = llada.summarize(cfg, sums)
    assert metrics["bound"] == pytest.approx(float(plain(params)), rel=1e-4)
    assert sums["masked"] == np.asarray(noise["masked"]).sum()


def test_tokens_are_masked_with_their_rows_probability():
    cfg, _ = setup("llada", llada__random_length_probability=0.0)
    batch = batch_of(cfg, rows=3000)
    noise, _ = jax.jit(lambda: drawn(cfg, batch))()
    p, share = np.asarray(noise["p"]), np.asarray(noise["masked"]).mean(axis=1)
    assert 1e-3 <= p.min() < 0.01 and 0.99 < p.max() <= 1.0 and abs(p.mean() - 0.5005) < 0.02
    assert np.abs(share - p).mean() < 0.1 and np.corrcoef(share, p)[0, 1] > 0.9
    assert np.all(np.asarray(noise["length"]) == 16)


def test_now_and_then_a_whole_batch_is_cut_to_a_random_length():
    often, _ = setup("llada", llada__random_length_probability=0.25)
    batch = batch_of(often)
    draw = jax.jit(jax.vmap(lambda seed: drawn(often, batch, seed)[0]["length"]))
    lengths = np.asarray(draw(jnp.arange(2000)))
    assert np.all(lengths == lengths[:, :1]), "all rows of a batch are cut alike"
    cut = lengths[:, 0] < 16
    assert abs(cut.mean() - 0.25 * 15 / 16) < 0.03
    assert set(lengths[cut, 0]) == set(range(1, 16))


def test_a_cut_batch_has_the_loss_of_its_shorter_rows():
    cfg, params = setup("llada")
    batch = batch_of(cfg)
    noise, _ = drawn(cfg, batch)
    noise |= {"length": jnp.full(4, 10), "masked": noise["masked"] & (jnp.arange(16) < 10)}
    counts = {"tokens": jnp.float32(4 * 10)}
    cut = lambda x: x[:, :10] if x.ndim == 2 else x
    shorter, shorter_noise = ({name: cut(x) for name, x in tree.items()} for tree in (batch, noise))
    one = llada.loss(cfg, params, {}, batch, noise, counts, 0)
    other = llada.loss(cfg, params, {}, shorter, shorter_noise, counts, 0)
    close(one, other, atol=1e-4, rtol=1e-5)
    assert one[1]["tokens"] == 40


# --- writing ----------------------------------------------------------------------------------------------------------


def network(cfg, params):
    """tokens (L,) -> logits (L, V) of the plain network, compiled a length."""

    @jax.jit
    def run(tokens, causal):
        row = jnp.asarray(tokens)[None]
        segments, place = np.ones(row.shape, np.int32), np.arange(row.shape[1])[None]
        both = [plain_backbone.mask_of(segments, kind) for kind in (False, True)]
        mask = jnp.where(causal, both[1], both[0])
        return plain_backbone.logits(cfg.backbone, params["backbone"], row, place, mask)[0]

    return lambda tokens, causal: np.array(run(np.asarray(tokens, np.int32), causal))


def rows_of(cfg, params, prompts, **options):
    family = FAMILIES[cfg.family]
    found = [
        (new, details) for new, details in family.generator.generate(cfg, params, prompts, RowOptions(0, **options))
    ]
    return [sum((new[row] for new, _ in found), []) for row in range(len(prompts))], [details for _, details in found]


def test_cached_writing_is_that_of_whole_passes(monkeypatch):
    monkeypatch.setattr(ar, "CHUNK", 3)
    cfg, params = setup("ar", sampling__repetition_penalty=1.5, sampling__max_new_tokens=6)
    prompts, run = [[3, 1, 4], [1, 5, 9, 2, 6]], network(cfg, params)
    rows, stretches = rows_of(cfg, params, prompts)
    assert [stretch.tokens.shape for stretch in stretches] == [(2, 3), (2, 3)]
    log_probs = np.concatenate([stretch.log_probs for stretch in stretches], axis=1)
    for number, (prompt, row) in enumerate(zip(prompts, rows)):
        text = list(prompt)
        for place, token in enumerate(row):
            logits = run(text + [0] * (11 - len(text)), True)[len(text) - 1]
            seen = np.isin(np.arange(13), text[len(prompt) :])  # the penalty falls on new tokens alone
            penalized = np.where(seen, np.where(logits > 0, logits / 1.5, logits * 1.5), logits)
            assert token == penalized.argmax()
            expected = logits[token] - np.log(np.exp(logits).sum())
            assert log_probs[number, place] == pytest.approx(expected, abs=1e-4)
            text.append(token)


def test_an_empty_prompt_is_refused_by_the_model_that_has_no_first_token():
    with pytest.raises(PromptError, match="prompt 1 is empty"):
        rows_of(*setup("ar"), [[1], []])


def plain_unmasking(run, prompt, new, length, passes, guidance):
    """BASELINES 2 for one row, greedy, low confidence."""
    text, begin = [*prompt, *[MASK] * new], len(prompt)
    for block in range(begin, begin + new, length):
        for number in range(passes):
            fill = length // passes + (number < length % passes)
            logits = run(text, False)
            if guidance:
                unprompted = run([MASK] * begin + text[begin:], False)
                logits = unprompted + (guidance + 1) * (logits - unprompted)
            logits[:, MASK] = -np.inf
            p = np.exp(logits - logits.max(-1, keepdims=True))
            p /= p.sum(-1, keepdims=True)
            places = [i for i in range(block, block + length) if text[i] == MASK]
            for i in sorted(places, key=lambda i: -p[i].max())[:fill]:
                text[i] = int(p[i].argmax())
    return text[begin:]


@pytest.mark.parametrize(("length", "steps", "guidance"), [(0, 0, 0.0), (0, 3, 0.0), (4, 4, 0.0), (2, 8, 1.5)], ids=str)
def test_masks_are_filled_as_the_sampler_written_out_plainly_does(length, steps, guidance):
    cfg, params = setup("llada")
    blocks = 8 // (length or 8)
    chosen = replace(cfg, sampling__llada=cfg.sampling.llada.__class__(steps, length, "low_confidence", guidance))
    prompts, run = [[3, 1, 4], [7], [1, 5, 9, 2, 6]], network(cfg, params)
    rows, pieces = rows_of(chosen, params, prompts)
    assert [piece.shape for piece in pieces] == [(3, length or 8)] * blocks
    for prompt, row in zip(prompts, rows):
        assert row == plain_unmasking(run, prompt, 8, length or 8, (steps or 8) // blocks, guidance)


def test_random_remasking_fills_in_an_order_of_chance():
    params = setup("llada")[1]
    cfg, _ = setup("llada", sampling__llada__remasking="'random'")
    prompts = [[3, 1, 4]] * 12
    rows, _ = rows_of(cfg, params, prompts)
    assert len({tuple(row) for row in rows}) > 1, "greedy, but in another order for every sample"
    assert rows == rows_of(cfg, params, prompts)[0]
    assert all(MASK not in row for row in rows)


def test_the_mask_is_a_spare_id_that_text_may_not_hold():
    cfg, params = setup("llada")
    assert mask_id(cfg) == MASK and mask_id(replace(cfg, llada__mask_id=4)) == 4
    with pytest.raises(PromptError, match=r"prompt 1 holds token 12, the mask \(llada.mask_id\)"):
        rows_of(cfg, params, [[1], [2, 12]])
    always = jax.tree.map(jnp.array, params)
    always["backbone"]["logits"]["kernel"] = params["backbone"]["logits"]["kernel"].at[:, MASK].multiply(50.0)
    assert all(MASK not in row for row in rows_of(cfg, always, [[1, 2], [3]])[0])


# --- likelihood -------------------------------------------------------------------------------------------------------


def bound(cfg, params, prompts, answers, draws=0, samples=None):
    """LLaDA's (B,) bound; draws=0: its own number of them."""
    settings = MonteCarlo(draws, 1, "euler", "exact", "elbo")
    return llada.log_likelihood(cfg, params, prompts, answers, RowOptions(0, samples=samples), settings).log_p


def test_a_single_token_has_its_exact_likelihood_in_one_draw():
    cfg, params = setup("llada")
    run = network(cfg, params)
    found = bound(cfg, params, [[3, 1, 4], []], [[5], [7]])
    for row, (prompt, answer) in enumerate((([3, 1, 4], 5), ([], 7))):
        logits = run([*prompt, MASK], False)[-1]
        assert found[row] == pytest.approx(logits[answer] - np.log(np.exp(logits).sum()), abs=1e-4)


def test_the_likelihood_of_the_causal_model_is_the_sum_over_the_answers_tokens():
    cfg, params = setup("ar")
    run, pairs = network(cfg, params), [([3, 1, 4], [5, 2, 6]), ([7], [8])]
    settings = MonteCarlo(1, 1, "euler", "exact", "elbo")
    found = ar.log_likelihood(cfg, params, *zip(*pairs), RowOptions(0), settings)
    assert found.kind == "exact"
    for row, (prompt, answer) in enumerate(pairs):
        logits = run([*prompt, *answer], True)
        log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        expected = sum(log_p[len(prompt) + i - 1, token] for i, token in enumerate(answer))
        assert found.log_p[row] == pytest.approx(expected, abs=1e-4)
    padded = ar.log_likelihood(cfg, params, *zip(*pairs), RowOptions(0, prompt_tokens=32), settings)
    close(padded.log_p, found.log_p, atol=1e-4)
    for prompts, answers, named in (([[]], [[1]], "prompt 0"), ([[1]], [[]], "answer 0")):
        with pytest.raises(PromptError, match=f"{named} is empty"):
            ar.log_likelihood(cfg, params, prompts, answers, RowOptions(0), settings)


def test_the_likelihood_estimate_has_the_mean_over_lengths_and_subsets():
    cfg, params = setup("llada")
    run, prompt, answer = network(cfg, params), [3, 1, 4], [5, 2]

    def log_of(hidden):
        text = [*prompt, *(MASK if i in hidden else token for i, token in enumerate(answer))]
        logits = run(text, False)
        return sum(logits[3 + i, answer[i]] - np.log(np.exp(logits[3 + i]).sum()) for i in hidden)

    together, alone = log_of((0, 1)), [2 * log_of((i,)) for i in (0, 1)]  # (A / l) sum log p
    found = bound(cfg, params, [prompt] * 40, [answer] * 40, draws=2)
    possible = [(together + one) / 2 for one in alone]  # the grid of lengths takes each once
    distance = np.abs(found[:, None] - np.array(possible))
    assert np.all(distance.min(axis=1) < 1e-3)
    assert {0, 1} == set(distance.argmin(axis=1))
    many = bound(cfg, params, [prompt] * 8, [answer] * 8)
    assert many.mean() == pytest.approx(np.mean(possible), abs=4 * np.std(possible) / np.sqrt(8 * 64) + 1e-3)


def test_the_likelihood_of_a_row_does_not_depend_on_the_others():
    cfg, params = setup("llada")
    pairs = [([1, 2], [3, 4, 5]), ([6], [7]), ([], [8, 9, 1, 2])]
    whole = bound(cfg, params, *zip(*pairs), draws=4)
    for number, (prompt, answer) in enumerate(pairs):
        alone = bound(cfg, params, [prompt], [answer], draws=4, samples=[number])
        assert alone[0] == pytest.approx(whole[number], abs=1e-4)
    with pytest.raises(PromptError, match="answer 1 is empty"):
        bound(cfg, params, [[1], [2]], [[3], []])
