"""Scores of generations: the published ones, and every task's rule on records written for it."""

import json
from pathlib import Path

import numpy as np
import pytest

from cola_jax import cli
from cola_jax.data.errors import DataError
from cola_jax.evaluate import protocol, scoring
from cola_jax.evaluate.records import Generation, Record, read_generations, read_records

PUBLISHED = Path(__file__).resolve().parents[3] / "shared" / "benchmarks"
ACCURACY = {"lambada": "50.80", "mmlu": "19.30", "siqa": "28.90", "squad": "30.90"}
CHOICES = ["She opened the door.", "She ate the key.", "The key sang."]


def write(path, *records):
    path.write_text("".join((record if isinstance(record, str) else json.dumps(record)) + "\n" for record in records))
    return path


def score(capsys, *arguments):
    """Exit status, and what was printed: rows of --json, else text."""
    capsys.readouterr()
    status = cli.main(["score", *map(str, arguments)])
    said = capsys.readouterr()
    return status, json.loads(said.out)["scores"] if "--json" in arguments and status == 0 else said.out, said.err


@pytest.mark.parametrize("task", ACCURACY)
def test_the_published_generations_have_the_published_accuracy(capsys, task):
    path = PUBLISHED / f"{task}.jsonl"
    if not path.is_file():
        pytest.skip(f"{path.name}, the published generations, is not there")
    status, text, _ = score(capsys, "--task", task, "--scorer", "release", path)
    header, row = text.splitlines()
    assert status == 0 and dict(zip(header.split(), row.split()))["accuracy"] == ACCURACY[task]


@pytest.mark.parametrize("task", ["mmlu", "siqa", "squad"])
def test_the_shipped_protocol_asks_as_the_published_prompts_do(task):
    path = PUBLISHED / f"{task}.jsonl"
    if not path.is_file():
        pytest.skip(f"{path.name}, the published generations, is not there")
    chosen = protocol.load()[task]
    for published in [generation.record for generation in read_generations(path)][:50]:
        asked = published.prompt.split("\n\n", chosen.shots)[-1]
        question = asked.split("Question: ", 1)[1].split("\n(A)")[0].removesuffix("\nAnswer:")
        context = asked.removeprefix("Context: ").split("\nQuestion: ")[0]
        bare = published.__class__(
            "test", 0, {"question": question, "context": context}, "", published.choices, published.answers
        )
        assert protocol.prompt_of(chosen, bare) == published.prompt


@pytest.mark.parametrize(
    ("task", "record", "texts"),
    [  # the text, then right under release and under paper
        ("lambada", {"answer": "signs"}, [(" Signs. And", 1, 1), ("the signs", 0, 0), ("", 0, 0)]),
        ("squad", {"answer": "Denver Broncos"}, [(" Denver broncos.\nQ", 1, 1), ("the Denver Broncos", 0, 0)]),
        ("squad", {"answer": ["Broncos", "Denver Broncos"]}, [("broncos", 1, 1), ("Denver Broncos", 1, 1)]),
        ("hellaswag", {"answer": 0, "choices": CHOICES}, [(CHOICES[0], 1, 1), ("A", 0, 1), ("opened a door", 0, 1)]),
        ("story_cloze", {"answer": CHOICES[1], "choices": CHOICES}, [("she ate the key", 1, 1), ("(B)", 0, 1)]),
        ("race", {"answer": "B", "choices": CHOICES}, [("B", 1, 1), ("ate a key", 0, 1), ("the key sang", 0, 0)]),
        ("obqa", {"answer": CHOICES[2], "choices": CHOICES}, [("answer: C", 1, 1), ("key", 0, 1), ("", 0, 0)]),
        ("mmlu", {"answer": "The key sang!", "choices": CHOICES}, [("I say: the key sang", 1, 1), ("A", 0, 0)]),
        ("siqa", {"answer": 1, "choices": CHOICES}, [("She eats.", 0, 1), ("B.", 1, 1)]),
    ],
)  # fmt: skip
def test_every_task_is_judged_by_its_rule(capsys, tmp_path, task, record, texts):
    path = write(tmp_path / "g.jsonl", *(record | {"generate": text} for text, *_ in texts))
    for place, scorer in enumerate(scoring.SCORERS, 1):
        status, [row], _ = score(capsys, "--task", task, "--scorer", scorer, "--json", path)
        assert status == 0 and row["right"] == sum(text[place] for text in texts), row
    chance = None if "choices" not in record else round(100 / 3, 4)
    assert row["chance"] == chance and row["records"] == len(texts)


