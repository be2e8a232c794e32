"""`cola-jax compile`: on CPU devices here, and for TPUs that are not."""

import dataclasses
import json
import subprocess
import sys

import pytest
from tiny import config

from cola_jax import cli
from cola_jax.aot import compile
from cola_jax.aot.topology import devices_of
from cola_jax.families import FAMILIES
from cola_jax.parallel.mesh import make_mesh

SMALL = {"mesh__data": 1, "vae__encoder_blocks": 1, "vae__decoder_blocks": 1, "dit__num_layers": 2}


def run(*arguments):
    """The command in a process of its own, whose backend has yet to start."""
    program = [sys.executable, "-m", "cola_jax.cli", "compile", *arguments]
    return subprocess.run(program, capture_output=True, text=True, timeout=500)


@pytest.mark.slow
def test_a_config_becomes_a_report_for_cpus_and_for_tpus(text_config, tpu_compiler):
    mesh = ("--config.mesh.data=2", "--config.mesh.fsdp=2")
    given = ("--topology", "cpu:4", "--topology", "v5e:2x2", "--program", "train", "--json")
    done = run("--config", f"{text_config}:joint", *given, *mesh)
    assert done.returncode == 0, done.stderr
    cpu, tpu = json.loads(done.stdout)
    assert (cpu["device_kind"], tpu["device_kind"]) == ("cpu", "TPU v5 lite")
    for report in (cpu, tpu):
        assert report["devices"] == 4 and report["mesh"]["fsdp"] == 2 and report["fits"]
        assert report["total_bytes"] >= report["state_bytes"] > 0
        assert report["flops"] > 0.8 * report["useful_flops"] > 0
        assert report["unknown_loops"] == 0
        kinds = {c["kind"] for c in report["collectives"]}
        assert kinds & {"all-reduce", "reduce-scatter"} and "all-gather" in kinds
    assert cpu["capacity"] is None and cpu["seconds"] is None
    assert 0 < tpu["predicted_mfu"] < 1 and tpu["seconds"] > 0 and tpu["capacity"] > 15 * 2**30


@pytest.mark.parametrize(
    "name", ["ar", *(pytest.param(name, marks=pytest.mark.slow) for name in ("cola", "llada", "plaid"))]
)
def test_both_programs_of_a_family_compile_and_say_whether_they_fit(name):
    cfg = config(family=name, **SMALL)
    train, _ = compile.compile_program(cfg, "cpu:1", "train", rows=2, prompt=16)
    generate, _ = compile.compile_program(cfg, "cpu:1", "generate", rows=2, prompt=16)
    assert train.flops > 0 < generate.flops
    assert compile.as_text(train).splitlines()[-1] == compile.as_text(generate).splitlines()[-1] == "  fits"
    full = dataclasses.replace(train, capacity=train.total_bytes - 1)
    assert not full.fits and "does not fit" in compile.as_text(full).splitlines()[-1]


def test_layers_that_are_cut_for_generation_stay_split_over_devices():
    kernels = []
    for scan in (True, False):
        cfg = config(**SMALL | {"mesh__fsdp": 1}, compute__scan_layers=scan)
        mesh = make_mesh(cfg.mesh, devices_of("cpu:1"))
        _, (_, params, *_) = compile.program_of(cfg, mesh, "generate", 2, 16)
        blocks = params["dit"]["blocks"]
        kernels.append((blocks if scan else blocks[1])["mlp_in"]["kernel"])
    kernel, cut = kernels
    assert cut.shape == kernel.shape[1:] and tuple(cut.sharding.spec) == tuple(kernel.sharding.spec)[1:]
    assert "fsdp" in str(cut.sharding.spec)


@pytest.mark.slow
def test_the_flops_of_a_looped_program_are_those_of_an_unrolled_one():
    flops = [
        compile.compile_program(
            config(family="ar", compute__scan_layers=scan, backbone__num_layers=3), "cpu:1", "train", 1, 1
        )[0].flops
        for scan in (True, False)
    ]
    assert flops[0] == pytest.approx(flops[1], rel=0.02)


def test_the_command_names_what_is_wrong_with_its_arguments(text_config, capsys):
    spec = f"{text_config}:vae"
    for arguments, message in (
        (["--config", spec, "--topology", "v5e:7x7"], "v5e: 1x1 2x2"),
        (["--config", spec], "--topology"),
        (["--load", "x", "--topology", "cpu:1"], "takes no --config"),
        (["--config", spec, "--topology", "cpu:1", "--topology", "cpu:1", "--save", "x"], "--save writes one"),
    ):
        assert cli.main(["compile", *arguments]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.slow
def test_a_program_larger_than_the_device_does_not_fit(text_config, tpu_compiler):
    wide = ("--config.vae.vocab_size=2000000", "--config.vae.dim=1024", "--config.mesh.data=4")
    given = ("--config", f"{text_config}:vae", "--topology", "v5e:2x2")
    done = run(*given, *wide)
    assert done.returncode == 1, done.stderr
    assert "does not fit" in done.stdout.splitlines()[-1]


@pytest.mark.slow
def test_remat_trades_memory_for_work_and_offload_for_the_hosts_memory(tpu_compiler):
    sizes = dict(backbone__dim=128, backbone__ffn_dim=512, backbone__num_layers=6, compute__attention_chunks=1)
    sizes |= dict(train__batch_size=16, train__sequence_length=128)
    reports = {}
    for remat in ("none", "minimal", "full", "offload"):
        cfg = config(family="ar", **SMALL, **sizes, compute__remat=remat, compute__cross_entropy_chunk=64)
        reports[remat], _ = compile.compile_program(cfg, "v5e:1x1", "train", 1, 1)
    temporary = {remat: report.temporary_bytes for remat, report in reports.items()}
    assert temporary["full"] < temporary["minimal"] < temporary["none"]
    assert temporary["offload"] < temporary["minimal"]
    assert reports["offload"].host_bytes > 0 == reports["minimal"].host_bytes
    assert reports["none"].flops < reports["minimal"].flops < reports["full"].flops


@pytest.mark.slow
def test_parameters_may_be_split_across_slices_or_repeated_in_each(tpu_compiler):
    meshes = {"split": {"mesh__dcn__replica": 1, "mesh__dcn__fsdp": 2}, "repeated": {"mesh__replica": 2}}
    reports = {}
    for name, mesh in meshes.items():
        cfg = config(family="ar", **SMALL, **mesh, mesh__fsdp=-1, train__batch_size=8)
        reports[name], _ = compile.compile_program(cfg, "v5e:2x2*2", "train", 1, 1)
    assert all(report.fits for report in reports.values())
    assert [report.mesh["fsdp"] for report in reports.values()] == [8, 4]
    assert reports["split"].state_bytes < reports["repeated"].state_bytes


@pytest.mark.slow
def test_the_state_of_bf16_moments_is_smaller_by_four_bytes_a_parameter():
    both = [
        compile.compile_program(config(family="ar", **SMALL, optimizer__moment_dtype=dtype), "cpu:1", "train", 1, 1)[0]
        for dtype in ("float32", "bfloat16")
    ]
    params = sum(FAMILIES["ar"].objective.cost(config(family="ar", **SMALL)).params.values())
    assert both[0].state_bytes - both[1].state_bytes == 4 * params
