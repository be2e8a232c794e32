"""Configs side by side: the published four, a pair that is alike, and what is said of a pair that is not."""

import json
import re

import pytest

from cola_jax import cli
from cola_jax.runs import comparison

SPECS = ["cola_2b:joint,P,W", "ar_2b:P", "llada_2b:P", "plaid_2b:P"]


@pytest.fixture(scope="module")
def published():
    return comparison.compare_runs(SPECS)


def test_the_published_sizes_are_matched_in_their_core_and_recipe(published):
    figures = published["figures"]
    assert figures["family"] == ["cola", "ar", "llada", "plaid"]
    assert figures["core matrices"][1:] == [1_811_939_328] * 3
    assert figures["core matrices"][0] == pytest.approx(1_811_939_328, rel=1e-4)
    assert figures["embeddings"] == [
        308_054_016 + 1536 + 100_278,
        410_738_688,
        410_738_688,
        2048 * 100_278 + 16 * 100_278,
    ]
    assert figures["parameters"][:3] == [2_331_747_302, 2_222_790_656, 2_222_790_656]
    for column in range(4):
        parts = sum(figures[name][column] for name in ("embeddings", "core matrices", "VAE", "rest"))
        assert parts == figures["parameters"][column]
    assert figures["tokens per step"] == [720_896] * 4
    assert not [said for said in published["not_matched"] if said.startswith(("core", "data", "train", "optimizer"))]


def test_what_is_not_matched_is_said(published):
    said = " ".join(published["not_matched"])
    assert "parameters: the largest is 1." in said and "FLOPs per token: the largest is" in said
    assert set(published["fields"]) >= {"family", "sampling.repetition_penalty", "train.init_from"}


def test_fields_that_no_family_reads_are_left_out_and_others_differ_by_name():
    pair = comparison.compare_runs(["ar_2b:P", "llada_2b:P"])
    assert pair["fields"] == {"family": ["ar", "llada"], "sampling.repetition_penalty": [1.1, 1.0]}
    assert pair["not_matched"] == ["FLOPs per token: the largest is {:.3f} times the smallest".format(
        max(pair["figures"]["FLOPs per token"]) / min(pair["figures"]["FLOPs per token"]))]  # fmt: skip
    alike = comparison.compare_runs(["ar_2b:P", "ar_2b:P"])
    assert (alike["fields"], alike["not_matched"]) == ({}, [])


def test_a_recipe_that_differs_is_not_matched(tmp_path):
    file = tmp_path / "other.py"
    file.write_text(
        "from cola_jax import config\n\n\ndef get_config(arg=None):\n    c = config.load('ar_2b:P')\n"
        "    c.optimizer.learning_rate = 1e-3\n    c.train.steps = 10\n    c.backbone.num_layers = 3\n    return c\n"
    )
    said = comparison.compare_runs(["ar_2b:P", str(file)])["not_matched"]
    assert {"optimizer.learning_rate differs", "train.steps differs"} <= set(said)
    assert any(sentence.startswith("core matrices differ: ") for sentence in said)
    assert any(sentence.startswith("tokens of the run differ: ") for sentence in said)


def test_the_command_prints_tables_or_json(capsys):
    assert cli.main(["compare", "ar_2b:P", "llada_2b:P"]) == 0
    text = capsys.readouterr().out
    assert re.search(r"core matrices +1,811,939,328 +1,811,939,328\n", text)
    assert "not matched:" in text and "sampling.repetition_penalty" in text
    assert cli.main(["compare", "--json", "ar_2b:P"]) == 0
    assert json.loads(capsys.readouterr().out)["figures"]["parameters"] == [2_222_790_656]
    assert cli.main(["compare", "nowhere"]) == 2