def test_a_task_of_no_table_is_judged_by_choice_where_there_are_choices(capsys, tmp_path):
    asked = {"answer": "no", "choices": ["yes", "no"], "generate": "B"}
    path = write(tmp_path / "g.jsonl", asked, {"answer": "no", "generate": "No."}, {"answer": "no", "generate": "B"})
    _, [release, paper], _ = score(capsys, "--task", "mine", "--json", path)
    assert (release["right"], paper["right"], release["accuracy"]) == (2, 2, round(200 / 3, 4))


def test_several_files_are_scored_apart_and_together(capsys, tmp_path):
    right, wrong = ({"answer": "a", "generate": text} for text in ("a", "b"))
    one, other = write(tmp_path / "1.jsonl", right), write(tmp_path / "2.jsonl", right, wrong, wrong)
    _, rows, _ = score(capsys, "--task", "squad", "--scorer", "release", "--json", one, other)
    assert [(row["file"], row["records"], row["right"]) for row in rows] == [
        (str(one), 1, 1), (str(other), 3, 1), ("all files", 4, 2),
    ]  # fmt: skip


def test_the_interval_is_that_of_resampled_verdicts():
    verdicts = [True] * 30 + [False] * 70
    found = scoring.score(verdicts, [Record("", 0, {}, "", ("a", "b"), ("a",))] * 100, seed=1)
    means = np.random.default_rng(0).choice(verdicts, (4000, 100)).mean(axis=1)
    assert found.low == pytest.approx(np.quantile(means, 0.025), abs=0.011)
    assert found.high == pytest.approx(np.quantile(means, 0.975), abs=0.011)
    assert (found.accuracy, found.chance) == (0.3, 0.5)


@pytest.mark.parametrize(
    ("lines", "part"),
    [
        (['{"answer": "a", "generate": "a"}', "{"], "line 2 is not JSON"),
        (['{"answer": "a"}'], "line 1: field generate is missing"),
        (['{"generate": "a"}'], "line 1: a record needs an answer"),
        (['{"generate": "a", "answer": ""}'], "line 1: answer must be a text or a list of texts, got ''"),
        (['{"generate": "a", "answer": 3, "choices": ["x", "y"]}'], "answer=3 is not the number of one of 2 choices"),
        (['{"generate": "a", "answer": "x", "choices": "xy"}'], "choices must be a list of texts"),
        (['{"generate": "a", "answer": "x", "choices": ["x"]}'], "choices has 1 entries"),
        (['{"generate": 1, "answer": "x"}', "", "[]"], "line 1: field generate must be a text, got 1; "),
        (['{"generate": 1, "answer": "x"}', "", "[]"], "line 3: expected a record in braces"),
        (["", " "], "holds no records"),
        (['{"answer": "a", "ground_truth": "a", "generate": ""}'], "answer and ground_truth: give one of them"),
        (['{"generate": 1, "answer": "x"}'] * 7, "; and 2 more"),
    ],
)
def test_bad_records_are_named_by_file_and_line(capsys, tmp_path, lines, part):
    path = write(tmp_path / "bad.jsonl", *lines)
    status, out, err = score(capsys, "--task", "squad", path)
    assert (status, out) == (2, "") and err.startswith(f"cola-jax score: {path}") and part in err


def test_a_record_without_the_choices_that_its_rule_needs_is_named(capsys, tmp_path):
    path = write(
        tmp_path / "g.jsonl", {"answer": "a", "choices": ["a", "b"], "generate": "b"}, {"answer": "a", "generate": "b"}
    )
    for task, scorer, wanted in (("mmlu", "release", 2), ("hellaswag", "paper", 2), ("hellaswag", "release", 0)):
        status, _, err = score(capsys, "--task", task, "--scorer", scorer, path)
        assert status == wanted and (status == 0 or "line 2: no choices" in err)


