"""The command line: help, misuse, and one line for every input that cannot be used."""

import argparse
import json
import shlex
import shutil
import subprocess
import sys

import pytest

from cola_jax import cli


def commands():
    """Every command's parser by name."""
    [action] = [a for a in cli.build_parser()._actions if isinstance(a, argparse._SubParsersAction)]
    return action.choices


def run(capsys, *arguments):
    """Exit status, stdout and the lines of stderr of one command."""
    capsys.readouterr()
    try:
        status = cli.main([str(argument) for argument in arguments])
    except SystemExit as exit_:
        status = exit_.code
    said = capsys.readouterr()
    return status, said.out, said.err.splitlines()


def misused(capsys, *arguments, part=""):
    """Asserts exit status 2 and one line, that of the command, which names `part`."""
    status, out, err = run(capsys, *arguments)
    assert status == 2, err
    assert len(err) == 1 and err[0].startswith(f"cola-jax {arguments[0]}: "), err
    assert part in err[0], err[0]
    assert out == ""


@pytest.mark.parametrize("name", commands())
def test_the_help_of_every_command_ends_with_an_example_that_parses(capsys, name):
    status, out, _ = run(capsys, name, "--help")
    assert status == 0
    [example] = [line.removeprefix("example: ") for line in out.splitlines() if line.startswith("example: ")]
    program, command, *rest = shlex.split(example)
    assert (program, command) == ("cola-jax", name)
    _, unknown = cli.build_parser().parse_known_args([command, *rest])
    assert all(argument.startswith(("--config.", "--sampling.")) and "=" in argument for argument in unknown)


def test_the_help_of_the_program_names_every_command(capsys):
    status, out, _ = run(capsys, "--help")
    assert status == 0
    listed = {line.split()[0] for line in out.splitlines() if line.startswith("    ") and line[4] != " "}
    assert set(commands()) <= listed
    assert {"demo", "train", "generate", "prepare", "convert", "check-goldens"} <= set(commands())


@pytest.mark.parametrize(
    "arguments",
    [(), ("sing",), ("train",), ("train", "--config", "tinyworld:vae"), ("generate", "--workdir", "w"), ("prepare",),
     ("generate", "--workdir", "w", "--prompt", "a", "--prompts", "b"),
     ("generate", "--workdir", "w", "--prompt", "a", "--seed", "x")],
)  # fmt: skip
def test_a_command_line_that_does_not_parse_is_misuse(capsys, arguments):
    status, _, err = run(capsys, *arguments)
    assert status == 2 and err[0].startswith("usage: cola-jax")


@pytest.mark.parametrize("extra", ["--nonsense", "--nonsense=3", "stray", "--config.seed", "--sampling.steps=3"])
def test_an_argument_that_train_does_not_know_is_named(capsys, tmp_path, extra):
    misused(capsys, "train", "--config", "tinyworld:vae", "--workdir", tmp_path / "w", extra, part=repr(extra))


def test_the_module_is_the_program():
    done = subprocess.run([sys.executable, "-m", "cola_jax.cli", "train", "--config", "nowhere", "--workdir", "w"],
                          capture_output=True, text=True, timeout=120)  # fmt: skip
    assert done.returncode == 2
    assert "config file 'nowhere' not found" in done.stderr and "Traceback" not in done.stderr


# --- train and prepare -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["train", "prepare"])
@pytest.mark.parametrize(
    ("config", "override", "part"),
    [
        ("nowhere", None, "config file 'nowhere' not found"),
        ("tinyworld:both", None, "tinyworld:both"),
        ("own_text:vae", None, "give own_text:vae,FILES"),
        ("tinyworld:vae", "--config.vae.depth=3", "--config.vae.depth: no such field"),
        ("tinyworld:vae", "--config.vae.dim=wide", "vae.dim must be int, got 'wide'"),
        ("tinyworld:vae", "--config.vae.dim=63", "vae.dim=63 is not a multiple of vae.num_heads=2"),
        ("tinyworld:vae", "--config.data.packing=loose", "data.packing='loose' is not one of"),
        ("own_text:vae,/no/such/*.txt", None, "'/no/such/*.txt' names no file or folder"),
        ("tinyworld:vae", "--config.vae.vocab_size=100", "vae.vocab_size=100 is smaller than the tokenizer's"),
    ],
)
def test_a_config_or_corpus_that_cannot_be_used_is_one_line(capsys, tmp_path, command, config, override, part):
    where = ("--workdir" if command == "train" else "--output", tmp_path / "out")
    small = ("--config.tokenizer.training_documents=200", "--config.data.generated_documents=200")
    extra = [*([override] if override else []), *(small if config == "tinyworld:vae" else ())]
    misused(capsys, command, "--config", config, *where, *extra, part=part)
    assert not (tmp_path / "out").exists() or not (tmp_path / "out" / "config.json").exists()


