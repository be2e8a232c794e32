"""The baselines by the command line: one prepared corpus, the published configs at tiny sizes, training and writing."""

import json

import jax
import numpy as np
import pytest
from tiny import close

from cola_jax import cli, config
from cola_jax.config import ConfigError, differences
from cola_jax.interop import llama
from cola_jax.runs.writer import Writer
from cola_jax.train.checkpoint import load_params
from cola_jax.train.metrics import read_metrics

pytestmark = pytest.mark.slow

TINY = {
    "backbone.vocab_size": 259, "backbone.dim": 16, "backbone.ffn_dim": 24, "backbone.num_layers": 2,
    "backbone.num_heads": 4, "backbone.kv_heads": 2, "backbone.init_std": 0.3, "tokenizer.kind": "bytes",
    "train.steps": 3, "train.batch_size": 8, "train.sequence_length": 32, "train.log_every": 1, "train.eval_every": 3,
    "train.eval_batches": 1, "train.plot_every": 0, "checkpoint.every": 100, "checkpoint.asynchronous": False,
    "optimizer.warmup_steps": 1, "optimizer.decay_steps": 10, "mesh.fsdp": 1,
    "data.threads": 1, "data.prefetch": 1, "sampling.max_new_tokens": 8,
}  # fmt: skip
PLAID = {"plaid.schedule_width": 8, "plaid.embedding_dim": 4, "sampling.plaid.steps": 2}
FAMILIES = ("ar", "llada", "plaid")


