"""Progress: a bar on a terminal, lines in a log, and nothing where the work is short."""

import itertools

import pytest

from cola_jax.data import progress_bar


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes on by ten seconds each time it is read."""
    times = itertools.count(0, 10)
    monkeypatch.setattr(progress_bar.time, "monotonic", lambda: float(next(times)))


def test_a_log_gets_plain_lines_now_and_then(capsys, clock):
    assert list(progress_bar.bar(range(9), "squad", "answers")) == list(range(9))
    lines = capsys.readouterr().err.split("\n")
    assert lines == [
        "squad: 2 answers of 9, 105 s left",
        "squad: 5 answers of 9, 48 s left",
        "squad: 8 answers of 9, 11 s left",
        "",
    ]


def test_without_a_length_the_lines_tell_what_is_done(capsys, clock):
    assert len(list(progress_bar.bar(iter(range(4)), "squad", "answers"))) == 4
    assert capsys.readouterr().err == "squad: 2 answers\n"


def test_short_work_says_nothing(capsys):
    assert list(progress_bar.bar([1, 2], "squad", "answers")) == [1, 2]
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_a_bar(monkeypatch):
    told = []
    monkeypatch.setattr(progress_bar.sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(
        progress_bar, "tqdm", lambda items, label, total, **rest: told.append((label, total, rest)) or items
    )
    assert list(progress_bar.bar(iter("ab"), "squad", "answers", 2)) == ["a", "b"]
    assert told == [("squad", 2, {"unit": " answers", "delay": 5.0})]
