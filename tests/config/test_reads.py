"""Nothing is accepted and ignored: every field is read by a run's programs, or refused by name."""

import dataclasses
import io
import json
import warnings

import jax
import pytest
from observed import reads
from tiny import config as tiny_config

from cola_jax import config, runs
from cola_jax.config import ConfigError, RunConfig
from cola_jax.config.build import build, settle
from cola_jax.config.paths import defaults, flat, metadata, nested
from cola_jax.config.reads import SWITCHES, unread_fields
from cola_jax.errors import ConfigWarning
from cola_jax.families import FAMILIES
from cola_jax.runs.writer import Writer

SMALL = {
    "train__steps": 3, "train__log_every": 2, "train__batch_size": 4, "train__eval_every": 0, "train__plot_every": 0,
    "tokenizer__kind": "bytes", "data__generated_documents": 20, "data__heldout_documents": 8, "data__threads": 1,
    "optimizer__warmup_steps": 1,
}  # fmt: skip
# Values that switch on what the base config leaves off.
ON = {
    "train__eval_every": 3, "train__eval_batches": 1, "train__ema_decay": 0.5, "checkpoint__best_metric": "loss",
    "optimizer__name": "muon", "optimizer__schedule": "wsd", "optimizer__cooldown_steps": 1, "optimizer__decay_steps": 0,
}  # fmt: skip
SAMPLED = {"sampling__temperature": 1.0, "sampling__top_k": 5, "sampling__top_p": 0.9}
ON_OF_FAMILY = {
    "text_vae": {},
    "cola": SAMPLED | {
        "objective__latent_policy": "interval", "objective__reference_weight": 0.1, "sampling__first_block": "repaint",
        "train__init_groups": "('encoder','decoder')",
    },
    "ar": SAMPLED, "llada": SAMPLED | {"llada__mask_id": 299}, "plaid": {},
}  # fmt: skip
VOCABULARY = {"text_vae": "vae__vocab_size", "cola": "vae__vocab_size"}


def small(family, **changes):
    return tiny_config(family=family, **SMALL | {VOCABULARY.get(family, "backbone__vocab_size"): 300} | changes)


def observed(cfg, workdir):
    """What training, evaluating and generating read of a config."""
    jax.clear_caches()
    with reads() as seen:
        for _ in range(2):  # a start, and one that goes on
            runs.run_training(cfg, workdir, stream=io.StringIO())
        if FAMILIES[cfg.family].generator is not None:
            Writer.load(workdir).write(["Anna was in the"])
    return set(seen)


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    """A stage 1 workdir of the small VAE."""
    folder = tmp_path_factory.mktemp("vae")
    runs.run_training(small("text_vae"), folder, stream=io.StringIO())
    return folder


QUICK = (("ar", True),)
CASES = [
    pytest.param(family, switched, marks=() if (family, switched) in QUICK else pytest.mark.slow,
                 id=f"{family}-{'switched on' if switched else 'base'}")
    for family in FAMILIES for switched in (False, True)
]  # fmt: skip


@pytest.mark.parametrize("family,switched", CASES)
def test_a_run_reads_every_field_that_is_not_refused(family, switched, tmp_path, vae):
    changes = ON | ON_OF_FAMILY[family] if switched else {}
    if switched and family == "cola":
        changes = changes | {"train__init_from": f"'{vae}'"}
    cfg = small(family, **changes)
    read, unread = observed(cfg, tmp_path / "run"), set(unread_fields(cfg))
    known = {path for path in metadata() if path not in unread}
    assert sorted(known - read) == [], "accepted and ignored"
    assert sorted(unread & read) == [], "refused, though it is read"


