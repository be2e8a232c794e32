"""The built-in tasks on the small world: right answers are right, options differ, and nothing but the seed decides."""

import pytest

from cola_jax.data import tinyworld, tinyworld_check
from cola_jax.data.errors import DataError
from cola_jax.data.sentencepieces import train_sentencepiece
from cola_jax.data.tokenizers import BytesTokenizer
from cola_jax.evaluate import protocol, scoring, summary, world_tasks
from cola_jax.evaluate.records import Generation

NAMES = [world_tasks.BUILT_IN + name for name in world_tasks.FORMS]
OPTIONS = {"lambada": 0, "squad": 0, "mmlu": 4, "obqa": 4, "race": 4, "hellaswag": 4, "siqa": 3, "story_cloze": 2}


def test_there_is_one_for_each_benchmark():
    assert set(world_tasks.FORMS) == set(protocol.load()) - {protocol.OTHER} == set(OPTIONS)


@pytest.mark.parametrize("name", NAMES)
def test_records_are_heldout_stories_whose_answer_the_checker_confirms(name):
    records = world_tasks.records_of(name, seed=3, count=30)
    for record in records:
        whole = f"{record.prompt} {record.answers[0]}."
        report = tinyworld_check.check(whole)
        assert report.entailed and report.consistent and tinyworld.split_of(whole) == "heldout"
        assert len(set(record.choices)) == len(record.choices) == OPTIONS[name.split("/")[1]]
        assert not record.choices or record.answers[0] in record.choices
        assert record.chance is None if record.choices else record.chance == report.chance
    if OPTIONS[name.split("/")[1]]:
        places = [record.choices.index(record.answers[0]) for record in records]
        assert len(set(places)) == len(records[0].choices), "the right option stands anywhere"
    assert records == world_tasks.records_of(name, seed=3, count=30) != world_tasks.records_of(name, seed=4, count=30)
    assert records[:10] == world_tasks.records_of(name, seed=3, count=10)


def test_tasks_have_stories_of_their_own():
    prompts = {name: {record.prompt for record in world_tasks.records_of(name, 0, 20)} for name in NAMES}
    assert len(set.union(*prompts.values())) > 0.95 * sum(map(len, prompts.values()))


@pytest.mark.parametrize("name", NAMES)
def test_right_answers_score_all_and_guesses_score_chance(name):
    records = world_tasks.records_of(name, 0, 60)
    task = world_tasks.task_of(name, records, BytesTokenizer())
    perfect = [Generation(record, f" {record.answers[0]}.") for record in records]
    assert [row["accuracy"] for row in summary.scored(task, perfect, scoring.SCORERS)] == [100.0, 100.0]
    silent = [Generation(record, "") for record in records]
    assert [row["accuracy"] for row in summary.scored(task, silent, scoring.SCORERS)] == [0.0, 0.0]
    if records[0].choices:
        always = [
            [
                scoring.is_right(Generation(record, choice), task.rule_of("release"), "release")
                for choice in record.choices
            ]
            for record in records
        ]
        assert all(sum(verdicts) == 1 for verdicts in always), "of the options exactly one is right"
        chance = 100 / len(records[0].choices)
        assert summary.scored(task, perfect, scoring.SCORERS)[0]["chance"] == pytest.approx(chance, abs=1e-3)


def test_the_longest_answer_fits_whatever_the_tokenizer():
    records = world_tasks.records_of("tinyworld/squad", 0, 60)
    words = train_sentencepiece([tinyworld.story(0, "train", i) for i in range(200)], 640)
    for tokenizer in (words, BytesTokenizer()):
        task = world_tasks.task_of("tinyworld/squad", records, tokenizer)
        longest = max(
            len(tokenizer.encode(f"{r.prompt} {r.answers[0]}.")) - len(tokenizer.encode(r.prompt)) for r in records
        )
        assert task.max_new_tokens == longest + 1, "and the end of the document"


def test_the_checkers_figures_are_of_what_was_written():
    records = world_tasks.records_of("tinyworld/squad", 0, 10)
    pairs = [
        (record.prompt, f" {record.answers[0]}." if n < 5 else " kitchen the.") for n, record in enumerate(records)
    ]
    assert world_tasks.checked(pairs) == {"well_formed": 50.0, "entailed": 50.0}


def test_names_and_counts_that_cannot_be_are_refused(monkeypatch):
    with pytest.raises(DataError, match="task 'tinyworld/arc' is not one of tinyworld/lambada, tinyworld/mmlu"):
        world_tasks.records_of("tinyworld/arc", 0, 5)
    monkeypatch.setitem(world_tasks.FORMS, "race", world_tasks.TaskForm(4, "choice", "choice", sentences=99))
    with pytest.raises(DataError, match="task tinyworld/race: 0 of 200 stories suit it, 2 records are requested"):
        world_tasks.records_of("tinyworld/race", 0, 2)
