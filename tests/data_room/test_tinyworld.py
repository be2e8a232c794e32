"""The small world: its stories are reproducible, apart by split, readable, and the checker finds what is wrong."""

import hashlib
import random

import pytest

from cola_jax.data import tinyworld, tinyworld_words
from cola_jax.data.errors import DataError
from cola_jax.data.tinyworld_check import aggregate, by_question, check

COUNT = 1500
FIRST_STORIES_SHA256 = "ef8bccc105866d24"


@pytest.fixture(scope="module")
def stories():
    return [tinyworld.story(3, "train", i) for i in range(COUNT)]


def test_a_story_is_a_function_of_seed_split_and_index(stories):
    assert stories[7] == tinyworld.story(3, "train", 7)
    assert len({stories[7], tinyworld.story(4, "train", 7), tinyworld.story(3, "heldout", 7), stories[8]}) == 4
    assert len(set(stories)) == COUNT


def test_the_stories_of_a_seed_stay_what_they_are():
    text = "\n".join(tinyworld.story(0, "train", index) for index in range(10))
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == FIRST_STORIES_SHA256


def test_no_story_can_belong_to_both_splits(stories):
    heldout = [tinyworld.story(seed, "heldout", i) for seed in (3, 4) for i in range(50)]
    assert {tinyworld.split_of(text) for text in stories} == {"train"}
    assert {tinyworld.split_of(text) for text in heldout} == {"heldout"}
    assert not set(stories) & set(heldout)


def test_an_unknown_split_is_refused():
    with pytest.raises(DataError, match="'test'.*train, heldout"):
        tinyworld.story(0, "test", 0)


def test_every_story_is_well_formed_possible_and_answered_right(stories):
    shares = aggregate(stories)
    assert (shares["well_formed"], shares["entailed"], shares["consistent"]) == (1.0, 1.0, 1.0)


def test_every_kind_of_question_is_asked_and_none_can_be_answered_by_chance(stories):
    kinds = by_question(stories)
    assert len(kinds) == 8
    assert all(kind["stories"] > 0.01 * COUNT and kind["chance"] <= 0.5 for kind in kinds.values())
    assert all(report.expected in report.choices for report in map(check, stories))


def test_another_answer_is_not_entailed(stories):
    for text in stories[:300]:
        report = check(text)
        right = tinyworld.answer_of(text)
        for choice in report.choices:
            other = tinyworld.question_prompt(text) + " " + right.replace(report.expected, choice)
            assert check(other).entailed == (choice == report.expected)


def test_scrambled_words_are_not_well_formed(stories):
    rng = random.Random(0)
    scrambled = []
    for text in stories[:300]:
        words = text.split()
        rng.shuffle(words)
        scrambled.append(" ".join(words))
    shares = aggregate(scrambled)
    assert shares["well_formed"] < 0.15 and shares["entailed"] < 0.02 and shares["consistent"] == 0.0


def test_one_wrong_word_spoils_its_sentence_alone(stories):
    for text in stories[:100]:
        wrong = text.replace("was in", "was on", 1).replace("There was", "There on", 1)
        report = check(wrong)
        assert report.sentences - report.well_formed <= 2
        assert report.well_formed < report.sentences or wrong == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Anna was in the barn. Tom gave the key to Anna. Anna went to the park. Where is the key?", "park"),
        ("Anna had a red key. She painted the key blue. What colour is the key?", "blue"),
        ("Anna was in the barn. Ben was in the hall. Then he went to the park. Where is Ben?", "park"),
        ("Anna had a red key. Anna gave Tom the key. Who has the key?", "Tom"),
        ("A box stood in the hall. A red key lay in the box. What is in the box?", "key"),
        ("A box stood in the hall. A red key lay in the box. Where is the key?", "hall"),
        ("Anna sang and danced. Anna took the key. What did Anna do first?", "sang"),
        ("Anna sang and danced. Anna took the key. What did Anna do last?", "took the key"),
        ("Anna had a red key. The key belonged to Tom. Who owns the key?", "Tom"),
        ("Anna was in the barn. Where is Tom?", ""),
        ("Anna and Ben went to the barn. Ben went to the hall. Where is Anna?", "barn"),
        ("Anna had a red key. Anna went to the barn. Anna dropped the key. Anna went to the hall. Where is the key?", "barn"),
    ],
)  # fmt: skip
def test_the_checker_follows_the_events_of_a_story(text, expected):
    assert check(text).expected == expected


@pytest.mark.parametrize(
    "text",
    [
        "Anna was in the barn. Anna dropped the key.",
        "Anna was in the barn. A red key lay in the hall. Anna took the key.",
        "Anna was in the barn. Anna went to the barn.",
        "Anna was in the barn and had a red key. Tom was in the hall. Anna gave the key to Tom.",
        "A red key lay in the hall. Anna was in the hall. Anna took the blue key.",
        "Tom was in the barn. She sang.",
    ],
)
def test_an_impossible_event_is_well_formed_but_not_consistent(text):
    report = check(text)
    assert report.well_formed == report.sentences and report.impossible == 1 and not report.consistent


@pytest.mark.parametrize("text", ["", " ", "?", ":", ". . .", "Answer:", "Where is Anna? Answer:", "\x00\ud800 日本"])
def test_the_checker_reads_any_text(text):
    assert not check(text).entailed


def test_prompts_leave_a_sentence_question_and_answer_to_be_written(stories):
    for text in stories[:300]:
        prompt, asked = tinyworld.prompt_of(text), tinyworld.question_prompt(text)
        assert text.startswith(prompt) and prompt.endswith(".") and 1 <= prompt.count(".") <= 2
        assert text[len(prompt) : text.index("?")].count(".") >= 1
        assert asked.endswith("Answer:") and f"{asked} {tinyworld.answer_of(text)}" == text


def test_words_have_one_class_and_stories_no_other_words(stories):
    more = [tinyworld.story(3, "train", index) for index in range(COUNT, 2 * COUNT)]
    words = {word.strip(".?:") for text in [*stories, *more] for word in text.split()}
    assert words <= set(tinyworld_words.vocabulary()) and len(words) > 250
    classes = [word for group in tinyworld_words.CLASSES.values() for word in group]
    assert len(classes) == len(set(classes))
    examples = {
        "Anna": "person",
        "park": "place",
        "\u2581box": "object",
        "red.": "colour",
        "took": "verb",
        "the": "other",
    }
    assert {word: tinyworld.word_class(word) for word in examples} == examples


def test_what_was_told_last_is_asked_about_the_most_often(stories):
    lengths, latest = [], 0
    for text in stories:
        told = text[: text.index("?")].split(". ")[:-1]
        question = check(text)
        lengths.append(len(told))
        latest += check(text.replace(told[-1] + ". ", "", 1)).expected != question.expected
    assert {2, 3, 4, 5} <= set(lengths) and 0.5 < latest / len(stories) < 0.95
