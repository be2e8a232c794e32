"""Variety and repetition of texts by hand, and perplexity under a judge."""

import json

import numpy as np
import pytest
import small_world
import tiny

from cola_jax import cli
from cola_jax.config import ConfigError
from cola_jax.data.errors import DataError
from cola_jax.data.tokenizers import BytesTokenizer
from cola_jax.evaluate import quality, variety
from cola_jax.evaluate.quality import Written
from cola_jax.families import ar
from cola_jax.families.likelihood import MonteCarlo
from cola_jax.families.rows import RowOptions
from cola_jax.runs.writer import Writer

STORY = "Anna was in the kitchen. Anna went to the garden. Where is Anna? Answer: the garden."


def test_distinct_ngrams_fall_with_repetition_within_and_between_texts():
    assert variety.distinct(["a b c d"], 1) == variety.distinct(["a b c d"], 4) == 1.0
    assert variety.distinct(["a b a b a"], 1) == 0.4 and variety.distinct(["a b a b a"], 2) == 0.5
    assert variety.distinct(["a b c", "a b c"], 3) == 0.5
    assert variety.distinct(["a"], 2) == variety.distinct([], 1) == 0.0


def test_self_repetition_is_within_a_text_and_not_between_them():
    assert variety.self_repetition(["a b c d", "a b c d"], 4) == 0.0
    assert variety.self_repetition(["a b c d a b c d"], 4) == pytest.approx(1 / 5)
    assert variety.self_repetition(["a a a a a a", "a b c d", "a"], 4) == pytest.approx((2 / 3 + 0) / 2)
    assert variety.self_repetition(["a"], 4) == 0.0


def test_stories_are_checked_where_that_is_asked_for():
    written = [Written(STORY[:24], STORY[24:]), Written(STORY[:24], " Anna kitchen the.")]
    told = quality.figures(written, checker=True)
    assert told["entailed"] == 0.5 and 0 < told["well_formed"] < 1 and told["texts"] == 2
    assert "entailed" not in quality.figures(written, checker=False)
    assert quality.figures([Written("", " ")], checker=False)["empty"] == 1


@pytest.fixture(scope="module")
def judge():
    cfg = tiny.config(family="ar", backbone__vocab_size=258, tokenizer__kind="bytes", backbone__num_layers=1)
    return Writer(cfg, tiny.parameters(cfg), BytesTokenizer())


def test_the_judge_reads_texts_behind_their_prompts(judge):
    written = [Written("Anna", " has"), Written("", "it"), Written("x", "")]
    told = quality.generative_perplexity(judge, written, batch_size=2)
    prompts, answers = [list(b"Anna"), [257]], [list(b" has"), list(b"it")]
    exact = ar.log_likelihood(judge.cfg, judge.params, prompts, answers, RowOptions(256),
                              MonteCarlo(0, 1, "euler", "exact", "elbo")).log_p  # fmt: skip
    assert told["generative_tokens"] == 6
    assert told["generative_nats_per_token"] == pytest.approx(-exact.sum() / 6, rel=1e-4)
    assert told["generative_perplexity"] == pytest.approx(np.exp(-exact.sum() / 6), rel=1e-4)
    with pytest.raises(DataError, match="every text is empty"):
        quality.generative_perplexity(judge, [Written("x", "")], 2)
    with pytest.raises(ConfigError, match="family 'cola': generative perplexity needs an exact judge"):
        quality.generative_perplexity(small_world.writer(), written, 2)


def test_the_command_reads_what_generate_and_evaluate_write(capsys, tmp_path):
    path = tmp_path / "out.jsonl"
    path.write_text('{"prompt": "a", "continuation": " b c"}\n{"prompt": "a", "generate": " b d"}\n')
    assert cli.main(["quality", str(path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["texts"], told["distinct_1"], told["words_per_text"]) == (2, 0.75, 2.0)
    path.write_text('{"prompt": "a"}\n')
    for arguments, part in ((("--json",), "line 1: a record needs a text continuation"),
                            (("--judge-step", "3"), "--judge-step needs --judge")):  # fmt: skip
        assert cli.main(["quality", str(path), *arguments]) == 2
        assert part in capsys.readouterr().err