def test_files_that_are_missing_or_no_text_are_one_line(capsys, tmp_path):
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe")
    assert "no such file" in score(capsys, "--task", "squad", tmp_path / "none.jsonl")[2]
    assert "is not UTF-8 text" in score(capsys, "--task", "squad", tmp_path / "binary.jsonl")[2]


# --- the protocol -----------------------------------------------------------------------------------------------------

TABLE = """
[riddle]
rule = "exact"
paper_rule = "exact"
shots = 1
lines = ["Context: {context}", "Riddle: {question}", "Answer:"]
optional = ["context"]
max_new_tokens = 8
demonstrations = [{question = "What has hands and no arms?", answer = "a clock"}]
"""


def test_a_protocol_of_ones_own_asks_as_its_lines_say(tmp_path):
    (tmp_path / "mine.toml").write_text(TABLE)
    task = protocol.load(tmp_path / "mine.toml")["riddle"]
    path = write(tmp_path / "r.jsonl", {"question": "a?", "answer": "b"}, {"question": "c?", "context": "d", "answer": "e"},
                 {"prompt": "as it is", "answer": "f"}, {"context": "d", "answer": "g"})  # fmt: skip
    shown = "Riddle: What has hands and no arms?\nAnswer: a clock\n\n"
    first, second, third, fourth = read_records(path)
    assert protocol.prompt_of(task, first) == f"{shown}Riddle: a?\nAnswer:"
    assert protocol.prompt_of(task, second) == f"{shown}Context: d\nRiddle: c?\nAnswer:"
    assert protocol.prompt_of(task, third) == "as it is"
    with pytest.raises(DataError, match="line 4: no question, which the prompt of task riddle needs"):
        protocol.prompt_of(task, fourth)


def test_braces_in_a_record_stand_for_themselves(tmp_path):
    task = protocol.load()["lambada"]
    [record] = read_records(write(tmp_path / "r.jsonl", {"context": "set {x} in {0}", "answer": "b"}))
    assert protocol.prompt_of(task, record) == "set {x} in {0}"


@pytest.mark.parametrize(
    ("old", "new", "part"),
    [
        ('"exact"', '"fuzzy"', "rule='fuzzy' is not one of first_word, exact"),
        ("shots = 1", "shots = 2", "shots=2 needs as many demonstrations, 1 are given"),
        ("shots = 1", "", "field shots is missing"),
        ("shots = 1", "shots = 1\nshot = 2", "unknown field shot"),
        ("= 8", "= 0", "max_new_tokens=0 must be at least 1"),
        ("= 8", "= true", "max_new_tokens must be int, got True"),
        ("{question}", "{question", "lines: "),
        ('answer = "a clock"', "answer = 3", "demonstration 1: expected a table with a text answer"),
        ("[riddle]", "[riddle", "is not TOML"),
    ],
)
def test_a_protocol_that_cannot_be_is_one_line(capsys, tmp_path, old, new, part):
    (tmp_path / "mine.toml").write_text(TABLE.replace(old, new, 1))
    path = write(tmp_path / "g.jsonl", {"answer": "a", "generate": "b"})
    status, _, err = score(capsys, "--task", "riddle", "--protocol", tmp_path / "mine.toml", path)
    assert status == 2 and part in err and len(err.splitlines()) == 1


def test_a_task_that_a_protocol_does_not_have_is_named(capsys, tmp_path):
    (tmp_path / "mine.toml").write_text(TABLE)
    path = write(tmp_path / "g.jsonl", {"answer": "a", "generate": "b"})
    status, _, err = score(capsys, "--task", "mmlu", "--protocol", tmp_path / "mine.toml", path)
    assert status == 2 and "task 'mmlu' is not in the protocol, which has riddle" in err


