"""Configs: every wrong field is named with what it was given and what it needs; overrides reach every field."""

import dataclasses
import json

import pytest
from ml_collections import ConfigDict
from tiny import config as tiny_config

from cola_jax import config
from cola_jax.config import ConfigError, RunConfig


def problem(**changes):
    """The message that refuses the base config with these changes (a path with two underscores for a dot)."""
    tree = config.base()
    config.override(tree, [(path.replace("__", "."), str(value)) for path, value in changes.items()])
    with pytest.raises(ConfigError) as error:
        config.resolve(tree)
    assert "\n" not in str(error.value)
    return str(error.value)


def leaves(tree, prefix=""):
    for name, value in tree.items():
        if isinstance(value, (dict, ConfigDict)):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def test_the_base_config_is_the_default_one():
    assert config.resolve(config.base()) == RunConfig()


def test_a_config_survives_the_way_to_json_and_back():
    cfg = tiny_config(vae__fixed_logsnr=1.5, data__shuffle=False)
    assert config.resolve(json.loads(json.dumps(config.to_dict(cfg)))) == cfg
    assert config.resolve(config.to_config_dict(cfg)) == cfg
    assert hash(config.resolve(config.to_dict(cfg))) == hash(cfg)


def test_unknown_fields_are_named_with_the_known_ones():
    tree = config.to_dict(RunConfig())
    tree["vae"]["depth"] = 3
    tree["sampling"]["stepz"] = 1
    with pytest.raises(ConfigError) as error:
        config.resolve(tree)
    assert "unknown field vae.depth (known: vocab_size, dim," in str(error.value)
    assert "unknown field sampling.stepz" in str(error.value)


def test_missing_fields_are_named_and_never_filled_in():
    tree = config.to_dict(RunConfig())
    del tree["dit"]["rope_dim"], tree["seed"]
    with pytest.raises(ConfigError) as error:
        config.resolve(tree)
    assert "field dit.rope_dim is missing" in str(error.value) and "field seed is missing" in str(error.value)


@pytest.mark.parametrize(
    ("path", "value", "kind"),
    [
        ("vae.dim", "wide", "int"), ("vae.dim", 1.5, "int"), ("train.steps", True, "int"),
        ("optimizer.learning_rate", "fast", "float"), ("optimizer.learning_rate", None, "float"),
        ("vae.fixed_logsnr", "high", "float"), ("data.shuffle", 1, "bool"), ("train.init_from", 3, "str"),
    ],
)  # fmt: skip
def test_a_value_of_the_wrong_type_is_named_with_the_right_one(path, value, kind):
    tree = config.to_dict(RunConfig())
    group, name = path.split(".")
    tree[group][name] = value
    with pytest.raises(ConfigError) as error:
        config.resolve(tree)
    assert f"{path} must be {kind}, got {value!r}" in str(error.value)


def test_every_problem_is_in_the_message():
    tree = config.to_dict(RunConfig())
    tree["vae"]["dim"], tree["dit"]["deep"], tree["data"]["packing"] = "wide", 1, "loose"
    with pytest.raises(ConfigError) as error:
        config.resolve(tree)
    for part in ("vae.dim", "dit.deep", "data.packing='loose' is not one of concat, best_fit"):
        assert part in str(error.value)


def test_a_group_must_be_a_group_and_a_list_a_list():
    tree = config.to_dict(RunConfig())
    tree["vae"], tree["data"]["sources"] = 3, "tinyworld"
    with pytest.raises(ConfigError) as error:
        config.resolve(tree)
    assert "must be a group of fields, got 3" in str(error.value)
    assert "data.sources must be a list, got 'tinyworld'" in str(error.value)


def test_whole_numbers_stand_for_floats():
    cfg = tiny_config(sampling__guidance=3, vae__fixed_logsnr=2)
    assert (type(cfg.sampling.guidance), type(cfg.vae.fixed_logsnr)) == (float, float)


