"""Stories continued and judged."""

import dataclasses

import pytest
from small_world import writer

from cola_jax.config import ConfigError
from cola_jax.data import tinyworld
from cola_jax.evaluate import stories, variety

STORY = "Anna was in the kitchen. Anna went to the garden. Where is Anna? Answer: the garden."


def test_figures_count_what_was_written_and_not_the_prompt():
    opening, rest = STORY[:24], STORY[24:]
    assert stories.story_figures([(opening, rest)])["well_formed"] == 1.0
    assert stories.story_figures([(opening, " Anna kitchen the. Anna slept.")])["well_formed"] == 0.5
    assert stories.story_figures([(opening, "")])["well_formed"] == 0.0


def test_a_sentence_that_the_prompt_begins_counts_once_it_is_completed():
    figures = lambda rest: stories.story_figures([(STORY[:15], rest)])["well_formed"]
    assert figures(STORY[15:24]) == figures(STORY[15:]) == 1.0
    assert figures(" garden kitchen.") == figures("") == 0.0


def test_only_the_entailed_answer_counts():
    asked = tinyworld.question_prompt(STORY)
    pairs = [(asked, " the garden."), (asked, " the kitchen."), (asked, ""), (asked, " the garden")]
    figures = stories.story_figures(pairs)
    assert figures["entailed"] == 0.25
    assert figures["chance"] == pytest.approx(0.5)
    assert figures["well_formed"] == pytest.approx(2 / 3)


def test_whole_heldout_stories_are_perfect_and_no_copies():
    cfg = writer().cfg
    texts = [tinyworld.story(cfg.data.seed, "heldout", index) for index in range(20)]
    pairs = [(tinyworld.prompt_of(text), text[len(tinyworld.prompt_of(text)) :]) for text in texts]
    training = stories.training_stories(cfg)
    figures = stories.story_figures(pairs, training)
    assert (figures["well_formed"], figures["entailed"], figures["consistent"]) == (1.0, 1.0, 1.0)
    assert figures["copied"] == 0.0 and len(training) == cfg.data.generated_documents
    copied = next(iter(training))
    assert stories.story_figures([(copied[:10], copied[10:])], training)["copied"] == 1.0


def test_distinct_pairs_fall_with_repetition_and_stand_no_text():
    assert variety.distinct(["a b c d"], 2) == 1.0
    assert variety.distinct(["a b a b a"], 2) == 0.5
    assert variety.distinct([""], 2) == variety.distinct([], 2) == 0.0
    assert stories.story_figures([])["stories"] == 0.0


@pytest.mark.slow
def test_a_continuation_is_what_the_writer_writes():
    small = writer()
    pairs = stories.continuations(small, 3, seed=5, batch_size=2)
    prompts = [prompt for prompt, _ in pairs]
    assert prompts == [tinyworld.prompt_of(tinyworld.story(small.cfg.data.seed, "heldout", i)) for i in range(3)]
    assert [text.strip() for _, text in pairs] == [text.strip() for text in small.write(prompts, seed=5)]


def test_watching_sees_the_text_that_is_returned():
    seen: dict[int, list[str]] = {}
    pairs = stories.continuations(
        writer(), 3, seed=0, batch_size=2, watch=lambda n, new: seen.setdefault(n, []).append(new)
    )
    assert sorted(seen) == [0, 2]
    assert ["".join(pieces) for pieces in zip(*seen[0])] == [text for _, text in pairs[:2]]


def test_a_sweep_repeats_itself_whatever_the_batch_size():
    small = writer()
    settings = stories.cross((2.0,), (), small)
    rows = stories.sweep(small, settings, 5, seed=3, batch_size=2)
    assert rows == stories.sweep(small, settings, 5, seed=3, batch_size=3)
    assert [(row["guidance"], row["steps"], row["stories"]) for row in rows] == [(2.0, 2, 5.0)]


def test_a_setting_that_is_asked_for_twice_is_tried_once():
    settings = stories.cross((1.0, 2.0), (1, 2), writer())
    assert [(s.guidance, s.steps) for s in settings] == [(1.0, 2), (2.0, 1), (2.0, 2)]


def test_noise_differs_by_seed():
    one, other = (stories.continuations(writer(), 2, seed=seed, batch_size=2) for seed in (0, 1))
    assert [prompt for prompt, _ in one] == [prompt for prompt, _ in other] and one != other


def test_prompts_that_cannot_be_are_refused_by_name():
    small = writer()
    with pytest.raises(ConfigError, match="prompt='middle' is not one of opening, question"):
        stories.continuations(small, 2, 0, "middle")
    with pytest.raises(ConfigError, match="0 prompts"):
        stories.continuations(small, 0, 0)
    with pytest.raises(ConfigError, match="steps"):
        stories.continuations(small, 1, 0, steps=0)
    known = writer()
    pydocs = (dataclasses.replace(known.cfg.data.sources[0], kind="pydocs"),)
    data = dataclasses.replace(known.cfg.data, sources=pydocs)
    other = dataclasses.replace(known, cfg=dataclasses.replace(known.cfg, data=data))
    with pytest.raises(ConfigError, match="data.sources.kind is pydocs, expected tinyworld"):
        stories.continuations(other, 2, 0)
    with pytest.raises(ConfigError, match="pydocs"):
        stories.training_stories(other.cfg)
