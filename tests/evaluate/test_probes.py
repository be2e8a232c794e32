"""Probes find what is linear in latents and nothing else; drift is 0 for what stays and seen for what moves."""

import json

import numpy as np
import pytest

from cola_jax import cli
from cola_jax.data.errors import DataError
from cola_jax.evaluate import probes


def test_a_probe_reads_classes_that_are_linear_and_none_that_are_noise():
    random = np.random.default_rng(0)
    x = random.standard_normal((600, 8))
    linear = ["high" if row[0] + row[3] > 0 else "low" for row in x]
    found = probes.probe(x, linear, 0)
    assert found["accuracy"] > 0.93 and abs(found["majority"] - 0.5) < 0.1
    assert set(found) == {"accuracy", "majority", "recall/high", "recall/low"}
    noise = random.choice(["a", "b"], 600).tolist()
    assert abs(probes.probe(x, noise, 0)["accuracy"] - 0.5) < 0.1
    assert probes.probe(x, linear, 0) == found != probes.probe(x, linear, 1)
    with pytest.raises(DataError, match="got 3 of 1"):
        probes.probe(x[:3], ["a"] * 3, 0)


def test_a_class_that_is_rare_has_its_own_recall():
    x = np.random.default_rng(1).standard_normal((400, 4))
    labels = ["rare" if row[1] > 1.6 else "common" for row in x]
    found = probes.probe(x, labels, 0)
    assert found["accuracy"] >= found["majority"] - 0.05 and found["recall/common"] > found["recall/rare"]


def test_drift_is_none_for_the_same_latents_and_alignment_survives_a_rotation():
    x = np.random.default_rng(0).standard_normal((200, 6))
    assert probes.similarity(x, x) == pytest.approx({"cosine": 1.0, "moved": 0.0, "cka": 1.0})
    turned = x @ np.linalg.qr(np.random.default_rng(1).standard_normal((6, 6)))[0]
    found = probes.similarity(x, 2.0 * turned)
    assert found["cka"] == pytest.approx(1.0) and abs(found["cosine"]) < 0.5
    assert found["moved"] > 0.3
    other = np.random.default_rng(2).standard_normal((200, 6))
    assert probes.similarity(x, other)["cka"] < 0.2


def test_the_command_tells_of_a_run(capsys, trained):
    capsys.readouterr()
    assert cli.main(["latents", "--workdir", str(trained["vae"]), "--batches", "1", "--levels", "2", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["step"] == 3 and told["latents"] > 20 and told["drift"] == []
    assert [level["t"] for level in told["noise"]] == [0.0, 1.0]
    assert 0 <= told["probe"]["accuracy"] <= 1
    assert cli.main(["latents", "--workdir", str(trained["vae"]), "--levels", "1"]) == 2
    assert "--levels 1 must be at least 2" in capsys.readouterr().err