@pytest.mark.parametrize("path", sorted(config.CHOICES))
def test_a_name_that_is_not_a_choice_is_refused_with_the_choices(path):
    tree = config.to_dict(RunConfig())
    node, (*parents, last) = tree, path.split(".")
    for name in parents:
        node = node[name] if isinstance(node[name], dict) else node[name][0]
    node[last] = "other"
    with pytest.raises(ConfigError) as error:
        config.resolve(tree)
    named = path.replace("sources.", "sources.0.")
    assert f"{named}='other' is not one of {', '.join(config.CHOICES[path])}" in str(error.value)


def test_every_choice_is_of_a_field_that_exists_and_its_default_is_one():
    tree = config.to_dict(RunConfig())
    tree["data"]["sources"] = tree["data"]["sources"][0]
    values = dict(leaves(tree))
    for path, choices in config.CHOICES.items():
        assert values[path] in choices


POSITIVE = [
    "vae.dim", "vae.num_heads", "vae.ffn_dim", "vae.vocab_size", "vae.encoder_blocks", "vae.decoder_blocks",
    "vae.latent_dim", "vae.patch_size", "vae.block_size", "vae.block.shared_heads_kv", "dit.dim", "dit.num_layers",
    "dit.num_heads", "dit.head_dim", "dit.block_size", "dit.expand_ratio", "dit.time_frequencies", "train.steps",
    "train.batch_size", "train.accumulate", "train.sequence_length", "train.log_every", "compute.attention_chunks",
    "compute.cross_entropy_chunk", "checkpoint.every", "checkpoint.keep_last", "sampling.steps",
    "sampling.max_new_tokens", "backbone.vocab_size", "backbone.dim", "backbone.ffn_dim", "backbone.num_layers",
    "backbone.num_heads", "backbone.kv_heads",
]  # fmt: skip


@pytest.mark.parametrize("path", POSITIVE)
@pytest.mark.parametrize("value", [0, -3])
def test_sizes_are_at_least_1(path, value):
    assert f"{path}={value} must be at least 1" in problem(**{path.replace(".", "__"): value})


