"""The commands with every path in an emulated bucket."""

import json

import numpy as np
import pytest
from release_folder import write_llama

from cola_jax import cli, storage
from cola_jax.train.checkpoint import load_params
from cola_jax.train.metrics import read_metrics
from cola_jax.train.stored import folder, steps_in

pytestmark = pytest.mark.slow


def run(capsys, *arguments):
    """Exit status 0, and stdout."""
    capsys.readouterr()
    status = cli.main([str(argument) for argument in arguments])
    said = capsys.readouterr()
    assert status == 0, said.err
    return said.out


@pytest.fixture(scope="module", params=["gs", "s3"])
def root(request, stores):
    """A folder of a bucket, with a corpus of text and a config that reads it prepared."""
    place = storage.path(f"{stores[request.param]}/commands")
    for number in range(12):
        text = f"Story {number}. Anna has {number} apples and gives {number // 2} away. " * 3
        storage.write_bytes(place / "text" / f"{number}.txt", text.encode())
    storage.write_bytes(place / "text" / "notes.pdf", b"%PDF")
    return place


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def trained(root, text_config, cache):
    """Workdirs of both stages in the bucket, of a corpus prepared there."""
    source = f"--config.data.sources.0.path=('{root}/text',)"
    prepare = ["prepare", "--config", f"{text_config}:vae", source, f"--config.data.cache_dir={cache}"]
    assert cli.main([*prepare, "--output", str(root / "corpus")]) == 0
    prepared = [f"--config.data.sources.0.path=('{root}/corpus',)", "--config.data.sources.0.kind=prepared"]
    prepared += ["--config.data.heldout_fraction=0.02", f"--config.data.cache_dir={cache}"]
    begin = lambda spec, stage, *more: [
        "train",
        "--config",
        f"{text_config}:{spec}",
        "--workdir",
        f"{root}/{stage}",
        *more,
    ]
    assert cli.main(begin("vae", "vae", *prepared)) == 0
    assert cli.main(begin(f"joint,{root / 'vae'}", "joint", source, f"--config.data.cache_dir={cache}")) == 0
    return {stage: root / stage for stage in ("vae", "joint")}


def test_a_prepared_corpus_is_whole_and_its_rows_are_those_of_a_local_one(root, trained, text_config, tmp_path):
    names = storage.names_in(root / "corpus")
    assert {"metadata.json", "tokenizer.json"} <= set(names) and any("train" in name for name in names)
    with storage.local_copy(root / "text") as text:
        (text / "notes.pdf").unlink()
        source = f"--config.data.sources.0.path=('{text}',)"
        out = ["--output", str(tmp_path / "corpus")]
        assert cli.main(["prepare", "--config", f"{text_config}:vae", source, *out]) == 0
    ours, theirs = (storage.read_json(place / "corpus" / "metadata.json") for place in (root, tmp_path))
    assert ours["sources"][0]["fingerprint"] == theirs["sources"][0]["fingerprint"]


@pytest.mark.parametrize("cached", [True, False])
def test_training_in_a_bucket_is_training_on_a_disk(root, trained, text_config, cache, tmp_path, cached):
    gib = "--config.data.cache_gib=" + ("1" if cached else "1e-9")
    prepared = [f"--config.data.sources.0.path=('{root}/corpus',)", "--config.data.sources.0.kind=prepared"]
    prepared += ["--config.data.heldout_fraction=0.02", gib, f"--config.data.cache_dir={cache}"]
    begin = ["train", "--config", f"{text_config}:vae", "--workdir", str(tmp_path / "run"), *prepared]
    assert cli.main(begin) == 0
    losses = lambda place: [line["loss"] for line in read_metrics(place) if "loss" in line]
    assert losses(tmp_path / "run") == losses(trained["vae"]) and len(losses(tmp_path / "run")) == 3
    ours, theirs = (load_params(place)[1]["encoder"]["embedding"] for place in (tmp_path / "run", trained["vae"]))
    np.testing.assert_array_equal(ours, theirs)


def test_a_run_goes_on_in_its_bucket(trained, capsys):
    workdir = trained["vae"]
    run(capsys, "train", "--workdir", workdir, "--config.train.steps=5")
    assert steps_in(folder(workdir))[-1] == 5
    assert [line["step"] for line in read_metrics(workdir) if "loss" in line] == [1, 2, 3, 4, 5]
    boards = storage.names_in(workdir / "tensorboard")
    assert len(boards) == 2 and {"config.json", "tokenizer", "attempts"} <= set(storage.names_in(workdir))


