"""What a run may start from: any groups of any run, released folders, LLaMA folders; and what is refused."""

import dataclasses
import io
from pathlib import Path

import jax
import numpy as np
import pytest
from raw_checkpoint import assert_params
from tiny import close, config

from cola_jax import runs
from cola_jax.config import ConfigError
from cola_jax.data import tokenizers
from cola_jax.interop import llama
from cola_jax.parallel.mesh import make_mesh
from cola_jax.runs import starts
from cola_jax.train.metrics import read_metrics
from cola_jax.train.stored import CheckpointError, steps_in
from cola_jax.train.workdir import WorkdirError

pytestmark = pytest.mark.slow

GOLDENS = Path(__file__).parents[1] / "data" / "goldens"
SMALL = {
    "train__steps": 4, "train__log_every": 1, "train__eval_every": 0, "train__plot_every": 0, "tokenizer__kind": "bytes",
    "data__generated_documents": 20, "data__heldout_documents": 8, "checkpoint__every": 2, "optimizer__warmup_steps": 1,
    "optimizer__schedule": "constant",
}  # fmt: skip


def small(family, **changes):
    words = "vae__vocab_size" if family in ("text_vae", "cola") else "backbone__vocab_size"
    return config(family=family, **SMALL | {words: 300} | changes)


def train(cfg, workdir):
    stream = io.StringIO()
    return runs.run_training(cfg, workdir, stream), stream.getvalue()


def start_of(cfg):
    return starts.find(cfg, make_mesh(cfg.mesh, jax.devices()[:1]))


@pytest.fixture(scope="module")
def trunks(tmp_path_factory):
    """Small runs of two families."""
    folder = tmp_path_factory.mktemp("trunks")
    for family in ("cola", "ar"):
        train(small(family), folder / family)
    return {family: folder / family for family in ("cola", "ar")}


def quoted(path):
    return f"'{path}'"


def test_any_groups_of_a_run_can_be_taken_over(trunks):
    for groups in (("dit",), ("encoder", "dit"), ()):
        cfg = small("cola", train__init_from=quoted(trunks["cola"]), train__init_groups=repr(groups))
        assert_params(start_of(cfg).params, trunks["cola"], 4, groups or ("encoder", "decoder", "dit"))


def test_llada_starts_from_the_backbone_of_an_autoregressive_run(trunks, tmp_path):
    cfg = small("llada", train__init_from=quoted(trunks["ar"]), train__steps=1)
    assert_params(start_of(cfg).params, trunks["ar"], 4, ("backbone",))
    summary, _ = train(cfg, tmp_path)
    assert summary.step == 1 and read_metrics(tmp_path)[0]["step"] == 1, "from step 0, with the first batch"


def test_a_step_of_a_run_can_be_named(trunks):
    for named, step in (({"train__init_step": 2}, 2), ({}, 4)):
        found = start_of(small("ar", train__init_from=quoted(trunks["ar"]), **named)).params
        assert_params(found, trunks["ar"], step, ("backbone",))
    with pytest.raises(CheckpointError, match="no checkpoint of step 3"):
        start_of(small("ar", train__init_from=quoted(trunks["ar"]), train__init_step=3))


def test_digits_alone_are_text_where_a_field_is_text():
    assert small("cola", objective__vae_from="20240101").train.init_from == "20240101"


def test_a_llama_folder_is_a_start_for_ar(tmp_path):
    net = llama.read_config(GOLDENS / "llama")
    cfg = dataclasses.replace(small("ar", train__init_from=quoted(GOLDENS / "llama")), backbone=net)
    close(start_of(cfg).params, llama.read(GOLDENS / "llama", net), atol=0, rtol=0)
    wrong = dataclasses.replace(cfg, backbone=dataclasses.replace(net, rope_theta=7.0))
    with pytest.raises(ConfigError, match=r"holds another model .*backbone\.rope_theta"):
        start_of(wrong)


