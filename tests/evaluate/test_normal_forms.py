"""Which texts count as the same answer: what the published form drops, what the signed one keeps and forgives."""

import pytest

from cola_jax.evaluate.normal_forms import as_written, published, signed, signed_form, without_case

DIFFERENT = [
    ("3.14", "314"), ("-5", "5"), ("1/5", "15"), ("1,0", "10"), ("+", "-"), ("<", ">"), ("C", "C++"), ("C#", "C"),
    ("10 %", "10"),    ("$5", "5"), ("€5", "$5"), (".5", "5"), ("x²", "x2"), ("2^3", "23"),
    ("a-b", "ab"), ("Cl-", "Cl"), ("Ca2+", "Ca2"), ("5°", "5"),
    ("कि", "क"), ("résumé", "resume"), ("Anna's", "Annas"),
    ("−i", "i"), ("?", ""), ("x = 5", "x 5"), ("f(2)", "f2"), ("#1", "1"),
]  # fmt: skip
ALIKE = [
    ("café", "cafe\u0301"), ("１２", "12"), ("Rome.", "rome"), ("(Rome)", "Rome"), ("“Rome”", "Rome"), ("**Rome**", "Rome"),
    ("Rome\u200b", "Rome"), ("two\u00a0words", "two  words"), ("−5", "-5"), ("3–5", "3-5"), ("it’s", "it's"), ("-5.", "-5"),
    ("$5.00!", "$5.00"), ("ﬁne", "fine"), ("the word —", "the word"), ("well, yes", "well yes"),
    ("- Rome", "Rome"), ("東京。", "東京"),
    ("lost-", "lost"), ("¿Qué?", "qué"), ("'5'", "5"), ("क।", "क"),
]  # fmt: skip


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_signs_points_and_marks_tell_texts_apart(one, other):
    assert signed(one) != signed(other)


@pytest.mark.parametrize(("one", "other"), ALIKE)
def test_what_surrounds_a_word_case_and_encoding_are_forgiven(one, other):
    assert signed(one) == signed(other)


@pytest.mark.parametrize("form", [published, signed, without_case, as_written])
def test_a_normal_form_is_its_own(form):
    for text in {text for pair in DIFFERENT + ALIKE for text in pair}:
        assert form(form(text)) == form(text), text


def test_the_published_form_is_that_of_the_published_numbers():
    assert published("3.14 — C++!") == "314 c" and published("कि") == "क" and published("?") == ""


@pytest.mark.parametrize(
    ("choices", "form"),
    [
        (("Rome", "Oslo"), signed), (("5", "-5"), signed), (("+", "-"), signed), (("[0, 1)", "(0, 1]"), without_case),
        (("AA", "Aa", "aa"), as_written), (("Rome", "Rome", "Oslo"), signed), (("AA", "Aa", "AA"), as_written),
    ],
)  # fmt: skip
def test_choices_are_compared_in_the_most_forgiving_form_that_tells_them_apart(choices, form):
    assert signed_form(choices) is form