def arguments(**changes):
    return [f"--config.{path}={value}" for path, value in {**TINY, **changes}.items()]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Workdirs of ar_2b, llada_2b and plaid_2b, trained on one prepared corpus: {"ar": ..., "llada": ..., "plaid": ...}."""
    folder = tmp_path_factory.mktemp("baselines")
    for number in range(12):
        (folder / f"{number}.txt").write_text(f"Story {number}. Anna gives {number // 2} apples away. " * 3)
    sources = {
        "data.heldout_fraction": 0.2,
        "data.sources.0.kind": "text",
        "data.sources.0.path": repr((f"{folder}/*.txt",)),
    }
    prepared, spec = folder / "prepared", "ar_2b:unused"
    assert cli.main(["prepare", "--config", spec, "--output", str(prepared), *arguments(**sources)]) == 0
    for family in FAMILIES:
        spec, more = f"{family}_2b:{prepared}", arguments(**(PLAID if family == "plaid" else {}))
        assert cli.main(["train", "--config", spec, "--workdir", str(folder / family), *more]) == 0
    return {family: folder / family for family in FAMILIES}


def test_all_train_on_the_corpus_and_report_their_own_terms(trained):
    terms = {
        "ar": {"cross_entropy", "perplexity", "accuracy"},
        "llada": {"bound", "masked_accuracy", "masked_share"},
        "plaid": {"bound", "reconstruction", "diffusion", "prior"},
    }
    for family, workdir in trained.items():
        lines = read_metrics(workdir)
        assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3]
        assert terms[family] <= set(lines[0])
        assert any("heldout/loss" in line for line in lines)
        assert all(np.isfinite(value) for line in lines for value in line.values())


def test_the_matched_pair_differs_in_what_the_family_forces(trained):
    ar, llada = (json.loads((trained[family] / "config.json").read_text()) for family in ("ar", "llada"))
    assert differences(ar, llada) == ["family: 'ar' -> 'llada'", "sampling.repetition_penalty: 1.1 -> 1.0"]
    shapes = {family: jax.tree.map(np.shape, load_params(trained[family])[1]) for family in FAMILIES}
    assert shapes["ar"] == shapes["llada"]
    plaid = json.loads((trained["plaid"] / "config.json").read_text())
    forced = {"family: 'ar' -> 'plaid'", *(f"{path}: {base_value(path)} -> {value}" for path, value in PLAID.items())}
    assert set(differences(ar, plaid)) == forced
    blocks = {family: shapes[family]["backbone"]["blocks"] for family in FAMILIES}
    assert kernels(blocks["plaid"]) == kernels(blocks["ar"]), "the core's matrices"


def base_value(path):
    """The default of a field, by its path."""
    value = config.base()
    for name in path.split("."):
        value = value[name]
    return value


def kernels(tree):
    """The shapes of a tree's matrices, sorted."""
    paths = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: isinstance(x, tuple))
    return sorted(shape for path, shape in paths if path[-1].key == "kernel")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_command_line_writes_with_them(trained, family, capsys, tmp_path):
    change = "--sampling.plaid.score_temperature=1.0" if family == "plaid" else "--sampling.temperature=1.0"
    command = ["generate", "--workdir", str(trained[family]), change]
    capsys.readouterr()
    assert cli.main([*command, "--prompt", "Anna gives "]) == 0
    assert capsys.readouterr().out.startswith("Anna gives ")
    (tmp_path / "prompts.txt").write_text("Anna\nStory 3\n")
    assert cli.main([*command, "--prompts", str(tmp_path / "prompts.txt")]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [record["prompt"] for record in records] == ["Anna", "Story 3"]


def test_sampling_of_llada_is_set_by_dotted_names_and_that_of_cola_is_refused(trained):
    writer = Writer.load(trained["llada"])
    changed = writer.with_sampling(**{"llada.steps": 2, "llada.block_length": 4, "temperature": 0.5})
    assert (changed.cfg.sampling.llada.steps, changed.cfg.sampling.llada.block_length) == (2, 4)
    assert changed.cfg.sampling.temperature == 0.5
    assert len(changed.write(["Anna"])) == 1
    with pytest.raises(ConfigError, match="no such sampling field: llada.stepz"):
        writer.with_sampling(**{"llada.stepz": 2})
    with pytest.raises(ConfigError, match=r"sampling.guidance=2.0 is not read by family 'llada'"):
        writer.with_sampling(guidance=2.0)
    with pytest.raises(ConfigError, match=r"sampling.llada.steps=2 is not read by family 'ar'"):
        Writer.load(trained["ar"]).with_sampling(**{"llada.steps": 2})


def test_plaid_takes_its_own_sampling_options_and_refuses_those_it_never_reads(trained):
    writer = Writer.load(trained["plaid"])
    assert writer.with_sampling(**{"plaid.steps": 3}).cfg.sampling.plaid.steps == 3
    assert writer.write(["Anna"], seed=1) == writer.write(["Anna"], seed=1)
    with pytest.raises(ConfigError, match=r"sampling.temperature=1.0 is not read by family 'plaid'"):
        writer.with_sampling(temperature=1.0)


def test_a_trained_run_goes_out_to_the_llama_form_and_comes_back(trained, tmp_path):
    tree, params = load_params(trained["ar"])
    net = config.resolve(tree).backbone
    llama.write(tmp_path / "hf", net, params, eos_id=Writer.load(trained["ar"]).tokenizer.eos_id)
    assert llama.read_config(tmp_path / "hf") == net
    close(llama.read(tmp_path / "hf", net), jax.tree.map(np.asarray, params), atol=0, rtol=0)


def test_a_vocabulary_without_room_for_the_mask_is_refused(trained, tmp_path, capsys):
    prepared = json.loads((trained["llada"] / "config.json").read_text())["data"]["sources"][0]["path"][0]
    command = ["train", "--config", f"llada_2b:{prepared}", "--workdir", str(tmp_path / "w")]
    assert cli.main([*command, *arguments(**{"backbone.vocab_size": 258})]) == 2
    said = capsys.readouterr().err
    assert "backbone.vocab_size=258: the tokenizer has 258 ids, and the mask uses the last one" in said
    assert cli.main([*command, *arguments(**{"backbone.vocab_size": 200})]) == 2
    assert "backbone.vocab_size=200 is smaller than the tokenizer's 258" in capsys.readouterr().err
