"""Which choice a text means, by the rules of SPEC 7, on texts written for each rule."""

import pytest

from cola_jax.evaluate import answers
from cola_jax.evaluate.normal_forms import published

COLOURS = ("red paint", "blue paint", "green paint", "a yellow door")


def test_an_answer_ends_at_the_first_newline_that_has_a_word_before_it():
    assert answers.cut(" Anna\nQuestion: who") == " Anna"
    assert answers.cut("\n\n . \n Anna\nBen") == "\n\n . \n Anna"
    assert answers.cut("Anna") == "Anna"
    assert answers.cut("\n.\n") == "\n.\n"


def test_the_normal_form_has_word_characters_and_single_spaces_alone():
    assert published("  The “Golden\tAnniversary”!  of\n1.5 É ") == "the golden anniversary of 15 é"
    assert answers.first_word("...signs, and more") == "signs"
    assert answers.first_word(" - ") == ""


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", 1), (" b ", 1), ("(C)", 2), ("[d].", 3), ("A.", 0), ("E", None), ("", None),  # alone, within the choices
        ("the answer is B because of C", 1), ("option: (c)", 2), ("choice = D", 3), ("answer A, no, option B", 1),
        ("the answer is bad", None), ("my answer E", None),  # a letter that goes on, and one that is no choice
        ("it must be (B)", 1), ("(A) or (B)", 1), ("(A) is what I would say if I had to choose now", None),  # 40 characters
        ("a red one", None),
    ],
)  # fmt: skip
def test_a_letter_is_found(text, letter):
    assert answers.by_letter(text, COLOURS) == letter


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("Blue, paint!", 1), ("the correct answer is green paint", 2), ("Final answer = red paint.", 0),
        ("they used the blue paint there", 1), ("red paint and blue paint", None), ("a yellow doors", 3), ("yellow", None),
        ("the answer", None), ("", None),
    ],
)  # fmt: skip
def test_a_choice_is_found_by_its_text(text, choice):
    assert answers.by_text(text, COLOURS) == choice


def test_a_choice_without_a_word_character_is_not_what_everything_contains():
    assert answers.by_text("", ("+", "plus")) is None
    assert answers.by_text("plus one", ("+", "plus")) == 1


def test_what_follows_the_last_answer_counts_before_the_rest():
    assert answers.answer_segment("it is blue paint. Answer: red paint") == "red paint"
    assert answers.answer_segment("\nanswer is A\nfinal answer = B") == "B"
    assert answers.choice_of("it is blue paint. Answer: red paint", COLOURS) == 0
    assert answers.choice_of("blue paint. Answer: who knows", COLOURS) == 1, "then the whole text"
    assert answers.choice_of("no idea", COLOURS) is None


def test_the_most_similar_choice_is_taken_however_little_it_is():
    assert answers.most_similar("yello", COLOURS, 0.0) == 3
    assert answers.most_similar("yello", COLOURS, 0.9) is None
    assert answers.most_similar("", COLOURS, 0.0) is None