def test_train_refuses_a_vae_that_is_not_there(capsys, tmp_path, text_config):
    misused(capsys, "train", "--config", f"{text_config}:joint,{tmp_path / 'none'}", "--workdir", tmp_path / "w",
            part="is neither a workdir nor a folder of released or LLaMA form")  # fmt: skip


def test_train_refuses_a_broken_released_folder(capsys, tmp_path, text_config):
    (tmp_path / "cola_vae").mkdir()
    misused(capsys, "train", "--config", f"{text_config}:joint,{tmp_path}", "--workdir", tmp_path / "w",
            part="config.json does not exist")  # fmt: skip


def test_train_refuses_a_workdir_of_another_config(capsys, text_config, trained):
    misused(capsys, "train", "--config", f"{text_config}:vae", "--workdir", trained["vae"], "--config.seed=1",
            part="seed: 66 -> 1")  # fmt: skip


def test_train_refuses_devices_that_are_not_there(capsys, tmp_path, text_config):
    misused(capsys, "train", "--config", f"{text_config}:vae", "--workdir", tmp_path / "w", "--config.mesh.fsdp=64",
            part="mesh")  # fmt: skip


def test_a_finished_run_says_so_and_is_done(capsys, text_config, trained):
    status, out, _ = run(capsys, "train", "--config", f"{text_config}:vae", "--workdir", trained["vae"])
    assert status == 0 and out == f"{trained['vae']}: 3 of 3 steps done\n"


def test_prepare_writes_a_corpus_once(capsys, tmp_path, text_config):
    arguments = ("prepare", "--config", f"{text_config}:vae", "--output", tmp_path / "corpus")
    status, out, _ = run(capsys, *arguments)
    assert status == 0 and json.loads(out) == json.loads((tmp_path / "corpus" / "metadata.json").read_text())
    misused(capsys, *arguments, part="is not an empty folder")


# --- generate --------------------------------------------------------------------------------------------------------


def generate(trained, *arguments):
    return ("generate", "--workdir", trained["joint"], *arguments)


def test_generate_streams_the_prompt_and_its_continuation(capsys, trained):
    status, out, _ = run(capsys, *generate(trained, "--prompt", "Anna has "))
    assert status == 0 and out.startswith("Anna has ") and out.endswith("\n")
    again = run(capsys, *generate(trained, "--prompt", "Anna has ", "--step", 3))[1]
    other = run(capsys, *generate(trained, "--prompt", "Anna has ", "--seed", 5, "--sampling.temperature=1.0"))[1]
    assert out == again != other


