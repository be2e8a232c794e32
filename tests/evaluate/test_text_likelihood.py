"""Likelihoods by command: pairs of held-out text and of a file, their sums, and what cannot be asked."""

import json

import numpy as np
import pytest
import small_world
import tiny

from cola_jax import cli
from cola_jax.config import ConfigError
from cola_jax.data.errors import DataError
from cola_jax.data.tokenizers import BytesTokenizer
from cola_jax.evaluate import text_likelihood as told
from cola_jax.evaluate.text_likelihood import estimate_likelihood
from cola_jax.families import ar
from cola_jax.families.likelihood import MonteCarlo
from cola_jax.families.rows import RowOptions
from cola_jax.runs.writer import Writer

EFFORT = MonteCarlo(1, 1, "euler", "exact", "elbo")


@pytest.fixture(scope="module")
def writer():
    shared = ("tokenizer", "data", "train")
    changes = {name: value for name, value in small_world.CHANGES.items() if name.split("__")[0] in shared}
    changes |= {"train__sequence_length": 256}
    cfg = tiny.config(family="ar", backbone__vocab_size=258, **changes)
    return Writer(cfg, tiny.parameters(cfg), BytesTokenizer())


def test_heldout_documents_are_told_of_behind_their_first_tokens(writer):
    pairs = told.pairs_of_heldout(writer, 16, 5)
    assert len(pairs) == 5 and all(len(pair.prompt) == 16 for pair in pairs)
    texts = [writer.tokenizer.decode(pair.prompt + pair.answer) for pair in pairs]
    assert all("? Answer: " in text and text.endswith(".") for text in texts)
    assert all(pair.answer[-1] == writer.tokenizer.eos_id for pair in pairs)
    with pytest.raises(DataError, match="no held-out document has more than --prompt-tokens 4000"):
        told.pairs_of_heldout(writer, 4000, 5)


def test_pairs_are_measured_in_order_whatever_the_batch(writer):
    pairs = told.pairs_of_heldout(writer, 16, 5)
    rows = told.measure(writer, pairs, EFFORT, 0, 2)
    direct = ar.log_likelihood(writer.cfg, writer.params, [p.prompt for p in pairs], [p.answer for p in pairs],
                               RowOptions(256), EFFORT).log_p  # fmt: skip
    np.testing.assert_allclose([row["log_p"] for row in rows], direct, rtol=1e-4)
    assert [row["tokens"] for row in rows] == [len(pair.answer) for pair in pairs]
    assert [row["bytes"] for row in rows] == [len(pair.answer) - 1 for pair in pairs], "a byte a token, and the end"
    figures = told.summarize(rows, 0)
    assert figures["nats_per_token"] == pytest.approx(-direct.sum() / sum(len(p.answer) for p in pairs), rel=1e-4)
    assert figures["perplexity"] == pytest.approx(np.exp(figures["nats_per_token"]))
    assert figures["low"] < figures["nats_per_token"] < figures["high"] and figures["kind"] == "exact"
    assert figures["bits_per_byte"] > figures["nats_per_token"] / np.log(2)


def test_the_perplexity_of_table_4():
    row = {"tokens": 1, "bytes": 4, "log_p": 4.74 - 18.70, "kind": "bound"}
    assert told.summarize([row], 0)["perplexity"] == pytest.approx(1.15e6, rel=0.01)


def test_likelihood_of_texts_in_python_is_that_of_the_same_records(writer, tmp_path):
    (tmp_path / "p.jsonl").write_text('{"prompt": "Anna has", "answer": " 3."}\n')
    pairs = told.pairs_of_records(writer, tmp_path / "p.jsonl", None)
    expected = told.measure(writer, pairs, told.settings_of("ar", {}), 0, 1)
    assert estimate_likelihood(writer, [("Anna has", " 3.")]) == expected
    with pytest.raises(ConfigError, match="draws: not read by family 'ar'"):
        estimate_likelihood(writer, [("Anna has", " 3.")], draws=3)
    with pytest.raises(DataError, match="text 0: .* no token for the answer"):
        estimate_likelihood(writer, [("Anna has", "")])


def test_pairs_of_a_file_are_its_prompts_and_answers(writer, tmp_path):
    (tmp_path / "p.jsonl").write_text('{"prompt": "Anna has", "answer": " 3."}\n{"answer": "x"}\n')
    first, second = told.pairs_of_records(writer, tmp_path / "p.jsonl", None)
    assert (bytes(first.prompt), bytes(first.answer)) == (b"Anna has", b" 3.")
    assert (second.prompt, bytes(second.answer)) == ((), b"x")


def test_what_a_family_does_not_read_is_refused():
    with pytest.raises(ConfigError, match="steps: not read by family 'llada', which reads draws"):
        told.settings_of("llada", {"draws": 3, "steps": 4, "solver": None})
    with pytest.raises(ConfigError, match="family 'text_vae' estimates no likelihood"):
        told.settings_of("text_vae", {})
    assert told.settings_of("cola", {"draws": 3, "steps": None}) == MonteCarlo(3, 32, "heun", "hutchinson", "elbo")


def test_the_command_tells_of_heldout_text_and_writes_a_line_a_text(capsys, trained, tmp_path):
    command = ["likelihood", "--workdir", str(trained["joint"]), "--limit", "3", "--batch-size", "3", "--steps", "1",
               "--draws", "2", "--solver", "euler", "--output", str(tmp_path / "out.jsonl"), "--json"]  # fmt: skip
    capsys.readouterr()
    assert cli.main(command) == 0
    figures = json.loads(capsys.readouterr().out)
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert len(rows) == figures["texts"] == 3 and figures["kind"] == "difference" and figures["family"] == "cola"
    terms = figures["log_decoder_per_token"] + figures["log_prior_per_token"] - figures["log_posterior_per_token"]
    assert figures["nats_per_token"] == pytest.approx(-terms, rel=1e-4)
    assert cli.main([*command[:3], "--draws", "0"]) == 2
    assert "--draws 0 must be at least 1" in capsys.readouterr().err
