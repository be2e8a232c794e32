"""The comparison of the four families at a minute size: equal FLOPs, equal cores, a table of all of them."""

import dataclasses
import json
import math

import pytest

from benchmarks import families, families_table, rate_search
from cola_jax import config
from cola_jax.config import ConfigError
from cola_jax.families import FAMILIES
from cola_jax.scaling.accounting import tokens_of

MINUTE = """
from experiments import tinyworld_matched

def get_config(arg=None):
    family, _, vae_from = arg.partition(",")
    c = tinyworld_matched.get_config(arg if family in ("vae", "cola") else "cola")
    c.data.update(generated_documents=40, heldout_documents=8, threads=1, prefetch=1)
    c.tokenizer.update(vocab_size=320, training_documents=40)
    c.vae.update(vocab_size=320, dim=16, ffn_dim=24, encoder_blocks=1, decoder_blocks=1, latent_dim=4)
    c.dit.update(dim=32, num_layers=1, num_heads=2, head_dim=16, rope_dim=8, time_frequencies=8)
    c.optimizer.update(name="adamw", warmup_steps=1)
    c.checkpoint.update(asynchronous=False, every=1000)
    c.train.plot_every = 0
    if family == "vae":
        c.train.update(batch_size=4, steps=3)
    else:
        c.sampling.update(steps=2, max_new_tokens=8)
    c.train.update(eval_batches=1)
    if family in ("vae", "cola"):
        return c
    c = tinyworld_matched.baseline(c, family)
    if family == "plaid":
        c.plaid.schedule_width = 8
        c.sampling.plaid.steps = 2
    return c
"""


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    file = tmp_path_factory.mktemp("minute") / "minute.py"
    file.write_text(MINUTE)
    judged = {"tasks": ("mmlu",), "records": 2, "stories": 2, "texts": 2, "repeats": 1}
    return families.Plan(str(file), seeds=(5,), budget=2.5e9, searched=1.0, rates=(1.0,), **judged)


@pytest.fixture(scope="module")
def compared(plan, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("compared")
    return workdir, families.compare(plan, workdir)


def rows_of(markdown):
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in markdown.splitlines() if line[:1] == "|"]
    return {row[0]: row[1:] for row in cells}


@pytest.mark.slow
def test_the_table_has_every_family_and_figure(compared):
    workdir, table = compared
    assert (workdir / "table.md").read_text() == table
    rows = rows_of(table)
    assert rows[""][:4] == list(families.COMPARED)
    wanted = ["tinyworld/mmlu", "average of 1", "answered questions: entailed"]
    for name in [*wanted, "continued openings: well-formed sentences", "new tokens per second, batch of 64"]:
        assert all(float(cell) >= 0 for cell in rows[name][:4]), name
    assert rows["which is"][:4] == ["at most", "exact", "at most", "at most"]
    assert rows["runs"][:4] == ["1"] * 4
    assert rows["tinyworld/mmlu"][4] == "25.0"


@pytest.mark.slow
def test_every_family_spends_the_same_flops_to_less_than_a_step(plan, compared):
    told = json.loads((compared[0] / "families.json").read_text())
    for family, found in told["families"].items():
        stored = config.resolve(json.loads((compared[0] / f"{family}-5" / "config.json").read_text()))
        a_step = FAMILIES[family].objective.cost(stored).total * tokens_of(stored, 1)
        assert 0 <= plan.budget - found["flops"] < a_step, family
        assert found["steps"] == stored.train.steps
    assert told["families"]["cola"]["flops_stage_1"] > 0 == told["families"]["ar"]["flops_stage_1"]


@pytest.mark.slow
def test_figures_that_are_there_are_not_made_again(plan, compared):
    before = (compared[0] / "ar-5" / "figures.json").stat().st_mtime_ns
    assert families.compare(plan, compared[0]) == compared[1]
    assert (compared[0] / "ar-5" / "figures.json").stat().st_mtime_ns == before


@pytest.mark.slow
def test_the_search_takes_the_rate_of_the_lowest_heldout_loss(plan, compared):
    text = families.shared(plan, compared[0])
    grid = dataclasses.replace(plan, rates=(2.0, 1.0), extensions=0)
    with pytest.warns(UserWarning, match="is an end of all that were tried"):
        found = families.search(grid, "ar", compared[0], text)
    own = config.load(f"{plan.config}:ar").optimizer.learning_rate
    assert list(found["tried"]) == [f"{own:.3g}", f"{2 * own:.3g}"]
    losses = list(found["tried"].values())
    assert losses[0] != losses[1] and found["chosen"] == (own if losses[0] < losses[1] else 2 * own)
    runs = {path.name: json.loads((path / "config.json").read_text()) for path in (compared[0] / "search").iterdir()}
    assert {name: run["optimizer"]["learning_rate"] for name, run in runs.items()} == {"ar-1": own, "ar-2": 2 * own}
    alone = {"chosen": own, "tried": {}, "interior": False}
    assert families.search(plan, "llada", compared[0], text) == alone, "one rate needs no search"