@pytest.mark.slow
def test_generate_writes_one_record_a_prompt_whatever_the_batch_size(capsys, tmp_path, trained):
    (tmp_path / "prompts.txt").write_text("Anna has \n\nStory 3.\nä\n")
    (tmp_path / "prompts.jsonl").write_text(
        "".join(json.dumps({"prompt": p}) + "\n" for p in ("Anna has ", "Story 3.", "ä"))
    )
    status, out, _ = run(capsys, *generate(trained, "--prompts", tmp_path / "prompts.txt", "--batch-size", 2))
    records = [json.loads(line) for line in out.splitlines()]
    assert status == 0 and [record["prompt"] for record in records] == ["Anna has ", "Story 3.", "ä"]
    output = tmp_path / "out.jsonl"
    arguments = ("--prompts", tmp_path / "prompts.jsonl", "--output", output)
    assert run(capsys, *generate(trained, *arguments))[:2] == (0, "")
    assert [json.loads(line) for line in output.read_text().splitlines()] == records


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("--prompt", "a", "--sampling.stepz=3"), "no such sampling field: stepz"),
        (("--prompt", "a", "--sampling.steps=0"), "sampling.steps=0 must be at least 1"),
        (("--prompt", "a", "--sampling.steps=many"), "sampling.steps must be int, got 'many'"),
        (("--prompt", "a", "--sampling.solver=rk4"), "sampling.solver='rk4' is not one of euler"),
        (("--prompt", "a", "--config.seed=3"), "unknown argument '--config.seed=3'"),
        (("--prompts", "nowhere.txt"), "--prompts nowhere.txt: no such file"),
        (("--prompts", "{empty}"), "holds no prompts"),
        (("--prompts", "{binary}"), "is not UTF-8 text"),
        (("--prompts", "{broken}"), "line 2 is not JSON"),
        (("--prompts", "{other}"), "line 1: a record needs a field prompt with text"),
        (("--prompts", "{good}", "--batch-size", "0"), "--batch-size 0 must be at least 1"),
        (("--prompts", "{good}", "--output", "/no/such/folder/out"), "--output /no/such/folder/out"),
    ],
)
def test_what_generate_cannot_use_is_one_line(capsys, tmp_path, trained, arguments, part):
    files = {
        "empty": ("empty.txt", b"\n \n"), "binary": ("binary.txt", b"\xff\xfe"), "good": ("good.txt", b"Anna\n"),
        "broken": ("broken.jsonl", b'{"prompt": "a"}\n{'), "other": ("other.jsonl", b'{"text": "a"}\n'),
    }  # fmt: skip
    for name, content in files.values():
        (tmp_path / name).write_bytes(content)
    filled = [argument.format(**{key: tmp_path / name for key, (name, _) in files.items()}) for argument in arguments]
    misused(capsys, *generate(trained, *filled), part=part)


def test_generate_refuses_a_run_that_does_not_write(capsys, trained):
    misused(capsys, "generate", "--workdir", trained["vae"], "--prompt", "a", part="does not generate text by itself")


def test_generate_refuses_a_workdir_that_is_not_there(capsys, tmp_path):
    misused(capsys, "generate", "--workdir", tmp_path / "w", "--prompt", "a", part=f"--workdir {tmp_path / 'w'}")


@pytest.mark.parametrize("step", ["7", "best", "newest"])
def test_a_checkpoint_that_is_not_there_is_one_line(capsys, trained, step):
    status, out, err = run(capsys, *generate(trained, "--prompt", "a", "--step", step))
    assert status in (1, 2) and out == "" and len(err) == 1 and err[0].startswith("cola-jax generate: ")


def test_a_workdir_whose_checkpoints_are_all_damaged_has_failed(capsys, tmp_path, trained):
    workdir = tmp_path / "run"
    shutil.copytree(trained["joint"], workdir)
    (workdir / "checkpoints" / "3" / "meta" / "metadata").write_text("")
    status, _, err = run(capsys, "generate", "--workdir", workdir, "--prompt", "a")
    assert status == 1 and len(err) == 1 and "no checkpoint is usable" in err[0]


def test_a_bug_is_not_hidden(monkeypatch):
    monkeypatch.setattr("cola_jax.evaluate.prompts.read", lambda path: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli.main(["generate", "--workdir", "/", "--prompts", "x"])


@pytest.mark.parametrize("interrupted,status", [(True, 143), (False, 0)])
def test_a_run_that_a_signal_ended_after_its_checkpoint_is_told_from_one_that_is_done(
    capsys, monkeypatch, text_config, tmp_path, interrupted, status
):
    from cola_jax import runs

    monkeypatch.setattr(runs, "run_training", lambda *given, **named: runs.RunSummary(2, interrupted, {}, {}))
    assert run(capsys, "train", "--config", f"{text_config}:vae", "--workdir", tmp_path / "run")[0] == status
    if interrupted:
        assert run(capsys, "demo", "--workdir", tmp_path / "demo")[0] == status


def test_an_average_that_a_run_did_not_keep_is_one_line(capsys, trained, tmp_path):
    status, out, err = run(capsys, "generate", "--workdir", trained["joint"], "--prompt", "A", "--ema")
    assert status == 1 and out == "" and "has no average of the parameters (train.ema_decay)" in err[-1]
    misused(
        capsys,
        "convert",
        "import",
        tmp_path / "folder",
        tmp_path / "w",
        "--ema",
        part="takes no --step, --dtype or --ema",
    )