def other(path, value):
    """A valid value that is not `value`."""
    choices = config.CHOICES.get(".".join(name for name in path.split(".") if not name.isdigit()))
    if choices:
        return next(choice for choice in choices if choice != value)
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return value + "7"
    if isinstance(value, list):
        return ["x"]
    if value is None:
        return 1.0
    allowed = metadata()[path]["range"]
    candidates = (
        [value + 1, value - 1, value * 2 + 0.25, value / 2 + 0.125]
        if isinstance(value, float)
        else [value + 1, value - 1]
    )
    return next(one for one in candidates if one != value and not allowed.problem(one))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_field_set_alone_is_accepted_or_refused_by_name(family):
    base = small(family)
    values, unread = flat(config.to_dict(base)), unread_fields(base)
    for path in defaults():
        if path == "family":
            continue
        changed = nested(values | {path: other(path, values[path])})
        if path in unread:
            with pytest.raises(ConfigError, match=f"{path.replace('.', '[.]')}=.* is not read"):
                settle(build(changed), set_on_purpose=[path])
        else:
            cfg = build(changed)
            assert path not in unread_fields(cfg), f"{path} switches itself off"


def test_every_switch_names_fields_that_exist_and_can_be_off():
    known = {*metadata(), "data.sources"}
    for switch in SWITCHES:
        assert {*switch.names, switch.field} <= known


def test_a_file_may_set_the_models_of_all_its_families_and_is_told_what_was_left_out():
    tree = config.base()
    tree.family = "ar"
    tree.dit.dim, tree.vae.dim, tree.data.heldout_fraction = 64, 48, 0.1
    with pytest.warns(ConfigWarning, match=r"family 'ar'.*data\.heldout_fraction, dit\.dim, vae\.dim|vae\.dim") as said:
        cfg = config.resolve(tree)
    for path in ("dit.dim", "vae.dim", "data.heldout_fraction"):
        assert path in str(said[0].message)
    assert cfg == RunConfig(family="ar")


@pytest.mark.parametrize("path,value,why", [
    ("dit.dim", "64", "by family 'ar'"), ("flow.timestep_loc", "2.0", "by family 'ar'"), ("vae.dim", "64", "by family 'ar'"),
    ("plaid.embedding_dim", "8", "by family 'ar'"), ("optimizer.muon_steps", "7", "if optimizer.name='adamw'"),
    ("data.heldout_fraction", "0.1", "if data.sources='tinyworld'"),
])  # fmt: skip
def test_an_assignment_of_the_command_line_that_is_not_read_is_refused(path, value, why):
    tree = config.base()
    tree.family = "ar"
    with pytest.raises(ConfigError) as error:
        config.resolve(config.override(tree, [(path, value)]))
    assert path in str(error.value) and f"is not read {why}: leave it out" in str(error.value)


def test_what_an_assignment_switches_off_in_a_file_is_named_not_refused():
    tree = config.load("own_text:vae,a.txt")
    assert tree.tokenizer.vocab_size == 2048
    with pytest.warns(ConfigWarning, match=r"tokenizer\.vocab_size"):
        cfg = config.resolve(config.override(tree, [("tokenizer.kind", "bytes")]))
    assert cfg.tokenizer.vocab_size == RunConfig().tokenizer.vocab_size


def test_a_file_that_sets_what_its_own_fields_switch_off_is_refused():
    tree = config.base()
    tree.optimizer.muon_steps = 7
    with pytest.raises(ConfigError, match=r"optimizer\.muon_steps=7 is not read if optimizer\.name='adamw'"):
        config.resolve(tree)


def test_the_projects_own_configs_set_nothing_that_is_not_read():
    specs = ["tinyworld:vae", "tinyworld:joint,w", "tinyworld:joint", "pydocs:vae", "pydocs:joint,w", "own_text:vae,a",
             "own_text:joint,a,w", "cola_2b:vae,p", "cola_2b:joint,p,w", "cola_8b:vae,p", "cola_8b:joint,p,w",
             "cola_70b:joint,p,w", "ar_2b:p", "llada_2b:p", "plaid_2b:p",
             *(f"tinyworld_matched:{f}" for f in ("vae", "cola", "ar", "llada", "plaid"))]  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConfigWarning)
        for spec in specs:
            config.resolve(config.load(spec))


def test_a_stored_config_keeps_what_was_read_and_forgets_the_rest():
    old = config.to_dict(dataclasses.replace(RunConfig(family="ar"), seed=7))
    old["dit"]["dim"] = 64
    assert config.from_stored(json.loads(json.dumps(old))) == dataclasses.replace(RunConfig(family="ar"), seed=7)
