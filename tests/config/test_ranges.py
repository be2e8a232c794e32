"""Every numeric field has a range, which is tried on both sides; every field has a class of change."""

import math

import pytest

from cola_jax import config
from cola_jax.config import ConfigError, RunConfig
from cola_jax.config.build import build
from cola_jax.config.paths import defaults, flat, metadata, nested

KINDS = {"identity", "length", "placement", "reporting"}
NUMERIC = [
    path for path, value in defaults().items() if isinstance(value, (int, float)) and not isinstance(value, bool)
]
NUMERIC.append("vae.fixed_logsnr")  # None by default


def built(path, value):
    return build(nested(flat(config.to_dict(RunConfig())) | {path: value}))


def refused(path, value):
    with pytest.raises(ConfigError) as error:
        built(path, value)
    assert f"{path}=" in str(error.value) and "must be" in str(error.value)


def test_every_field_has_a_class_of_change():
    assert {field["change"] for field in metadata().values()} == KINDS
    assert set(metadata()) == set(defaults())


@pytest.mark.parametrize("path", NUMERIC)
def test_a_number_is_accepted_up_to_its_bounds_and_refused_past_them(path):
    allowed, whole = metadata()[path]["range"], isinstance(defaults()[path], int)
    step = 1 if whole else 1e-6
    bounds = [allowed.least, allowed.most, allowed.above, allowed.below]
    assert any(map(math.isfinite, bounds)), "a range of its own"
    if math.isfinite(allowed.least):
        built(path, type(step)(allowed.least))
        refused(path, type(step)(allowed.least) - step)
    if math.isfinite(allowed.above):
        built(path, type(step)(allowed.above) + step)
        refused(path, type(step)(allowed.above))
    if math.isfinite(allowed.most):
        built(path, type(step)(allowed.most))
        refused(path, type(step)(allowed.most) + (1 if whole else max(1e-6, allowed.most * 1e-6)))
    if math.isfinite(allowed.below):
        built(path, type(step)(allowed.below) - step)
        refused(path, type(step)(allowed.below))
    if not whole:
        for value in (math.nan, math.inf, -math.inf):
            refused(path, value)


@pytest.mark.parametrize("path,value", [
    ("optimizer.b1", 1.5), ("optimizer.eps", -1.0), ("optimizer.learning_rate", math.inf), ("data.threads", -1),
    ("sampling.top_k", -2), ("checkpoint.keep_best", 0), ("seed", 2**64), ("data.seed", -1), ("train.steps", 2**31),
])  # fmt: skip
def test_values_that_used_to_train_or_crash_are_refused(path, value):
    refused(path, value)


def test_what_runs_may_change_is_read_in_one_place():
    changed = {change.path: change.kind for change in config.changes(
        config.to_dict(RunConfig()),
        config.to_dict(config.resolve(config.override(config.base(), [
            ("train.steps", "7"), ("mesh.fsdp", "2"), ("train.log_every", "9"), ("seed", "3"), ("data.threads", "1"),
        ]))),
    )}  # fmt: skip
    assert changed == {
        "train.steps": "length", "mesh.fsdp": "placement", "train.log_every": "reporting", "seed": "identity",
        "data.threads": "placement",
    }  # fmt: skip
    moved = config.to_dict(RunConfig())
    moved["data"]["sources"][0] |= {"kind": "text", "path": ["a"]}
    again = config.to_dict(RunConfig())
    again["data"]["sources"][0] |= {"kind": "text", "path": ["b"]}
    assert [change.kind for change in config.changes(moved, again)] == ["placement"], "a corpus is known by its content"
    again["data"]["sources"].append(again["data"]["sources"][0])
    assert {change.kind for change in config.changes(moved, again)} == {"placement", "identity"}