def test_a_budget_that_does_not_outlast_the_warm_up_is_refused(plan, tmp_path):
    with pytest.raises(ConfigError, match="steps of ar, expected more than optimizer.warmup_steps=1"):
        families.configured(plan, "ar", 0, 1e-2, 1e6, tmp_path, None)


def test_the_cores_of_the_matched_configs_are_equal_and_the_rest_is_shared():
    compared = families.comparison.compare_runs([f"tinyworld_matched:{family}" for family in families.COMPARED])
    cores = compared["figures"]["core matrices"]
    assert max(cores) < 1.001 * min(cores)
    shared = {path for path in compared["fields"] if path.split(".")[0] in families.comparison.SHARED}
    shared -= {"compute.attention_chunks"}  # of causal attention: LLaDA and Plaid do not read it
    shared -= {"optimizer.name", "optimizer.learning_rate"}  # Plaid trains with AdamW; rates are searched
    assert not shared, "data, tokenizer, optimizer, training and compute are the same for all"


def test_the_table_gives_mean_and_deviation_over_seeds():
    task = {"task": "tinyworld/squad", "scorer": "paper", "chance": 40.0}
    share = {"well_formed": 0.5, "entailed": 0.5, "chance": 0.4}
    run = lambda seed, right: {
        "family": "ar", "seed": seed, "tasks": [task | {"accuracy": right}], "tokens_per_second": 100.0,
        "told": share, "asked": share, "answers": {"given": 4, "right": 40},
        "likelihood": {"nats_per_token": 1.0, "kind": "exact"},
    }  # fmt: skip
    parameters = {"core matrices": 1, "embeddings": 2, "VAE": 0, "rest": 3}
    made = {"parameters": parameters, "steps": 7, "tokens": 8, "flops": 9.0, "flops_stage_1": 0.0}
    rate = {"chosen": 0.1, "tried": {"0.1": 1.0, "0.3": 2.0}, "interior": False}
    facts = {"machine": "here", "budget": 9.0, "families": {"ar": made}, "rates": {"ar": rate}}
    rows = rows_of(families_table.as_markdown(facts, [run(0, 50.0), run(1, 60.0)]))
    assert rows["tinyworld/squad"] == ["55.0 +- 7.1", "40.0"]
    assert rows["runs"] == ["2", ""]
    assert rows["different answers, of 40 that are right"] == ["4.0 +- 0.0", ""]
    assert rows["learning rate"] == ["0.1 (an end of the grid)"]


def tried_by(loss_of, factors=(1 / 3, 1.0, 3.0), extensions=4):
    """What the search finds with a loss of log3 of the factor, and the factors in the order of their runs."""
    asked = []

    def run(factor):
        asked.append(factor)
        return loss_of(math.log(factor, 3))

    return rate_search.search(run, 0.01, factors, extensions), asked


@pytest.mark.parametrize(("best", "runs"), [(0, 3), (-1, 4), (-3, 6), (1, 4), (4, 7)])
def test_the_grid_grows_until_the_best_rate_is_inside(best, runs):
    found, asked = tried_by(lambda x: (x - best) ** 2)
    assert found["chosen"] == pytest.approx(0.01 * 3.0**best) and found["interior"]
    assert len(asked) == runs == len(found["tried"])
    rates = [float(rate) for rate in found["tried"]]
    assert rates == sorted(rates) and rates[0] < found["chosen"] < rates[-1]


def test_a_search_that_ends_at_an_end_warns():
    with pytest.warns(UserWarning, match="0.00037, is an end of all that were tried: 0.00037, 0.00111"):
        found, asked = tried_by(lambda x: x, extensions=2)
    assert not found["interior"] and len(asked) == 5 and found["chosen"] == pytest.approx(0.01 / 27)


def test_a_rate_at_which_the_run_diverges_is_the_worst():
    found, _ = tried_by(lambda x: math.nan if x > 0.5 else x**2)
    assert found["interior"] and found["chosen"] == 0.01
    with pytest.raises(ValueError, match="no run of the search has a finite held-out loss"):
        tried_by(lambda x: math.inf)