INCONSISTENT = [
    ({"vae__dim": 1537}, "vae.dim=1537 is not a multiple of vae.num_heads=12"),
    ({"vae__dim": 36}, "vae.dim/vae.num_heads=3 must be even for RoPE"),
    ({"vae__block__shared_heads_kv": 5}, "vae.num_heads=12 is not a multiple of vae.block.shared_heads_kv=5"),
    ({"vae__ffn_dim": 7}, "vae.ffn_dim=7 must be even for swiglu"),
    ({"dit__rope_dim": 7}, "dit.rope_dim=7 must be even and at most dit.head_dim=128"),
    ({"dit__rope_dim": 130}, "dit.rope_dim=130 must be even"),
    ({"dit__rope_dim": 0}, "dit.rope_dim=0 must be at least 2"),
    ({"train__sequence_length": 520}, "train.sequence_length=520 is not a multiple of 16, the tokens of a block"),
    ({"vae__patch_size": 64, "train__sequence_length": 512}, "not a multiple of 1024, the tokens of a block"),
    ({"vae__block_size": 3}, "vae.block_size=3 and dit.block_size=16: one must divide the other"),
    ({"train__accumulate": 3}, "train.batch_size=1408 is not a multiple of train.accumulate=3"),
    ({"vae__fixed_logsnr": 1.0, "vae__encoder_last_ln": False, "train__accumulate": 2}, "averages over the batch"),
    ({"flow__known_prefix_probability": 1.5}, "flow.known_prefix_probability=1.5 must be between 0 and 1"),
    ({"objective__mask_rate": -0.1}, "objective.mask_rate=-0.1 must be between 0 and 1"),
    ({"data__heldout_fraction": 2.0}, "data.heldout_fraction=2.0 must be at least 0 and less than 1"),
    ({"sampling__top_p": 1.1}, "sampling.top_p=1.1 must be more than 0 and at most 1"),
    ({"sampling__repaint_time": -1.0}, "sampling.repaint_time=-1.0 must be between 0 and 1"),
    ({"objective__kl_weight": -1.0}, "objective.kl_weight=-1.0 must be at least 0"),
    ({"objective__vae_lr_ratio": -1.0}, "objective.vae_lr_ratio=-1.0 must be at least 0"),
    ({"data__sources": "()"}, "data.sources is empty"),
    ({"data__sources__0__weight": 0.0}, "data.sources.0.weight=0.0 must be more than 0"),
    ({"data__sources__0__kind": "text"}, "data.sources.path is empty: name the files"),
    ({"tokenizer__kind": "file"}, "tokenizer.kind='file' needs tokenizer.path"),
    ({"flow__timestep_scale": 0.0}, "flow.timestep_scale=0.0 must be more than 0"),
    ({"dit__block_size": 1}, "flow.known_prefix_probability must be 0 if dit.block_size=1"),
    ({"objective__latent_policy": "fixed"}, "objective.latent_policy='fixed' needs train.init_from"),
    ({"objective__latent_policy": "interval"}, "objective.latent_policy='interval' needs train.init_from"),
    ({"objective__latent_policy": "scratch", "objective__vae_from": "w"}, "'scratch' starts from random parameters"),
    ({"objective__reference_weight": 1.0}, "objective.reference_weight>0 needs train.init_from"),
    (
        {"objective__reference_weight": 1.0, "objective__vae_from": "w", "vae__use_variation": False},
        "it needs vae.use_var",
    ),
    ({"objective__interval_joint": 0}, "objective.interval_joint=0 must be at least 1"),
    (
        {"objective__interval_joint": 9000, "objective__latent_policy": "interval", "objective__vae_from": "w"},
        "objective.interval_joint must be between 1 and objective.interval_period",
    ),
    ({"optimizer__decay_steps": 5000}, "optimizer.decay_steps=5000 must exceed optimizer.warmup_steps=5000"),
    ({"optimizer__learning_rate": 0.0}, "optimizer.learning_rate=0.0 must be more than 0"),
    ({"optimizer__muon_steps": 0}, "optimizer.muon_steps=0 must be between 1 and 100"),
    ({"optimizer__muon_momentum": 1.0}, "optimizer.muon_momentum=1.0 must be at least 0 and less than 1"),
    ({"sampling__temperature": -1.0}, "sampling.temperature=-1.0 must be between 0 and 10000"),
    ({"sampling__repetition_penalty": 0.0}, "sampling.repetition_penalty=0.0 must be more than 0"),
    ({"sampling__repaint_rounds": 0}, "sampling.repaint_rounds=0 must be at least 1"),
    (
        {"family": "ar", "backbone__dim": 2064},
        "backbone.dim=2064 is not a multiple of twice backbone.num_heads=16: RoPE needs pairs",
    ),
    ({"family": "ar", "backbone__kv_heads": 3}, "backbone.num_heads=16 is not a multiple of backbone.kv_heads=3"),
    (
        {"family": "llada", "llada__mask_id": 100_278},
        "llada.mask_id=100278 must be below backbone.vocab_size=100278, or -1",
    ),
    ({"llada__random_length_probability": 1.5}, "llada.random_length_probability=1.5 must be between 0 and 1"),
    ({"sampling__llada__steps": -1}, "sampling.llada.steps=-1 must be at least 0"),
    ({"sampling__llada__block_length": -1}, "sampling.llada.block_length=-1 must be at least 0"),
    ({"sampling__llada__guidance": -0.5}, "sampling.llada.guidance=-0.5 must be between 0 and 10000"),
    (
        {"family": "llada", "sampling__llada__block_length": 5},
        "sampling.max_new_tokens=32 is not a multiple of sampling.llada.block_length=5",
    ),
    (
        {"family": "llada", "sampling__llada__block_length": 8, "sampling__llada__steps": 6},
        "sampling.llada.steps=6 is not a multiple of the 4 blocks of sampling.llada.block_length=8",
    ),
    ({"family": "llada", "backbone__vocab_size": 1}, "backbone.vocab_size=1 has no spare id for the mask"),
    ({"family": "ar", "sampling__steps": 8}, "sampling.steps=8 is not read by family 'ar': leave it out"),
    ({"family": "llada", "sampling__guidance": 1.0}, "sampling.guidance=1.0 is not read by family 'llada'"),
    ({"family": "ar", "objective__vae_weight": 2.0}, "objective.vae_weight=2.0 is not read by family 'ar'"),
    ({"family": "cola", "sampling__llada__steps": 8}, "is not read by family 'cola'"),
    ({"mesh__fsdp": -1}, "mesh: only one of replica, data, fsdp, sequence, tensor may be -1"),
    ({"mesh__tensor": 0}, "mesh: sizes are positive or -1"),
    ({"mesh__dcn__fsdp": -1}, "mesh.dcn: only one of replica, data, fsdp, sequence, tensor may be -1"),
    ({"mesh__dcn__tensor": 0}, "mesh.dcn: sizes are positive or -1"),
]


