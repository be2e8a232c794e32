"""The published PyTorch code's numbers on random small models in the released format (SPEC 9), through the command."""

import contextlib
import functools
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from cola_jax import cli
from cola_jax.interop import cola_cases, goldens
from cola_jax.interop.cases import Case, Cases
from cola_jax.interop.golden_rope import GoldenRope
from cola_jax.interop.goldens import Golden, GoldenReport

GOLDENS = Path(__file__).parents[1] / "data" / "goldens"
FIRST, MORE = ("base", "llama"), ("block16", "patch2")


def checked(capsys, folder, *arguments):
    """Exit status and the object that `check-goldens --json` prints."""
    capsys.readouterr()
    status = cli.main(["check-goldens", str(folder), "--json", *arguments])
    return status, json.loads(capsys.readouterr().out)


def copy_of(name, folder, without=()):
    """A copy of a golden whose cases do not start with one of `without`."""
    target = folder / name
    shutil.copytree(GOLDENS / name, target)
    cases = dict(np.load(target / "cases.npz"))
    np.savez(target / "cases.npz", **{k: v for k, v in cases.items() if not k.startswith(tuple(without))})
    return target


@pytest.fixture(scope="module")
def report_on(tmp_path_factory):
    """What the command says of some goldens, in a folder that holds nothing else, as a function of their names."""

    @functools.cache
    def report_on(*names):
        folder, out = tmp_path_factory.mktemp("goldens"), io.StringIO()
        for name in names:
            shutil.copytree(GOLDENS / name, folder / name)
        with contextlib.redirect_stdout(out):
            status = cli.main(["check-goldens", str(folder), "--json"])
        report = json.loads(out.getvalue())
        assert (status, report["passed"], report["dtype"]) == (0, True, "float32")
        return report

    return report_on


def report_of(plain):
    """The report that was printed as JSON."""
    case = lambda fields: Case(**{name: value for name, value in fields.items() if name != "passed"})
    each = [Golden(Path(g["folder"]), g["form"], [case(c) for c in g["cases"]], g["error"]) for g in plain["goldens"]]
    return GoldenReport(plain["dtype"], each)


@pytest.mark.parametrize("name", ["base", *(pytest.param(name, marks=pytest.mark.slow) for name in MORE)])
@pytest.mark.parametrize("kind", ["vae", "dit", "fm", "gen"])
def test_every_published_number_is_met(report_on, name, kind):
    report = report_on(*(FIRST if name in FIRST else MORE))
    [golden] = [golden for golden in report_of(report).goldens if golden.folder.name == name]
    cases = {case.name: case for case in golden.cases if case.name.startswith(kind)}
    published = dict(np.load(GOLDENS / name / "cases.npz"))
    answers = ("vae.mean", "vae.logvar", "vae.logits", "dit.v", "fm.zt", "fm.target", "fm.v", "fm.loss")
    wanted = {
        key for key in published if key.startswith(answers) or key.split(".")[1] in ("tokens", "latents", "logits")
    }
    assert set(cases) == {key for key in wanted if key.startswith(kind)}
    for case in cases.values():
        assert case.bound is not None and case.passed and case.note in ("", "share that differs"), case
    assert not golden.error


@pytest.mark.parametrize("names,cases", [(FIRST, 37), pytest.param(MORE, 52, marks=pytest.mark.slow)])
def test_the_command_passes_and_says_so_line_by_line(capsys, report_on, monkeypatch, names, cases):
    report = report_on(*names)
    monkeypatch.setattr(goldens, "check", lambda folder, dtype: report_of(report))
    assert cli.main(["check-goldens", str(GOLDENS)]) == 0
    out = capsys.readouterr().out
    assert f"{cases} cases, 0 failed" in out and "FAILED" not in out
    assert all(f"{name} ({'llama' if name == 'llama' else 'cola'}, float32)" in out for name in names)
    assert next(line for line in out.splitlines() if "gen0.latents" in line).endswith("bound 1e-03  ok")


def test_a_wrong_number_fails_the_command_and_is_named(capsys, tmp_path):
    folder = copy_of("base", tmp_path, without=("gen", "fm", "dit", "vae.logits"))
    cases = dict(np.load(folder / "cases.npz"))
    cases["vae.mean.1"][3, 2] += 2e-4
    np.savez(folder / "cases.npz", **cases)
    status, report = checked(capsys, tmp_path)
    [golden] = report["goldens"]
    assert status == 1 and not report["passed"]
    assert [case["name"] for case in golden["cases"] if not case["passed"]] == ["vae.mean.1"]


