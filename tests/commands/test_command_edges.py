"""The edges of command lines: paths, steps, seeds, texts that are not Unicode, outputs that lie on inputs, closed pipes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_cli import commands, misused, run

from cola_jax import cli
from cola_jax.commands.arguments import path_argument

ROOT = Path(__file__).resolve().parents[2]
GIVEN = {  # what else a command needs to come as far as its paths
    "train": ["--workdir", "w"], "generate": ["--workdir", "w", "--prompt", "a"],
    "evaluate": ["--workdir", "w", "--tasks", "a"],
    "score": ["--task", "a", "f"], "likelihood": ["--workdir", "w"], "quality": ["f"], "latents": ["--workdir", "w"],
    "lm-eval": ["--workdir", "w", "--tasks", "a"], "compare": ["f"], "prepare": ["--config", "c", "--output", "o"],
    "convert": ["import", "a", "b"], "check-goldens": ["f"], "compile": [], "demo": [],
}  # fmt: skip
PLACES = {"--workdir", "--output", "--prompts", "--protocol", "--records", "--judge", "--pictures", "--include", "--save",
          "--load", "--executable"}  # fmt: skip
OPTIONS = [(name, action.option_strings[-1]) for name, parser in commands().items() for action in parser._actions
           if PLACES & set(action.option_strings)]  # fmt: skip


@pytest.mark.parametrize(("name", "option"), OPTIONS)
def test_a_path_of_an_object_store_is_refused_by_the_options_name(capsys, name, option):
    [action] = [a for a in commands()[name]._actions if option in a.option_strings]
    assert action.type is path_argument
    arguments = [a for a in GIVEN[name] if (name, option, a) != ("generate", "--prompts", "a")]
    if (name, option) == ("generate", "--prompts"):
        arguments.remove("--prompt")
    misused(
        capsys, name, *arguments, option, "hdfs://bucket/x", part=f"{option} hdfs://bucket/x: hdfs:// is not supported"
    )
    misused(capsys, name, *arguments, option, "", part=f"{option} is empty")


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("score", "--task", "a", "ok.jsonl", "hdfs://b/x"), "FILE hdfs://b/x: hdfs:// is not supported"),
        (("quality", "hdfs://b/x"), "hdfs://b/x: "),
        (("convert", "import", "hdfs://b/x", "y"), "source hdfs://b/x: "),
        (("convert", "export", "x", "hdfs://b/y"), "target hdfs://b/y: "),
        (("check-goldens", "hdfs://b/x"), "folder hdfs://b/x: "), (("compare", "a", "hdfs://b/x"), "CONFIG hdfs://b/x: "),
        (("evaluate", "--workdir", "{tmp}", "--tasks", "a=hdfs://b/x"), "hdfs://b/x: hdfs:// is not supported"),
    ],
)  # fmt: skip
def test_a_positional_path_of_an_object_store_is_refused(capsys, tmp_path, arguments, part):
    misused(capsys, *(argument.format(tmp=tmp_path) for argument in arguments), part=part)


def test_the_tilde_is_the_home_folder(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "g.jsonl").write_text('{"answer": "a", "generate": "a"}\n')
    assert run(capsys, "score", "--task", "squad", "~/g.jsonl")[0] == 0
    misused(
        capsys, "generate", "--workdir", "~/none", "--prompt", "a", part=f"--workdir {tmp_path}/none: no such folder"
    )


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (("generate", "--workdir", "w", "--prompt", "a\udcff"), "--prompt"), (("score", "--task", "\udcff", "f"), "--task"),
        (("evaluate", "--workdir", "w", "--tasks", "a=b", "\udcff=c"), "--tasks"), (("compare", "\udcff"), "CONFIG"),
        (("generate", "--workdir", "w", "--prompt", "a", "--sampling.solver=\udcff"), "argument"),
    ],
)  # fmt: skip
def test_an_argument_that_is_not_unicode_is_named(capsys, arguments, name):
    status, _, [line] = run(capsys, *arguments)
    assert status == 2 and line.startswith(f"cola-jax {arguments[0]}: {name}") and "is not valid Unicode" in line


NEEDS_STEP = ("generate", "evaluate", "likelihood", "latents", "lm-eval")


@pytest.mark.parametrize("step", ["abc", "-3", "1.5", "²", "", "1e3", "9" * 400])
@pytest.mark.parametrize("name", NEEDS_STEP)
def test_a_step_that_is_none_is_refused(capsys, tmp_path, name, step):
    arguments = [str(tmp_path) if argument == "w" else argument for argument in GIVEN[name]]
    misused(capsys, name, *arguments, "--step", step, part=f"--step {step}: give the step of a checkpoint")


@pytest.mark.parametrize(
    ("option", "value", "part"),
    [
        ("--seed", "-1", "must be at least 0"), ("--seed", str(2**64), "must be below"),
        ("--batch-size", "0", "must be at least 1"), ("--batch-size", str(10**12), "must be below"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["generate", "evaluate", "likelihood", "lm-eval"])
def test_numbers_out_of_range_are_refused(capsys, tmp_path, name, option, value, part):
    arguments = [str(tmp_path) if argument == "w" else argument for argument in GIVEN[name]]
    misused(capsys, name, *arguments, option, value, part=f"{option} {value} {part}")


@pytest.mark.parametrize(
    ("name", "arguments", "part"),
    [
        ("generate", ("--batch-size", "3"), "--batch-size needs --prompts"),
        ("evaluate", ("--context", "-1"), "--context -1 must be at least 0"),
        ("evaluate", ("--world-seed", "3"), "--world-seed is read by tasks tinyworld/NAME alone"),
        ("likelihood", ("--records", "f", "--prompt-tokens", "3"), "--records has its own prompts"),
        ("likelihood", ("--output", "-"), "stdout is for the results"),
        ("likelihood", ("--draws", str(10**12)), "--draws 1000000000000 must be below"),
        ("quality", ("--batch-size", "3"), "--batch-size needs --judge"),
        ("latents", ("--seed", str(2**40)), "must be below"), ("latents", ("--extent", "inf"), "must be positive and finite"),
        ("lm-eval", ("--include", "nowhere"), "--include nowhere: no such folder"),
        ("lm-eval", ("--sampling.max_new_tokens=3",), "a task sets its number of new tokens"),
    ],
)  # fmt: skip
def test_an_option_that_nothing_reads_or_that_cannot_be_is_refused(capsys, tmp_path, name, arguments, part):
    given = [str(tmp_path) if argument == "w" else argument for argument in GIVEN[name]]
    misused(capsys, name, *given, *arguments, part=part)


@pytest.mark.parametrize(
    ("output", "part"),
    [("{tmp}", "is a folder: give a file"), ("{tmp}/p.txt", "is the file that is read"),
     ("{tmp}/link", "is the file that is read"),
     ("{tmp}/p.txt/x", "is not a folder"), ("{tmp}/none/x", "is not a folder")],
)  # fmt: skip
def test_an_output_that_cannot_be_is_refused_before_any_work(capsys, tmp_path, output, part):
    (tmp_path / "p.txt").write_text("Anna\n")
    (tmp_path / "link").symlink_to(tmp_path / "p.txt")
    arguments = ("--prompts", tmp_path / "p.txt", "--output", output.format(tmp=tmp_path))
    misused(capsys, "generate", "--workdir", tmp_path, *arguments, part=part)
    assert (tmp_path / "p.txt").read_text() == "Anna\n"


def test_an_output_keeps_what_it_held_until_all_is_written(capsys, tmp_path, trained, monkeypatch):
    (tmp_path / "p.txt").write_text("Anna\nStory\n")
    output = tmp_path / "out.jsonl"
    output.write_text("old\n")
    arguments = ("generate", "--workdir", trained["joint"], "--prompts", tmp_path / "p.txt", "--output", output)
    with monkeypatch.context() as broken:
        broken.setattr("cola_jax.runs.writer.Writer.stream_rows", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            cli.main([str(argument) for argument in arguments])
    assert output.read_text() == "old\n"
    assert run(capsys, *arguments)[0] == 0
    assert [json.loads(line)["prompt"] for line in output.read_text().splitlines()] == ["Anna", "Story"]
    assert not (tmp_path / "out.jsonl.partial").exists()


def test_one_prompt_with_an_output_is_one_record(capsys, tmp_path, trained):
    output = tmp_path / "out.jsonl"
    streamed = run(capsys, "generate", "--workdir", trained["joint"], "--prompt", "Anna has ")[1]
    arguments = ("--prompt", "Anna has ", "--output", output)
    assert run(capsys, "generate", "--workdir", trained["joint"], *arguments)[:2] == (0, "")
    record = json.loads(output.read_text())
    assert record["prompt"] + record["continuation"] + "\n" == streamed


def test_a_closed_pipe_is_no_failure(tmp_path):
    (tmp_path / "g.jsonl").write_text('{"answer": "a", "generate": "a"}\n')
    program = [sys.executable, "-m", "cola_jax.cli", "score", "--task", "squad", str(tmp_path / "g.jsonl")]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(program, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=120, cwd=ROOT)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")