@pytest.mark.parametrize(("changes", "message"), INCONSISTENT, ids=[message[:40] for _, message in INCONSISTENT])
def test_values_that_do_not_fit_each_other_are_named(changes, message):
    assert message in problem(**changes)


def test_a_prepared_corpus_cannot_be_mixed():
    tree = config.to_dict(RunConfig())
    one = tree["data"]["sources"][0]
    tree["data"]["sources"] = [one, {**one, "kind": "prepared", "path": ["p"]}]
    with pytest.raises(ConfigError, match="a prepared corpus is already packed"):
        config.resolve(tree)


def test_overrides_reach_groups_inside_groups_and_items_of_lists():
    tree = config.override(
        config.base(),
        [("vae.block.init_std", "0.05"), ("data.sources.0.kind", "text"), ("data.sources.0.path", "('a.txt','b')"),
         ("train.steps", "7"), ("data.shuffle", "false"), ("vae.fixed_logsnr", "None")],
    )  # fmt: skip
    cfg = config.resolve(tree)
    assert (cfg.vae.block.init_std, cfg.train.steps, cfg.data.shuffle) == (0.05, 7, False)
    assert cfg.data.sources[0].path == ("a.txt", "b")
    assert cfg.vae.fixed_logsnr is None
    assert config.resolve(config.base()) == RunConfig(), "the base is not shared"


@pytest.mark.parametrize("path", ["vae.depth", "nothing.dim", "data.sources.1.kind", "data.sources.x", "vae.dim.more"])
def test_an_override_of_no_field_is_refused_with_its_path(path):
    with pytest.raises(ConfigError) as error:
        config.override(config.base(), [(path, "1")])
    assert "--config." in str(error.value) and "no such field" in str(error.value)


def test_an_item_of_a_list_cannot_be_replaced_by_a_value():
    with pytest.raises(ConfigError, match="set a whole list, or a field of one of its items"):
        config.override(config.base(), [("data.sources.0", "3")])


@pytest.mark.parametrize(
    ("text", "value"),
    [("3", 3), ("1e-3", 1e-3), ("true", True), ("False", False), ("None", None), ("cosine", "cosine"), ("a b", "a b"),
     ("none", "none"), ("[1, 2]", [1, 2]), ("runs/x", "runs/x"), ("'3'", "3"), ("", "")],
)  # fmt: skip
def test_values_on_the_command_line_are_literals_or_text(text, value):
    assert config.literal(text) == value and type(config.literal(text)) is type(value)