def test_arrays_that_no_check_knows_and_damaged_models_fail_the_command(capsys, tmp_path):
    folder = copy_of("base", tmp_path, without=("gen", "fm", "dit", "vae.logits"))
    np.savez(folder / "cases.npz", **dict(np.load(folder / "cases.npz")), surprise=np.zeros(3))
    damaged = copy_of("patch2", tmp_path, without=("gen", "fm", "dit"))
    (damaged / "cola_dit" / "config.json").unlink()
    llama = tmp_path / "llama"
    llama.mkdir()
    np.savez(llama / "cases.npz", ids=np.zeros((1, 4)))
    (llama / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    status, report = checked(capsys, tmp_path)
    errors = {Path(golden["folder"]).name: golden["error"] for golden in report["goldens"]}
    assert status == 1
    assert "arrays that no check reads: surprise" in errors["base"]
    assert "config.json does not exist" in errors["patch2"]
    assert "is missing" in errors["llama"]


@pytest.mark.parametrize("folder", ["nowhere", "."])
def test_a_folder_without_cases_is_misuse(capsys, tmp_path, folder):
    assert cli.main(["check-goldens", str(tmp_path / folder)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_bfloat16_reports_its_drift_and_judges_nothing(capsys, tmp_path):
    folder = copy_of("patch2", tmp_path, without=("gen", "fm", "vae"))
    status, report = checked(capsys, folder, "--dtype", "bfloat16")
    cases = report["goldens"][0]["cases"]
    assert status == 0 and {case["name"] for case in cases} == {"dit.v.0", "dit.v.1"}
    assert all(case["bound"] is None and 1e-4 < case["absolute"] < 0.1 for case in cases)


def test_a_decoder_that_undoes_nothing_reads_latents_as_the_dit_has_them():
    model = cola_cases.load(GOLDENS / "base", "float32")
    vae = model.cfg.vae.__class__(**{**vars(model.cfg.vae), "latent_shift": 0.3, "latent_scale": 2.0})
    cfg = model.cfg.__class__(**{**vars(model.cfg), "vae": vae})
    z = np.random.default_rng(0).standard_normal((5, vae.latent_dim))
    there = cola_cases.undo_nothing(cfg, model.params)["decoder"]["input"]
    dense = model.params["decoder"]["input"]
    ours = (z / 2.0 + 0.3) @ np.asarray(there["kernel"]) + np.asarray(there["bias"])
    np.testing.assert_allclose(ours, z @ np.asarray(dense["kernel"]) + np.asarray(dense["bias"]), atol=1e-5)


def test_rope_positions_come_from_the_table_and_change_it_where_it_is_too_short():
    rope = GoldenRope([4, 6], [4, 6])  # the table: 0..3 0..3 0..5 0..5
    assert rope.prefix(np.array([4, 5]), 6).tolist() == [[0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 0, 5]]
    block = rope.block(np.array([4]), 4, 8)
    assert block.k_new.tolist() == [[0, 1, 2, 3]] and block.q_new.tolist() == [[0, 1, 2, 3]]
    longer = rope.block(np.array([20]), 4, 24)  # beyond the table of 20: natural, and the new table
    assert longer.k_new.tolist() == longer.q_new.tolist() == [[20, 21, 22, 23]]
    assert rope.block(np.array([8]), 4, 24).q_new.tolist() == [[8, 9, 10, 11]]
    assert rope.block(np.array([4]), 4, 8).q_new.tolist() == [[0, 1, 2, 3]]  # what was remembered stays


def test_cases_say_what_they_lack(tmp_path):
    cases = Cases({"a.0": np.zeros(1), "a.2": np.zeros(1)}, tmp_path / "cases.npz")
    assert len(cases.numbered("a")) == 1 and cases.unread() == ["a.2"]
    with pytest.raises(ValueError, match="has no array b"):
        cases["b"]


@pytest.mark.parametrize(
    ("arrays", "part"),
    [
        (None, "cases.npz cannot be read"), ({}, "holds no arrays"),
        ({"ids": np.array(["a"])}, "arrays that are no numbers: ids"),
        ({"ids": np.array([{}], dtype=object)}, "cases.npz cannot be read"),
        ({"ids": np.array(3)}, "ids is [], expected 2 axes"), ({"ids": np.zeros((0, 3))}, "ids is [0, 3], expected 2 axes"),
        ({"logits_causal": np.zeros((1, 2, 3))}, "has no array ids"),
    ],
)  # fmt: skip
def test_damaged_cases_are_named(tmp_path, arrays, part):
    folder = shutil.copytree(GOLDENS / "llama", tmp_path / "llama")
    if arrays is None:
        (folder / "cases.npz").write_bytes((folder / "cases.npz").read_bytes()[:500])
    else:
        np.savez(folder / "cases.npz", **arrays)
    [golden] = goldens.check(tmp_path, "float32").goldens
    assert part in golden.error and not golden.passed
