"""A field of a source that its kind does not read is refused by name."""

import dataclasses

import pytest

from cola_jax.config.fields import CHOICES, DataConfig, SourceConfig
from cola_jax.config.source_fields import READ, problems


def of(*sources, **fields):
    return problems(dataclasses.replace(DataConfig(), sources=sources, **fields))


def test_every_kind_has_its_fields():
    assert set(READ) == set(CHOICES["data.sources.kind"])
    assert all(of(SourceConfig(kind=kind)) == [] for kind in READ)


@pytest.mark.parametrize("kind", READ)
@pytest.mark.parametrize("name", ["path", "field", "split", "weight"])
def test_a_field_away_from_its_default_is_refused_where_it_is_not_read(kind, name):
    value = {"path": ("somewhere",), "field": "body", "split": "test", "weight": 2.0}[name]
    found = of(SourceConfig(), dataclasses.replace(SourceConfig(kind=kind), **{name: value}))
    if name in READ[kind]:
        assert found == []
    else:
        [line] = found
        assert line.startswith(f"data.sources.1.{name}={value!r} is not read by kind {kind!r}: ")


def test_entries_that_would_be_dropped_are_refused():
    assert of(SourceConfig(kind="text", path=("a", "b", "c"))) == []
    assert "takes at most one entry" in of(SourceConfig(kind="prepared", path=("a", "b")))[0]
    assert "takes at most 2 entries" in of(SourceConfig(kind="tfds", path=("a", "b", "c")))[0]


@pytest.mark.parametrize("name", ["threads", "prefetch", "seed", "generated_documents", "heldout_documents"])
def test_negative_numbers_are_refused(name):
    assert of(SourceConfig(), **{name: -1}) == [f"data.{name}=-1 must not be negative"]


def test_seeds_have_64_bits():
    assert of(SourceConfig(), seed=2**64 - 1) == []
    assert of(SourceConfig(), seed=2**64) == [f"data.seed={2**64} must be below 2**64"]


@pytest.mark.parametrize("weight", [float("nan"), float("inf")])
def test_weights_are_finite(weight):
    assert of(SourceConfig(weight=weight)) == [f"data.sources.0.weight={weight} must be a finite number"]
