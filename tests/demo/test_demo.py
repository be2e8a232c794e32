"""The demo from an empty folder to its report, with a model far too small to write."""

import io
import json

import jax
import numpy as np
import pytest

from cola_jax import runs, storage
from cola_jax.config import ConfigError
from cola_jax.demo.demo import Clock, demo, evaluate, stage_configs
from cola_jax.demo.world_report import ReportPlan
from cola_jax.errors import Preempted
from cola_jax.train.checkpoint import load_params
from cola_jax.train.loop import RunSummary
from cola_jax.train.metrics import read_metrics
from cola_jax.train.stored import CheckpointError

SMALL = [
    ("tokenizer.kind", "bytes"),
    ("vae.vocab_size", "258"),
    ("vae.dim", "16"),
    ("vae.ffn_dim", "24"),
    ("vae.num_heads", "2"),
    ("vae.encoder_blocks", "1"),
    ("vae.decoder_blocks", "1"),
    ("vae.latent_dim", "4"),
    ("dit.dim", "16"),
    ("dit.num_layers", "1"),
    ("dit.num_heads", "2"),
    ("dit.head_dim", "8"),
    ("dit.rope_dim", "8"),
    ("train.steps", "2"),
    ("train.log_every", "1"),
    ("train.batch_size", "4"),
    ("train.eval_every", "0"),
    ("train.sequence_length", "256"),
    ("objective.mask_weight", "0.0"),
    ("flow.known_prefix_probability", "0.0"),
    ("compute.cross_entropy_chunk", "256"),
    ("compute.attention_chunks", "1"),
    ("data.generated_documents", "30"),
    ("data.heldout_documents", "10"),
    ("sampling.steps", "2"),
    ("sampling.max_new_tokens", "8"),
]
PLAN = ReportPlan(
    headline_prompts=3, sweep_prompts=2, batch_size=2, guidances=(2.0,), steps=(), noise_levels=3, heldout_batches=1
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir, stream = tmp_path_factory.mktemp("demo"), io.StringIO()
    return workdir, demo(workdir, seed=3, overrides=SMALL, stream=stream, plan=PLAN), stream.getvalue()


@pytest.mark.slow
def test_a_demo_in_a_bucket_is_that_on_a_disk(finished, bucket):
    workdir, figures, _ = finished
    found = demo(bucket, seed=3, overrides=SMALL, stream=io.StringIO(), plan=PLAN)
    assert found["headline"] == figures["headline"] and found["sweep"] == figures["sweep"]
    page = storage.read_text(bucket / "report" / "index.html")
    assert page.count("data:image/png;base64,") == (workdir / "report" / "index.html").read_text().count(
        "data:image/png"
    )
    assert storage.read_json(bucket / "report" / "figures.json")["headline"]


@pytest.mark.slow
def test_both_stages_are_trained_the_second_from_the_first(finished):
    workdir, _, said = finished
    for stage, terms in (("vae", {"reconstruction", "kl"}), ("joint", {"reconstruction", "flow_matching"})):
        lines = read_metrics(workdir / stage)
        assert [line["step"] for line in lines if "loss" in line] == [1, 2] and terms <= set(lines[0])
    config, params = load_params(workdir / "joint")
    assert set(params) == {"encoder", "decoder", "dit"} and config["train"]["init_from"] == str(workdir / "vae")
    first = load_params(workdir / "vae")[1]
    assert any(np.any(a != b) for a, b in zip(jax.tree.leaves(first), jax.tree.leaves({g: params[g] for g in first})))
    assert "stage 1 (vae) took" in said and "stage 2 (joint) took" in said


@pytest.mark.slow
def test_one_call_runs_both_stages_and_writes_the_report(finished):
    workdir, figures, said = finished
    assert json.loads((workdir / "report" / "figures.json").read_text()) == figures
    page = (workdir / "report" / "index.html").read_text()
    names = sorted(path.name for path in (workdir / "report").glob("*.png"))
    assert names == ["latents.png", "losses.png", "noise.png", "sweep.png", "trace.png"] and all(
        n in page for n in names
    )
    assert [(row["guidance"], row["steps"]) for row in figures["sweep"]] == [(2.0, 2)]
    assert len(figures["noise"]["accuracy"]) == 3 and len(figures["trace"]) == 2
    assert "well-formed sentences: " in said and "entailed answers: " in said and "(chance " in said
    assert str(workdir / "report" / "index.html") in said
    assert len(figures["seconds"]) == 5 and all(f"{name} took" in said for name in figures["seconds"])


@pytest.mark.slow
def test_a_second_call_trains_nothing_and_finds_the_same(finished):
    workdir, figures, _ = finished
    stream = io.StringIO()
    again = demo(workdir, seed=3, overrides=SMALL, stream=stream, plan=PLAN)
    assert stream.getvalue().count("all 2 steps are already done") == 2
    same = ("headline", "questions", "by_question", "sweep", "noise", "trace")
    assert {name: again[name] for name in same} == {name: figures[name] for name in same}


def test_the_seed_is_that_of_both_stages_and_leaves_the_data_alone(tmp_path):
    plain, seeded = stage_configs(tmp_path, None, []), stage_configs(tmp_path, 5, [("train.batch_size", "8")])
    assert [cfg.seed for cfg in seeded.values()] == [5, 5]
    assert [cfg.data for cfg in seeded.values()] == [cfg.data for cfg in plain.values()]
    assert [cfg.train.batch_size for cfg in seeded.values()] == [8, 8]
    assert seeded["joint"].train.init_from == str(tmp_path / "vae")


def test_a_stage_that_was_stopped_ends_the_demo(tmp_path, monkeypatch):
    calls = []

    def stopped(cfg, workdir, stream):
        calls.append(workdir)
        return RunSummary(1, True, {}, {})

    monkeypatch.setattr(runs, "run_training", stopped)
    stream = io.StringIO()
    with pytest.raises(Preempted):
        demo(tmp_path, stream=stream)
    assert calls == [tmp_path / "vae"] and "the same command continues" in stream.getvalue()


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        (("family", "cola"), "family: the demo sets"),
        (("objective.vae_from", "x"), "objective.vae_from: the demo sets"),
        (("data.sources.0.kind", "pydocs"), "data.sources.kind is pydocs"),
        (("train.stepz", "3"), "train.stepz"),
    ],
)
def test_overrides_that_do_not_fit_are_refused_before_anything_is_written(tmp_path, assignment, message):
    with pytest.raises(ConfigError, match=message):
        demo(tmp_path / "new", overrides=[assignment], stream=io.StringIO())
    assert not (tmp_path / "new").exists()


def test_without_a_checkpoint_there_is_one_clear_error(tmp_path):
    with pytest.raises(CheckpointError, match="joint"):
        evaluate(tmp_path, PLAN, Clock(io.StringIO()))