def test_a_released_folder_gives_vae_and_dit(tmp_path):
    from cola_jax.interop import released

    vae, dit = (
        released.read_vae_config(GOLDENS / "base" / "cola_vae"),
        released.read_dit_config(GOLDENS / "base" / "cola_dit"),
    )
    cfg = dataclasses.replace(small("cola", train__init_from=quoted(GOLDENS / "base")), vae=vae, dit=dit)
    found = start_of(cfg).params
    close(found["dit"], released.read_dit(GOLDENS / "base" / "cola_dit", dit)["dit"], atol=0, rtol=0)
    only = dataclasses.replace(cfg, train=dataclasses.replace(cfg.train, init_groups=("encoder", "decoder")))
    assert set(start_of(only).params) == {"encoder", "decoder"}


@pytest.mark.parametrize("family,source,changes,message", [
    ("ar", "cola", {}, "nothing that family 'ar' has"),
    ("ar", "ar", {"train__init_groups": "('dit',)"}, "train.init_groups has dit; family 'ar' has backbone"),
    ("cola", "ar", {"train__init_groups": "('dit',)"}, "has no dit"),
    ("llada", "ar", {"train__init_continue": True}, "is a run of family 'ar': train.init_continue continues the same"),
    ("ar", "ar", {"backbone__ffn_dim": 32}, r"holds another model .*backbone\.ffn_dim: 24 -> 32"),
])  # fmt: skip
def test_what_does_not_fit_is_refused_before_anything_is_written(trunks, tmp_path, family, source, changes, message):
    cfg = small(family, train__init_from=quoted(trunks[source]), **changes)
    with pytest.raises(ConfigError, match=message):
        train(cfg, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("field", [{"train__init_continue": True}, {"train__init_step": "best"}])
def test_weights_alone_have_no_steps(field):
    net = llama.read_config(GOLDENS / "llama")
    cfg = dataclasses.replace(small("ar", train__init_from=quoted(GOLDENS / "llama"), **field), backbone=net)
    with pytest.raises(ConfigError, match="is for workdirs"):
        start_of(cfg)


def test_a_cooldown_branch_goes_on_from_its_trunk_and_ends_at_the_final_rate(trunks, tmp_path):
    changes = {
        "train__init_from": quoted(trunks["ar"]), "train__init_step": 2, "train__init_continue": True, "train__steps": 6,
        "optimizer__schedule": "wsd", "optimizer__decay_steps": 0, "optimizer__cooldown_steps": 4,
    }  # fmt: skip
    summary, said = train(small("ar", **changes), tmp_path)
    lines = [line for line in read_metrics(tmp_path) if "loss" in line]
    assert summary.step == 6 and [line["step"] for line in lines] == [3, 4, 5, 6] and "continuing from step 2" in said
    trunk = {line["step"]: line["loss"] for line in read_metrics(trunks["ar"]) if "loss" in line}
    assert lines[0]["loss"] == trunk[3], "the same data and parameters as the trunk's third step"
    rates = [line["learning_rate"] for line in lines]
    cfg = small("ar").optimizer
    falls = cfg.learning_rate - (cfg.learning_rate - cfg.final_learning_rate) * np.sqrt(np.arange(4) / 4)
    np.testing.assert_allclose(rates, falls, rtol=1e-5)
    assert tokenizers.load(tmp_path / "tokenizer").kind == "bytes"
    again, said = train(small("ar", **changes | {"train__steps": 6}), tmp_path)
    assert "all 6 steps are already done" in said and again.step == 6


def test_a_refused_first_start_leaves_nothing_that_the_next_one_reads(tmp_path):
    wrong = small("ar", tokenizer__kind="sentencepiece", tokenizer__vocab_size=100_000)
    with pytest.raises(ValueError):
        train(wrong, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match="best_metric"):
        train(small("ar", checkpoint__best_metric="losss", train__eval_every=2), tmp_path / "run")
    assert not (tmp_path / "run" / "tokenizer").exists() and not steps_in(tmp_path / "run" / "checkpoints")
    summary, _ = train(small("ar", train__steps=1), tmp_path / "run")
    assert summary.step == 1


def test_another_tokenizer_than_the_one_a_run_has_begun_with_is_refused(trunks):
    cfg = small("ar")
    other = dataclasses.replace(cfg, tokenizer=dataclasses.replace(cfg.tokenizer, kind="file", path="x.json"))
    with pytest.raises(WorkdirError, match=r"tokenizer\.kind: 'bytes' -> 'file'"):
        train(other, trunks["ar"])