def test_the_eight_tasks_and_their_shots_are_those_of_the_paper():
    tasks = protocol.load()
    shots = {"lambada": 0, "squad": 1, "mmlu": 2, "race": 2, "story_cloze": 2, "obqa": 2, "hellaswag": 2, "siqa": 2}
    assert {name: task.shots for name, task in tasks.items() if name != protocol.OTHER} == shots
    assert all(task.max_new_tokens == 32 for task in tasks.values())
    ends = {name: task.lines[-1] for name, task in tasks.items()}
    assert (
        ends.pop("lambada") == "{context}" and ends.pop("story_cloze") == "End:" and set(ends.values()) == {"Answer:"}
    )
    for task in tasks.values():
        for demo in task.demonstrations:
            assert not demo.choices or demo.answers[0] in demo.choices
            assert scoring.is_right(Generation(demo, demo.answers[0]), task.rule, "release")


# --- what cannot be judged --------------------------------------------------------------------------------------------

CITIES = ["Paris", "Rome", "Oslo", "Bern"]
JUDGED = [  # task, record, generated, right under release, right under paper
    ("mmlu", {"answer": "1", "choices": CITIES}, "Rome", 1, 1),
    ("mmlu", {"answer": "0", "choices": CITIES}, "Bern", 0, 0),
    ("mmlu", {"answer": "1", "choices": CITIES}, "1", 0, 0),
    ("mmlu", {"answer": ["0", "B"], "choices": CITIES}, "Rome", 1, 1),
    ("mmlu", {"answer": "1", "choices": ["0", "1", "2"]}, "1", 1, 1),
    ("mmlu", {"answer": "1", "choices": ["2", "0", "1"]}, "0", 0, 0),
    ("mmlu", {"answer": "-5", "choices": ["5", "-5"]}, "5", 1, 0),
    ("mine", {"answer": "-5", "choices": ["5", "-5"]}, "5", 0, 0),
    ("mine", {"answer": "-5", "choices": ["5", "-5"]}, "-5", 1, 1),
    ("mine", {"answer": "+", "choices": ["+", "-"]}, "-", 0, 0),
    ("mine", {"answer": "+", "choices": ["+", "-"]}, "(A)", 1, 1),
    ("mine", {"answer": "C++", "choices": ["C", "C++", "C#"]}, "C", 0, 0),
    ("mine", {"answer": "C", "choices": ["C", "C++", "C#"]}, "C", 1, 1),
    ("mine", {"answer": "A", "choices": ["B", "A", "AB", "O"]}, "A", 1, 1),
    ("mine", {"answer": "Aa", "choices": ["AA", "Aa", "aa"]}, "AA", 0, 0),
    ("mine", {"answer": "5", "choices": ["5", "7"]}, "it is -5 or so", 0, 1),  # paper takes what is most similar
    ("squad", {"answer": "3.14"}, "314", 1, 0),
    ("squad", {"answer": "क"}, "कि", 1, 0),
    ("squad", {"answer": "caf\u00e9"}, "cafe\u0301", 0, 1),
    ("mine", {"answer": "3.14"}, "3.14.", 1, 1),
    ("mine", {"answer": "?"}, "", 0, 0),
    ("hellaswag", {"answer": "B", "choices": CITIES}, "Rome", 1, 1),  # exact under release: the choice's own text
]  # fmt: skip


@pytest.mark.parametrize(("task", "record", "text", "release", "paper"), JUDGED)
def test_numbers_of_choices_signs_and_marks_are_judged(capsys, tmp_path, task, record, text, release, paper):
    path = write(tmp_path / "g.jsonl", record | {"generate": text})
    _, rows, _ = score(capsys, "--task", task, "--json", path)
    assert [row["right"] for row in rows] == [release, paper]


REFUSED = [  # task, record, what is said
    ("mmlu", {"answer": "Madrid", "choices": CITIES}, "line 2: answer 'Madrid' is none of its choices 'Paris', 'Rome'"),
    ("mine", {"answer": "Madrid", "choices": CITIES}, "line 2: answer 'Madrid' is none of its choices"),
    ("mine", {"answer": "7", "choices": CITIES}, "line 2: answer '7' is none of its choices"),
    ("hellaswag", {"answer": "Madrid", "choices": CITIES}, "line 2: answer 'Madrid' is none of its choices"),
    ("squad", {"answer": "+"}, "line 2: answer '+' is empty under scorer release"),
    ("squad", {"answer": ["a", "..."]}, "line 2: answer '...' is empty under scorer release"),
    ("mine", {"answer": "\u200b"}, "line 2: answer '\\u200b' is empty under scorer release"),
    ("mine", {"answer": "Rome", "choices": ["Rome", "Rome", "Oslo"]}, "line 2: choice 'Rome' is given twice"),
    ("mine", {"answer": "a", "choices": ["caf\u00e9", "cafe\u0301", "a"]}, "is given twice"),
]


