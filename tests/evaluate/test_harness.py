"""Answers to a task: batched, kept through a kill, cut to the context, the same on every batch size and mesh."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import small_world
from riddles import PROTOCOL

from cola_jax import cli
from cola_jax.data.errors import DataError
from cola_jax.evaluate import harness, protocol
from cola_jax.evaluate.records import read_records
from cola_jax.generate import blocks as block_loop

ROOT = Path(__file__).resolve().parents[2]
PLAN = harness.EvaluationPlan(step=3, seed=5, batch_size=4, context=64)


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """(task, its records, their folder): questions of a few bytes, of two buckets."""
    folder = tmp_path_factory.mktemp("riddles")
    (folder / "mine.toml").write_text(PROTOCOL)
    lengths = [14, 1, 7, 12, 4, 2]
    records = [{"question": "x" * length, "answer": "y", "id": f"of {length}"} for length in lengths]
    (folder / "riddles.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return protocol.load(folder / "mine.toml")["riddle"], read_records(folder / "riddles.jsonl"), folder


@pytest.fixture(scope="module")
def writer():
    return small_world.writer(sampling__temperature=1.0)


@pytest.fixture(scope="module")
def answered(writer, asked, tmp_path_factory):
    """The folder of a whole evaluation and its rows."""
    folder = tmp_path_factory.mktemp("answers")
    return folder, harness.evaluate(writer, *asked[:2], folder, PLAN)


def lines_of(folder):
    return [json.loads(line) for line in (folder / "riddle" / "answers.jsonl").read_text().splitlines()]


def test_every_record_is_answered_in_order_as_the_writer_writes(writer, asked, answered):
    folder, rows = answered
    lines = lines_of(folder)
    assert [line["id"] for line in lines] == [record.id for record in asked[1]]
    prompts = [f"{record.fields['question']}\nAnswer:" for record in asked[1]]
    assert [line["prompt"] for line in lines] == prompts
    assert [line["generate"] for line in lines] == writer.write(prompts, seed=5, max_new_tokens=8)
    assert [(row["scorer"], row["records"]) for row in rows] == [("release", 6), ("paper", 6)]
    assert json.loads((folder / "riddle" / "result.json").read_text()) == rows


@pytest.mark.slow
def test_batches_of_one_bucket_share_their_compiled_programs(writer, asked, tmp_path):
    writer = small_world.writer(sampling__temperature=0.5)  # another config, whose programs nobody has compiled yet
    before = block_loop.read_prompt._cache_size(), block_loop.write_block._cache_size()
    harness.evaluate(writer, *asked[:2], tmp_path, PLAN)
    lengths = {length for length, _ in harness.batches(harness.ask(writer, *asked[:2], PLAN), 4)}
    assert lengths == {16, 24}
    assert block_loop.read_prompt._cache_size() - before[0] <= len(lengths)
    assert block_loop.write_block._cache_size() - before[1] <= 2 * len(lengths)


@pytest.mark.parametrize("length", [1, 16, 17, 24, 25, 33, 49, 65, 97, 500])
def test_a_bucket_is_at_most_half_as_long_again_as_what_is_in_it(length):
    assert length <= harness.bucket(length) <= max(16, 1.5 * length)
    assert harness.bucket(length) % 8 == 0 and harness.bucket(harness.bucket(length)) == harness.bucket(length)


class Killed(Exception):
    pass


def test_answers_are_kept_through_a_kill(writer, asked, answered, tmp_path, monkeypatch):
    rows_written, stream_rows = [], type(writer).stream_rows

    def dies(self, rows, **options):
        if len(rows_written) == 1:
            raise Killed
        rows_written.append(len(rows))
        return stream_rows(self, rows, **options)

    monkeypatch.setattr(type(writer), "stream_rows", dies)
    with pytest.raises(Killed):
        harness.evaluate(writer, *asked[:2], tmp_path, PLAN)
    path = tmp_path / "riddle" / "answers.jsonl"
    kept = path.read_text()
    assert len(kept.splitlines()) == 2 and not (tmp_path / "riddle" / "result.json").exists()
    path.write_text(kept + '{"number": 5, "gen')  # what a kill in the middle of a line leaves
    seen = []
    monkeypatch.setattr(
        type(writer),
        "stream_rows",
        lambda self, rows, samples, **options: (
            seen.extend(samples) or stream_rows(self, rows, samples=samples, **options)
        ),
    )
    assert harness.evaluate(writer, *asked[:2], tmp_path, PLAN) == answered[1]
    assert set(seen).isdisjoint(json.loads(line)["number"] for line in kept.splitlines())
    assert lines_of(tmp_path) == lines_of(answered[0])
    seen.clear()
    assert harness.evaluate(writer, *asked[:2], tmp_path, PLAN) == answered[1] and not seen, "done is done"


@pytest.mark.slow
def test_the_batch_size_does_not_change_an_answer(writer, asked, answered, tmp_path):
    harness.evaluate(writer, *asked[:2], tmp_path, harness.EvaluationPlan(3, 5, 3, 64))
    assert lines_of(tmp_path) == lines_of(answered[0])


@pytest.mark.parametrize(
    ("changes", "part"),
    [({"step": 4}, "step: 3 -> 4"), ({"seed": 6}, "seed: 5 -> 6"), ({"context": 16}, "prompts: ")],
)
def test_answers_of_another_setting_are_not_mixed_in(writer, asked, answered, changes, part):
    plan = harness.EvaluationPlan(**{**vars(PLAN), **changes})
    with pytest.raises(DataError, match="made with another setting") as error:
        harness.evaluate(writer, *asked[:2], answered[0], plan)
    assert part in str(error.value)
    with pytest.raises(DataError, match="sampling.temperature: 1.0 -> 0.0"):
        harness.evaluate(writer.with_sampling(temperature=0.0), *asked[:2], answered[0], PLAN)


def test_a_prompt_that_is_too_long_is_cut_from_its_front_and_counted(writer, asked):
    plan = harness.EvaluationPlan(3, 5, 4, context=26)  # 8 of them are the answer's
    questions = harness.ask(writer, *asked[:2], plan)
    for question in questions:
        whole = question.prompt.encode()
        assert bytes(question.tokens) == whole[-18:] and question.cut == max(len(whole) - 18, 0)
    assert sum(question.cut > 0 for question in questions) == sum(len(r.fields["question"]) > 10 for r in asked[1])
    with pytest.raises(DataError, match="max_new_tokens=8, which leaves no room for a prompt in a context of 8 tokens"):
        harness.ask(writer, *asked[:2], harness.EvaluationPlan(3, 5, 4, context=8))


# --- the command ------------------------------------------------------------------------------------------------------


def evaluate(capsys, trained, *arguments):
    capsys.readouterr()
    status = cli.main(["evaluate", "--workdir", str(trained["joint"]), *map(str, arguments)])
    said = capsys.readouterr()
    return status, said.out, said.err.splitlines()[-1] if said.err else ""


def test_a_user_evaluates_a_run_on_a_task_of_their_own(capsys, trained, tmp_path):
    questions = [
        {"question": "Who has the apples?", "answer": "Anna"},
        {"question": "Is it 3?", "choices": ["yes", "no"], "answer": 0},
    ]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(question) + "\n" for question in questions))
    arguments = (
        "--tasks",
        f"my_task={tmp_path}/mine.jsonl",
        "--context",
        96,
        "--output",
        tmp_path / "out",
        "--sampling.steps=1",
    )
    status, out, _ = evaluate(capsys, trained, *arguments)
    assert status == 0 and out.splitlines()[-1] == str(tmp_path / "out")
    lines = [json.loads(line) for line in (tmp_path / "out" / "my_task" / "answers.jsonl").read_text().splitlines()]
    assert [line["prompt"] for line in lines] == [
        "Question: Who has the apples?\nAnswer:", "Question: Is it 3?\n(A) yes\n(B) no\nAnswer:",
    ]  # fmt: skip
    report = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (report["family"], report["step"], report["sampling"]["steps"]) == ("cola", 3, 1)
    table = list(csv.DictReader((tmp_path / "out" / "summary.csv").read_text().splitlines()))
    assert [(row["task"], row["scorer"], row["records"]) for row in table] == [
        ("my_task", scorer, "2") for scorer in ("release", "paper")
    ]  # fmt: skip
    assert cli.main(["score", "--task", "my_task", "--json", str(tmp_path / "out" / "my_task" / "answers.jsonl")]) == 0
    again = json.loads(capsys.readouterr().out)["scores"]
    assert [row["right"] for row in again] == [row["right"] for row in report["scores"]]


@pytest.mark.slow
def test_devices_share_the_work_and_give_the_same_answers(capsys, trained, tmp_path, asked):
    task, _, folder = asked
    arguments = ["--tasks", f"riddle={folder}/riddles.jsonl", "--protocol", folder / "mine.toml", "--context", 64,
                 "--limit", 4, "--batch-size", 1]  # fmt: skip
    assert evaluate(capsys, trained, *arguments, "--output", tmp_path / "one")[0] == 0
    command = [sys.executable, "-m", "cola_jax.cli", "evaluate", "--workdir", trained["joint"], *arguments, "--output"]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    environment["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
    for name, extra in (("copied", []), ("split", ["--shard-parameters"])):
        done = subprocess.run(
            [*map(str, command), str(tmp_path / name), *extra],
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            cwd=ROOT,
        )
        assert done.returncode == 0, done.stderr
        assert [line["generate"] for line in lines_of(tmp_path / name)] == [
            line["generate"] for line in lines_of(tmp_path / "one")
        ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("--tasks", "mmlu"), "task 'mmlu': give the file of its records, --tasks mmlu=FILE.jsonl"),
        (("--tasks", "mmlu="), "task 'mmlu=': no file after the ="),
        (("--tasks", "mmlu=nowhere.jsonl"), "nowhere.jsonl: no such file"),
        (("--tasks", "mmlu={file}", "--context", "96"), "line 1: no choices, which the prompt of task mmlu needs"),
        (("--tasks", "a={file}", "--limit", "0"), "--limit 0 must be at least 1"),
        (("--tasks", "a={file}", "--sampling.max_new_tokens=3"), "the protocol sets the number of new tokens"),
        (("--tasks", "a={file}", "--sampling.stepz=3"), "no such sampling field: stepz"),
        (("--tasks", "a={file}"), "leaves no room for a prompt in a context of 32 tokens"),
        (("--tasks", "a={file}", "--step", "99"), "no checkpoint of step 99"),
        (("--tasks", "a={file}", "--coordinator", "localhost:1"), "--process-id go together"),
    ],
)
def test_what_evaluate_cannot_use_is_one_line(capsys, trained, tmp_path, arguments, part):
    (tmp_path / "q.jsonl").write_text('{"question": "a", "answer": "b"}\n')
    filled = [argument.format(file=tmp_path / "q.jsonl") for argument in arguments]
    status, out, err = evaluate(capsys, trained, *filled, "--output", tmp_path / "out")
    assert status in (1, 2) and out == "" and err.startswith("cola-jax evaluate: ") and part in err


@pytest.mark.parametrize(
    ("file", "content", "part"),
    [
        ("result.json", "{", "result.json is not JSON"),
        ("result.json", '[{"task": 3}]', "does not hold the scores of a task"),
        ("result.json", "[]", "does not hold the scores of a task"),
        ("setting.json", "[]", "is not the setting of an evaluation"),
        ("setting.json", "", "setting.json is not JSON"), ("answers.jsonl", "x\n", "answers.jsonl, line 1 is not JSON"),
        ("answers.jsonl", '{"number": 9, "prompt": "", "generate": ""}\n', "line 1 is not an answer of this evaluation"),
        ("answers.jsonl", '{"number": 0, "prompt": ""}\n', "line 1 is not an answer of this evaluation"),
    ],
)  # fmt: skip
def test_damaged_files_of_an_evaluation_are_named(capsys, trained, tmp_path, file, content, part):
    (tmp_path / "q.jsonl").write_text('{"question": "a", "answer": "b"}\n')
    arguments = (
        "--tasks",
        f"mine={tmp_path}/q.jsonl",
        "--context",
        64,
        "--output",
        tmp_path / "out",
        "--sampling.steps=1",
    )
    assert evaluate(capsys, trained, *arguments)[0] == 0
    (tmp_path / "out" / "mine" / file).write_text(content)
    status, out, err = evaluate(capsys, trained, *arguments)
    assert (status, out) == (2, "") and part in err and str(tmp_path / "out" / "mine") in err


def test_nothing_is_written_before_every_task_is_checked(capsys, trained, tmp_path):
    (tmp_path / "good.jsonl").write_text('{"question": "a", "answer": "b"}\n')
    bad = {"question": "a", "answer": "c", "choices": ["a", "b"]}
    (tmp_path / "bad.jsonl").write_text(json.dumps(bad) + "\n")
    tasks = ("--tasks", f"good={tmp_path}/good.jsonl", f"bad={tmp_path}/bad.jsonl")
    status, _, err = evaluate(capsys, trained, *tasks, "--context", 64, "--output", tmp_path / "out")
    assert status == 2 and "bad.jsonl, line 1: answer 'c' is none of its choices" in err
    status, _, err = evaluate(capsys, trained, tasks[0], tasks[1], tasks[1], "--output", tmp_path / "out")
    assert status == 2 and "task 'good' is given twice" in err
    assert not (tmp_path / "out").exists()
    (tmp_path / "file").write_text("")
    status, _, err = evaluate(capsys, trained, *tasks[:2], "--context", 64, "--output", tmp_path / "file" / "x")
    assert status == 2 and f"{tmp_path / 'file'} is not a folder" in err
