"""The bridge to lm-evaluation-harness: requests read, answers cut, and a local task run by the real package."""

import json

import pytest
import small_world

from cola_jax.data.errors import DataError
from cola_jax.evaluate import lm_harness
from cola_jax.evaluate.harness import EvaluationPlan
from cola_jax.evaluate.lm_harness import Ask

pytestmark = pytest.mark.slow

PLAN = EvaluationPlan(step=1, seed=5, batch_size=2, context=64)
TASK = """
task: apples
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}} Answer:"
doc_to_target: "{{{{answer}}}}"
generation_kwargs:
  until: ["\\n"]
  max_gen_toks: 8
metric_list:
  - metric: exact_match
"""


def test_a_request_is_read_and_what_is_not_honoured_is_refused():
    assert lm_harness.ask_of("a", {"until": "x", "max_gen_toks": 3}, 9) == Ask("a", ("x",), 3, 0.0)
    assert lm_harness.ask_of("a", {"until": ["x", "y"], "temperature": 0.7}, 9) == Ask("a", ("x", "y"), 9, 0.0)
    assert lm_harness.ask_of("a", {"do_sample": True, "temperature": 0.7}, 9).temperature == 0.7
    with pytest.raises(DataError, match="arguments num_beams are not supported"):
        lm_harness.ask_of("a", {"num_beams": 4}, 9)


def test_a_text_ends_before_the_first_string_that_ends_it():
    assert lm_harness.cut("one. two\nthree", ["\n", ". "]) == "one"
    assert lm_harness.cut("one", ["\n", ""]) == "one"
    assert lm_harness.cut("\none", ["\n"]) == ""


def test_answers_are_the_writers_own_in_the_order_of_the_requests():
    writer = small_world.writer()
    asks = [Ask("Anna has", (), 8, 0.0), Ask("x" * 80, (), 8, 0.0), Ask("Is it 3?", (), 4, 0.0)]
    found = lm_harness.answer(writer, asks, PLAN)
    assert found[0] == writer.write(["Anna has"], seed=5, samples=[0], max_new_tokens=8)[0]
    assert found[1] == writer.write(["x" * 56], seed=5, samples=[1], max_new_tokens=8)[0], "cut from the front"
    assert found[2] == writer.write(["Is it 3?"], seed=5, samples=[2], max_new_tokens=4)[0]
    with pytest.raises(DataError, match="max_gen_toks=64 leaves no room"):
        lm_harness.answer(writer, [Ask("a", (), 64, 0.0)], PLAN)


def test_the_real_package_runs_a_local_task(tmp_path, monkeypatch):
    pytest.importorskip("lm_eval", reason="the extra lm-eval is not installed")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    writer = small_world.writer()
    questions = ["Who has the apples?", "Is it 3?"]
    answers = writer.write([f"{question} Answer:" for question in questions], seed=5, max_new_tokens=8)
    right = lm_harness.cut(answers[0], ["\n"])
    docs = [{"question": questions[0], "answer": right}, {"question": questions[1], "answer": "not this"}]
    (tmp_path / "docs.jsonl").write_text("".join(json.dumps(doc) + "\n" for doc in docs))
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "apples.yaml").write_text(TASK.format(data=tmp_path / "docs.jsonl"))
    found = lm_harness.evaluate(writer, PLAN, ["apples"], tmp_path / "tasks", None, 32)
    assert found["results"]["apples"]["exact_match,none"] == 0.5
    with pytest.raises(DataError, match="the harness has no task pears"):
        lm_harness.evaluate(writer, PLAN, ["pears"], tmp_path / "tasks", None, 32)