@pytest.mark.parametrize(("task", "record", "part"), REFUSED)
def test_what_no_scorer_can_judge_is_refused_by_record(capsys, tmp_path, task, record, part):
    good = {"answer": "Rome", "choices": CITIES, "generate": "Rome"}
    path = write(tmp_path / "g.jsonl", good, record | {"generate": "Rome"})
    status, out, err = score(capsys, "--task", task, path)
    assert (status, out) == (2, "") and part in err and len(err.splitlines()) == 1


def test_scorer_paper_judges_what_release_cannot(capsys, tmp_path):
    path = write(tmp_path / "g.jsonl", {"answer": "+", "generate": "-"}, {"answer": "+", "generate": "+"})
    _, [row], _ = score(capsys, "--task", "squad", "--scorer", "paper", "--json", path)
    assert row["right"] == 1


def test_the_published_generations_keep_their_figures_under_scorer_paper(capsys):
    for task, right in {"lambada": 508, "mmlu": 256, "siqa": 322, "squad": 309}.items():
        path = PUBLISHED / f"{task}.jsonl"
        if not path.is_file():
            pytest.skip(f"{path.name}, the published generations, is not there")
        _, [row], _ = score(capsys, "--task", task, "--scorer", "paper", "--json", path)
        assert row["right"] == right


def test_records_with_a_bom_and_with_half_a_character(capsys, tmp_path):
    (tmp_path / "g.jsonl").write_bytes(b'\xef\xbb\xbf{"answer": "a", "generate": "a"}\r\n')
    assert score(capsys, "--task", "squad", "--json", tmp_path / "g.jsonl")[1][0]["right"] == 1
    (tmp_path / "g.jsonl").write_text('{"answer": "a", "generate": "\\ud83d"}\n')
    status, _, err = score(capsys, "--task", "squad", tmp_path / "g.jsonl")
    assert status == 2 and "g.jsonl, line 1 is not valid Unicode" in err


@pytest.mark.parametrize(
    "name", ["../x", "a/b", "", ".", "..", ".a", "a\n", "a" * 101, "summary.csv", "a\x00b", "tinyworld"]
)
def test_a_name_that_would_leave_the_folder_of_answers_is_refused(name):
    if name == "tinyworld":
        assert protocol.task_of(protocol.load(), "tinyworld C++ (2).1").signs, (
            "a name of letters, spaces and signs is one"
        )
        return
    with pytest.raises(DataError, match="cannot name its folder of answers"):
        protocol.task_of(protocol.load(), name)


@pytest.mark.parametrize(
    ("old", "new", "part"),
    [
        ("\n[riddle]", "\ufeff[riddle]", None),
        ("{question}", "{question.x}", "{question.x} is not the name of a field"),
        ("{question}", "{0}", "{0} is not the name of a field"),
        ("{question}", "{question:>9}", "has a format after a name"),
        ('answer = "a clock"', 'answer = "a", choices = "ab"', "choices must be a list of texts, got 'ab'"),
        ("shots = 1", 'shots = 1\nrecords = "hdfs://b/r"', "records hdfs://b/r: hdfs:// is not supported"),
    ],
)
def test_more_of_what_a_protocol_may_hold(capsys, tmp_path, old, new, part):
    (tmp_path / "mine.toml").write_text(TABLE.replace(old, new, 1))
    path = write(tmp_path / "g.jsonl", {"answer": "a", "generate": "b"})
    status, _, err = score(capsys, "--task", "riddle", "--protocol", tmp_path / "mine.toml", path)
    assert status == (2 if part else 0) and (part or "") in err
