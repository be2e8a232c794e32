"""A trained run as a writer: streams, batches, cuts and what it refuses."""

import dataclasses

import pytest
import tiny

from cola_jax.config import ConfigError
from cola_jax.data import tinyworld
from cola_jax.data.sentencepieces import train_sentencepiece
from cola_jax.families import FAMILIES
from cola_jax.families.family import Generator
from cola_jax.generate.prompts import PromptError
from cola_jax.runs.writer import Cut, Writer
from cola_jax.train.stored import CheckpointError

PROMPTS = ["Anna has ", "", "Story 3. Anna gives", "ä — ß"]


@pytest.fixture(scope="module")
def writer(trained):
    return Writer.load(trained["joint"]).with_sampling(temperature=1.0, stop_at_eos=False)


@pytest.fixture(scope="module")
def written(writer):
    return writer.write(PROMPTS)


def test_a_stream_joins_to_what_is_written(writer, written):
    pieces = list(writer.stream(PROMPTS[0]))
    assert len(pieces) > 2
    assert "".join(pieces) == writer.write(PROMPTS[:1])[0] == written[0]


def test_the_batch_does_not_change_the_text_of_a_prompt(writer, written):
    for number in (2, 3):
        assert writer.write([PROMPTS[number]], samples=[number]) == [written[number]]


def test_the_seed_and_the_number_of_a_prompt_change_its_text(writer, written):
    assert writer.write(PROMPTS) == written
    assert writer.write(PROMPTS, seed=1)[0] != written[0]
    assert writer.write([PROMPTS[0]], samples=[7])[0] != written[0]


def test_a_continuation_keeps_the_space_behind_its_prompt(monkeypatch):
    tokenizer = train_sentencepiece([tinyworld.story(0, "train", i) for i in range(200)], 640)
    told = tinyworld.story(0, "train", 0)
    prompt = tinyworld.prompt_of(told)
    ids = tokenizer.encode(told)
    new = ids[len(tokenizer.encode(prompt)) :]
    blocks = [([new[start : start + 4]], None) for start in range(0, len(new), 4)]
    family = dataclasses.replace(FAMILIES["cola"], generator=Generator(lambda *given, **named: iter(blocks), step=None))
    monkeypatch.setitem(FAMILIES, "cola", family)
    cfg = tiny.config(vae__vocab_size=tokenizer.vocab_size, sampling__max_new_tokens=len(new))
    assert prompt + Writer(cfg, {}, tokenizer).write([prompt])[0] == told


def test_a_text_has_at_most_the_tokens_asked_for(writer, written):
    assert len(written) == len(PROMPTS) and all(0 < len(text) <= 10 for text in written), "a token is a byte"
    shorter = writer.write([PROMPTS[0]], max_new_tokens=3)[0]
    assert written[0].startswith(shorter.rstrip("\N{REPLACEMENT CHARACTER}"))
    assert len(writer.write([PROMPTS[0]], max_new_tokens=30)[0]) > len(written[0])


def test_sampling_fields_change_for_one_call_or_for_a_new_writer(writer):
    greedy = writer.with_sampling(temperature=0.0)
    assert (writer.cfg.sampling.temperature, greedy.cfg.sampling.temperature) == (1.0, 0.0)
    assert greedy.cfg.vae == writer.cfg.vae and greedy.params is writer.params
    assert writer.write(PROMPTS, temperature=0.0) == greedy.write(PROMPTS)
    assert writer.with_sampling().cfg == writer.cfg


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temprature": 1.0}, "no such sampling field: temprature (known: max_new_tokens,"),
        ({"steps": 0}, "sampling.steps=0 must be at least 1"),
        ({"steps": "many"}, "sampling.steps must be int, got 'many'"),
        ({"steps": 1.5}, "sampling.steps must be int, got 1.5"),
        ({"solver": "rk4"}, "sampling.solver='rk4' is not one of euler, midpoint, heun"),
        ({"top_p": 2.0}, "sampling.top_p=2.0 must be more than 0 and at most 1"),
    ],
)
def test_sampling_that_cannot_be_is_refused(writer, changes, message):
    with pytest.raises(ConfigError) as error:
        writer.write(PROMPTS, **changes)
    assert message in str(error.value)


def test_prompts_must_be_text_and_at_least_one(writer):
    with pytest.raises(PromptError, match="prompt 1 is int, expected text"):
        writer.write(["a", 3])
    with pytest.raises(PromptError, match="no prompts were given"):
        writer.write([])


def test_a_run_that_does_not_write_is_refused(trained, tmp_path):
    with pytest.raises(ConfigError, match="family 'text_vae', which does not generate text by itself"):
        Writer.load(trained["vae"])
    with pytest.raises(CheckpointError, match="no checkpoint"):
        Writer.load(tmp_path)


def test_a_cut_ends_at_the_budget():
    cut = Cut(5, None)
    assert (cut([1, 2, 3]), cut.done) == ([1, 2, 3], False)
    assert (cut([4, 5, 6]), cut.done) == ([4, 5], True)
    assert cut([7]) == []


def test_a_cut_ends_before_the_end_of_the_document():
    cut = Cut(10, 9)
    assert (cut([1, 2]), cut.done) == ([1, 2], False)
    assert (cut([3, 9, 4, 9]), cut.done) == ([3], True)
    assert cut([5]) == []


def test_an_end_behind_the_budget_does_not_count():
    cut = Cut(2, 9)
    assert (cut([1, 2, 9]), cut.done) == ([1, 2], True)
    exactly = Cut(2, 9)
    assert (exactly([1, 9]), exactly.done) == ([1], True)


def test_the_text_ends_where_the_document_does(writer, monkeypatch):
    def family_that_ends(cfg, params, prompts, rows):
        yield [[104, 105, 33]], None
        yield [[33, 257, 104]], None
        yield [[104, 104, 104]], None

    from cola_jax.runs import writer as module

    family = module.FAMILIES["cola"]
    monkeypatch.setitem(
        module.FAMILIES, "cola", dataclasses.replace(family, generator=Generator(family_that_ends, step=None))
    )
    assert list(writer.with_sampling(stop_at_eos=True).stream("x")) == ["hi!", "!", ""]
    assert writer.write(["x"], max_new_tokens=9) == ["hi!!hhhh"]