def test_a_config_file_is_found_by_path_or_by_name_and_gets_its_argument(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from cola_jax import config\n"
        "def get_config(arg=None):\n"
        "    c = config.base()\n"
        "    c.seed = len(arg or '')\n"
        "    return c\n"
    )
    assert config.load(str(file)).seed == 0
    assert config.load(f"{file}:four").seed == 4
    assert config.load("tinyworld:vae").family == "text_vae"
    assert config.load("tinyworld.py:joint").family == "cola"


def test_a_file_that_is_missing_or_no_config_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="config file 'nowhere' not found; the project's own are: .*tinyworld"):
        config.load("nowhere")
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(ConfigError, match="defines no get_config"):
        config.load(str(tmp_path / "empty.py"))


@pytest.mark.parametrize(
    "spec", ["tinyworld:vae", "tinyworld:joint", "tinyworld:joint,w", "pydocs:vae", "pydocs:joint,w", "own_text:vae,a.txt",
             "own_text:joint,a.txt,w", "cola_2b:vae,p", "cola_2b:joint,p,w"],
)  # fmt: skip
def test_the_projects_own_configs_hold_together(spec):
    cfg = config.resolve(config.load(spec))
    assert cfg.family == ("text_vae" if ":vae" in spec else "cola")
    assert cfg.train.init_from == ("w" if spec.endswith(",w") else "")


def test_a_matched_pair_differs_in_its_family_alone():
    cola, ar, llada = (config.to_dict(config.resolve(config.load(spec))) for spec in
                       ("cola_2b:joint,p", "ar_2b:p", "llada_2b:p"))  # fmt: skip
    assert config.differences(cola, ar) == ["family: 'cola' -> 'ar'", "objective.latent_policy: 'scratch' -> 'joint'"]
    assert config.differences(ar, llada) == ["family: 'ar' -> 'llada'", "sampling.repetition_penalty: 1.1 -> 1.0"]


def test_text_leaves_room_for_the_mask_and_starts_anywhere_where_there_are_no_blocks():
    sizes = {}
    for family in ("cola", "ar", "llada"):
        cfg = tiny_config(family=family, **({"vae__vocab_size": 20} if family == "cola" else {}))
        sizes[family] = (config.vocabulary(cfg).of_text, config.tokens_of_block(cfg))
    assert sizes == {"cola": (20, 4), "ar": (13, 1), "llada": (12, 1)}
    assert config.vocabulary(tiny_config(family="llada", llada__mask_id=5)).of_text == 13


@pytest.mark.parametrize("spec", ["tinyworld:both", "pydocs:x", "own_text", "own_text:vae", "cola_2b", "cola_2b:joint", "ar_2b",
                                  "llada_2b"])  # fmt: skip
def test_the_projects_own_configs_refuse_an_argument_they_do_not_know(spec):
    with pytest.raises(ConfigError, match=spec.split(":")[0]):
        config.load(spec)


def test_both_stages_of_an_experiment_have_one_vae():
    for spec in ("tinyworld:{}", "pydocs:{}", "own_text:{},a", "cola_2b:{},p"):
        vae, joint = (config.resolve(config.load(spec.format(stage))) for stage in ("vae", "joint"))
        assert vae.vae == joint.vae and vae.tokenizer == joint.tokenizer and vae.data == joint.data


def test_differences_name_every_leaf_with_both_values():
    old, new = config.to_dict(RunConfig()), config.to_dict(tiny_config())
    lines = config.differences(old, new)
    assert "vae.dim: 1536 -> 16" in lines and "vae.block.init_std: 0.02 -> 0.3" in lines
    assert config.differences(old, old) == []
    assert config.differences({}, {"a": 1}) == ["a: None -> 1"]


def test_configs_are_frozen_and_small_enough_to_read():
    with pytest.raises(dataclasses.FrozenInstanceError):
        RunConfig().seed = 3
    for field in dataclasses.fields(RunConfig):
        if dataclasses.is_dataclass(field.default):
            assert len(dataclasses.fields(field.default)) <= 17, field.name
