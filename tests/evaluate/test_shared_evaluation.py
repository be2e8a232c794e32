"""Several processes answer a task together: the answers are those of one, whatever was left behind by others."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import small_world
from riddles import PROTOCOL

from cola_jax import cli
from cola_jax.data.errors import DataError
from cola_jax.evaluate import harness
from cola_jax.evaluate.harness import Share
from cola_jax.evaluate.protocol import Task
from cola_jax.evaluate.records import Record

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
PLAN = harness.EvaluationPlan(step=3, seed=5, batch_size=2, context=64)
TASK = Task("riddle", "exact", "exact", 0, (), (), 4, "", ())
RECORDS = [Record(f"of {n}", 0, {}, "x" * n, (), ("y",)) for n in (14, 1, 20, 12, 4)]


@pytest.fixture(scope="module")
def writer():
    return small_world.writer(sampling__temperature=1.0)


@pytest.fixture(scope="module")
def alone(writer, tmp_path_factory):
    """The folder of a task that one process answered, and its rows."""
    folder = tmp_path_factory.mktemp("alone")
    return folder / "riddle", harness.evaluate(writer, TASK, RECORDS, folder, PLAN)


def test_every_question_is_dealt_to_one_process_and_their_lengths_are_shared_out(writer):
    records = [Record("", 0, {}, "x" * (1 + n % 40), (), ("y",)) for n in range(120)]
    questions = harness.ask(writer, TASK, records, PLAN)
    hands = [harness.dealt(questions, Share(index, 3)) for index in range(3)]
    assert sorted(q.number for hand in hands for q in hand) == list(range(120))
    lengths = [sum(len(q.tokens) for q in hand) for hand in hands]
    assert max(lengths) - min(lengths) <= 40 and {len(hand) for hand in hands} == {40}
    assert harness.dealt(questions, harness.ALONE) == questions


def test_what_a_lost_process_had_answered_is_kept_by_those_that_come_after(writer, alone, tmp_path, monkeypatch):
    lines = (alone[0] / "answers.jsonl").read_text().splitlines(keepends=True)
    place = tmp_path / "riddle"
    place.mkdir()
    (place / "setting.json").write_text((alone[0] / "setting.json").read_text())
    (place / "answers.jsonl").write_text(lines[2])
    (place / "answers.0.jsonl").write_text(lines[4])
    (place / "answers.1.jsonl").write_text(lines[1] + lines[3][:20])  # killed in the middle of a line
    asked, stream_rows = [], type(writer).stream_rows

    def watched(self, rows, samples, **options):
        asked.extend(samples)
        return stream_rows(self, rows, samples=samples, **options)

    monkeypatch.setattr(type(writer), "stream_rows", watched)
    assert harness.evaluate(writer, TASK, RECORDS, tmp_path, PLAN) == alone[1]
    assert set(asked) == {0, 3}
    assert (place / "answers.jsonl").read_text() == (alone[0] / "answers.jsonl").read_text()
    assert sorted(path.name for path in place.iterdir()) == ["answers.jsonl", "result.json", "setting.json"]


def test_a_process_that_finds_another_setting_says_so_before_it_waits(writer, alone):
    plan = harness.EvaluationPlan(step=4, seed=5, batch_size=2, context=64)
    with pytest.raises(DataError, match="step: 3 -> 4"):
        harness.evaluate(writer, TASK, RECORDS, alone[0].parent, plan, Share(1, 2))


def port():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


@pytest.mark.slow
def test_two_processes_answer_and_score_as_one_does(trained, tmp_path, capsys):
    (tmp_path / "mine.toml").write_text(PROTOCOL)
    questions = [{"question": "x" * length, "answer": "y"} for length in (14, 1, 7, 20, 4)]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(question) + "\n" for question in questions))
    arguments = ["evaluate", "--workdir", trained["joint"], "--tasks", f"riddle={tmp_path}/q.jsonl", "--protocol",
                 tmp_path / "mine.toml", "--context", 64, "--batch-size", 2, "--output"]  # fmt: skip
    assert cli.main([*map(str, arguments), str(tmp_path / "one")]) == 0
    table = capsys.readouterr().out.splitlines()
    flags = ["--coordinator", f"localhost:{port()}", "--num-processes", "2", "--process-id"]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    command = [sys.executable, "-m", "cola_jax.cli", *map(str, arguments), str(tmp_path / "two"), *flags]
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen([*command, str(index)], env=environment, cwd=ROOT, **pipe) for index in range(2)]
    said = [process.communicate(timeout=300) for process in processes]
    assert all(process.returncode == 0 for process in processes), said[0][1][-2000:]
    of_ours = [[line for line in out.splitlines() if not line.startswith("[Gloo]")] for out, _ in said]
    assert of_ours == [[*table[:-1], str(tmp_path / "two")], []], "one process speaks"
    for name in ("answers.jsonl", "result.json", "setting.json"):
        one, two = ((tmp_path / folder / "riddle" / name).read_text() for folder in ("one", "two"))
        assert one == two
    summaries = [json.loads((tmp_path / folder / "summary.json").read_text()) for folder in ("one", "two")]
    assert summaries[0]["scores"] == summaries[1]["scores"]
    assert [summary["processes"] for summary in summaries] == [1, 2]
