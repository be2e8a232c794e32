"""A field of a source that its kind does not read is refused by name."""

import dataclasses

import pytest

from cola_jax.config import ConfigError, RunConfig
from cola_jax.config.build import settle
from cola_jax.config.fields import CHOICES, DataConfig, SourceConfig
from cola_jax.config.reads import unread_fields
from cola_jax.config.source_fields import READS, too_many_paths


def of(*sources):
    return RunConfig(data=dataclasses.replace(DataConfig(), sources=sources))


def test_every_kind_has_its_fields():
    assert set(READS) == set(CHOICES["data.sources.kind"])


@pytest.mark.parametrize("kind", READS)
@pytest.mark.parametrize("name", ["path", "field", "split", "weight"])
def test_a_field_away_from_its_default_is_refused_where_it_is_not_read(kind, name):
    value = {"path": ("somewhere",), "field": "body", "split": "test", "weight": 2.0}[name]
    cfg = of(SourceConfig(), dataclasses.replace(SourceConfig(kind=kind), **{name: value}))
    path = f"data.sources.1.{name}"
    if name in READS[kind]:
        assert path not in unread_fields(cfg) and settle(cfg) == cfg
    else:
        with pytest.raises(ConfigError, match=f"{path}=.* is not read by kind '{kind}'"):
            settle(cfg)


def test_entries_that_would_be_dropped_are_refused():
    assert too_many_paths(of(SourceConfig(kind="text", path=("a", "b", "c"))).data) == []
    assert "takes at most one entry" in too_many_paths(of(SourceConfig(kind="prepared", path=("a", "b"))).data)[0]
    assert "takes at most 2 entries" in too_many_paths(of(SourceConfig(kind="tfds", path=("a", "b", "c"))).data)[0]
