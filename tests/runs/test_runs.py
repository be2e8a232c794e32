"""A run from its config: text files in, both stages, text out; and what it refuses to start from."""

import dataclasses
import io
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from raw_checkpoint import assert_params
from tiny import close, config

from cola_jax import runs
from cola_jax.config import ConfigError, differences, load, override, resolve
from cola_jax.data import tokenizers
from cola_jax.families import FAMILIES
from cola_jax.interop import released
from cola_jax.parallel.mesh import make_mesh
from cola_jax.runs import starts, training
from cola_jax.runs.writer import Writer
from cola_jax.train.checkpoint import load_params
from cola_jax.train.metrics import read_metrics
from cola_jax.train.workdir import TOKENIZER

GOLDEN = Path(__file__).parents[1] / "data" / "goldens" / "base"


def cfg_of(text_config, stage, **changes):
    tree = load(f"{text_config}:{stage}")
    return resolve(override(tree, [(path.replace("__", "."), str(value)) for path, value in changes.items()]))


def run(cfg, workdir):
    stream = io.StringIO()
    return runs.run_training(cfg, workdir, stream), stream.getvalue()


def refused(cfg, workdir, error=ConfigError):
    with pytest.raises(error) as refusal:
        run(cfg, workdir)
    assert "\n" not in str(refusal.value)
    assert not (Path(workdir) / "config.json").exists(), "a refused run leaves no claim on its workdir"
    return str(refusal.value)


def test_text_files_become_a_writer_in_two_stages(trained):
    for stage, terms in (("vae", {"reconstruction", "kl"}), ("joint", {"flow_matching", "log_q"})):
        lines = read_metrics(trained[stage])
        assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3]
        assert terms <= set(lines[0])
        assert any("heldout/loss" in line for line in lines) == (stage == "vae")
        assert all(np.isfinite(value) for line in lines for value in line.values())
    [text] = Writer.load(trained["joint"]).write(["Anna has "])
    assert isinstance(text, str) and len(text.encode()) <= 3 * 10


def test_the_second_stage_starts_from_the_first_ones_vae(trained, text_config, tmp_path, monkeypatch):
    """What the trainer is given, compared with what the first stage's last checkpoint holds. It trains that further."""
    given = {}

    def watched(*_, params_init, **more):
        given.update(params_init)
        return runs.RunSummary(0, False, {}, {})

    monkeypatch.setattr(training, "train", watched)
    run(cfg_of(text_config, f"joint,{trained['vae']}"), tmp_path)
    assert_params(given, trained["vae"], 3, ("encoder", "decoder"))
    second = load_params(trained["joint"])[1]
    for group in ("encoder", "decoder"):
        moved = jax.tree.map(lambda a, b: float(abs(a - b).max()), given[group], second[group])
        assert max(jax.tree.leaves(moved)) > 0


def test_the_tokenizer_of_the_vae_is_taken_over_and_another_one_refused(trained, text_config, tmp_path):
    assert tokenizers.load(trained["joint"] / TOKENIZER).vocab_size == 258
    pieces = cfg_of(text_config, f"joint,{trained['vae']}", tokenizer__kind="sentencepiece", tokenizer__vocab_size=300)
    assert "tokenizer.kind: 'bytes' -> 'sentencepiece'" in refused(pieces, tmp_path / "joint")


def test_another_vae_than_the_configs_is_refused_with_the_differences(trained, text_config, tmp_path):
    cfg = cfg_of(text_config, f"joint,{trained['vae']}", vae__latent_dim=8, vae__block__init_std=0.5)
    message = refused(cfg, tmp_path)
    assert f"train.init_from={str(trained['vae'])!r} holds another VAE (theirs -> config)" in message
    assert "vae.latent_dim: 4 -> 8" in message and "vae.block.init_std: 0.3 -> 0.5" in message


def test_a_folder_that_is_no_vae_is_refused(text_config, tmp_path):
    cfg = cfg_of(text_config, f"joint,{tmp_path}")
    assert "is neither a workdir nor a folder of released or LLaMA form" in refused(cfg, tmp_path / "joint")


def test_a_released_folder_gives_its_vae_in_the_form_that_training_starts_from():
    vae = released.read_vae_config(GOLDEN / "cola_vae")
    cfg = dataclasses.replace(config(objective__vae_from=f"'{GOLDEN}'"), vae=vae)
    mesh = make_mesh(cfg.mesh, jax.devices()[:1])
    given = starts.find(cfg, mesh).params
    close(given, released.read_vae(GOLDEN / "cola_vae", vae), atol=0, rtol=0)
    drawn = jax.eval_shape(lambda: FAMILIES["text_vae"].objective.init(cfg, jax.random.PRNGKey(0)))
    assert jax.tree.structure(given) == jax.tree.structure(drawn)
    assert [x.shape for x in jax.tree.leaves(given)] == [x.shape for x in jax.tree.leaves(drawn)]
    cfg = dataclasses.replace(cfg, vae=config().vae)
    with pytest.raises(ConfigError, match=r"vae\.latent_dim: 8 -> 4"):
        starts.find(cfg, mesh)


def test_a_finished_run_is_not_trained_again_and_another_config_is_refused(trained, text_config):
    summary, said = run(cfg_of(text_config, "vae"), trained["vae"])
    assert "all 3 steps are already done" in said and not summary.interrupted
    with pytest.raises(ValueError, match=r"vae\.dim: 16 -> 32"):
        run(cfg_of(text_config, "vae", vae__dim=32), trained["vae"])


def test_a_workdir_carries_config_tokenizer_and_checkpoints(trained):
    for workdir in trained.values():
        assert {"config.json", "metrics.jsonl", "tokenizer", "checkpoints"} <= {path.name for path in workdir.iterdir()}
    raw = [json.loads((trained[stage] / "config.json").read_text()) for stage in ("vae", "joint")]
    changed = {line.split(":")[0] for line in differences(*raw)}
    assert changed == {
        "family", "train.init_from", "train.init_groups", "train.eval_every", "train.eval_batches",
        *(path for path in changed if path.startswith(("dit.", "sampling."))),
    }  # fmt: skip
    assert "dit.dim" in changed