def test_text_is_generated_and_measured(root, trained, capsys):
    prompts = b'{"prompt": "Anna has"}\n{"prompt": "Story"}\n'
    storage.write_bytes(root / "prompts.jsonl", prompts)
    joint = trained["joint"]
    run(capsys, "generate", "--workdir", joint, "--prompts", root / "prompts.jsonl", "--output", root / "out.jsonl")
    lines = storage.read_text(root / "out.jsonl").splitlines()
    assert [json.loads(line)["prompt"] for line in lines] == ["Anna has", "Story"]
    assert "distinct" in run(capsys, "quality", root / "out.jsonl").lower()
    storage.write_bytes(root / "pairs.jsonl", b'{"prompt": "Anna has", "answer": " 3 apples"}\n')
    found = run(
        capsys,
        "likelihood",
        "--workdir",
        joint,
        "--records",
        root / "pairs.jsonl",
        "--steps",
        2,
        "--output",
        root / "found.jsonl",
        "--json",
    )
    assert json.loads(found)["texts"] == 1


def test_a_run_is_evaluated_in_its_bucket_and_not_twice(root, trained, capsys, monkeypatch):
    storage.write_bytes(root / "task.jsonl", b'{"prompt": "Anna has", "answer": "3"}\n')
    arguments = (
        "evaluate",
        "--workdir",
        trained["joint"],
        "--tasks",
        f"own={root}/task.jsonl",
        "--batch-size",
        2,
        "--context",
        64,
    )
    run(capsys, *arguments)
    place = trained["joint"] / "evaluation" / "3"
    assert {"summary.csv", "summary.json", "own"} <= set(storage.names_in(place))
    assert storage.read_json(place / "own" / "result.json")[0]["records"] == 1
    monkeypatch.setattr("cola_jax.evaluate.harness.write", lambda *a: iter(()))
    run(capsys, *arguments)


def test_latents_and_comparison(root, trained, capsys):
    joint = trained["joint"]
    run(capsys, "latents", "--workdir", joint, "--batches", 1, "--pictures", root / "pictures")
    assert any(name.endswith(".png") for name in storage.names_in(root / "pictures"))
    found = json.loads(run(capsys, "compare", trained["vae"], joint, "--json"))
    assert found["configs"] == [str(trained["vae"]), str(joint)]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A folder of the LLaMA form on a local disk."""
    return write_llama(tmp_path_factory.mktemp("llama") / "golden")


def test_weights_are_imported_exported_and_trained_from(root, weights, text_config, capsys):
    storage.upload(weights, root / "weights")
    data = ("--config", f"{text_config}:joint", "--config.train.steps=1", "--config.data.packing=concat")
    run(capsys, "convert", "import", root / "weights", root / "imported", *data)
    assert steps_in(folder(root / "imported")) == [0]
    config = storage.read_json(root / "imported" / "config.json")
    assert config["tokenizer"]["path"] == f"{root}/weights/tokenizer.json", "no name of a temporary folder"
    run(capsys, "convert", "export", root / "imported", root / "exported")
    ours, theirs = (
        storage.read_bytes(storage.path(place) / "model.safetensors") for place in (root / "exported", weights)
    )
    assert ours == theirs
    run(capsys, "train", "--workdir", root / "imported")
    assert steps_in(folder(root / "imported")) == [0, 1]


def test_what_is_there_is_not_overwritten_and_what_is_not_is_named(root, trained, text_config, capsys):
    misused = lambda *arguments: (cli.main([str(a) for a in arguments]), capsys.readouterr().err.splitlines()[-1])
    status, said = misused("prepare", "--config", f"{text_config}:vae", "--output", root / "corpus")
    assert status == 2 and "is not an empty folder" in said
    status, said = misused("generate", "--workdir", root / "none", "--prompt", "a")
    assert status != 0 and "none" in said
    bucket = f"{root}".split("://")[0] + "://no-such-bucket/run"
    status, said = misused("train", "--config", f"{text_config}:vae", "--workdir", bucket)
    assert status == 2 and "no-such-bucket" in said and "bucket" in said
