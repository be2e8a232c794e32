import json
import os

import jax
import pytest

OPTIMIZED: set[str] = set()  # files whose programs run long enough to be worth optimizing

TINY_TEXT = """
import json
from cola_jax import config

FIELDS = json.loads({fields!r})

def get_config(arg=None):
    stage, _, vae_from = (arg or "vae").partition(",")
    c = config.base()
    for path, value in FIELDS.items():
        if not path.startswith(("dit.", "sampling.") if stage == "vae" else "train.eval_batches"):
            config.override(c, [(path, str(value))])
    c.family = "text_vae" if stage == "vae" else "cola"
    if stage != "vae":
        config.start_from(c, vae_from)
    c.train.eval_every = 3 if stage == "vae" else 0
    return c
"""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """A file's tests run in one process, which makes their fixtures and traces their programs once."""
    from xdist.scheduler import LoadFileScheduling

    return LoadFileScheduling(config, log) if config.getvalue("dist") == "load" else None


@pytest.fixture(autouse=True, scope="session")
def exact_and_compiled_once(request):
    """Full fp32 products on every backend, and a compilation cache that stays: tests share many programs, and so do runs.

    `python -m pytest --cache-clear` empties it.
    """
    compiled = request.config.cache.mkdir("compiled")
    jax.config.update("jax_default_matmul_precision", "highest")
    jax.config.update("jax_compilation_cache_dir", str(compiled))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # for the processes that tests start; this one sets it by file


@pytest.fixture(autouse=True, scope="session")
def no_pictures_of_a_run():
    """Drawing a run's metrics takes longer than the few steps of most runs here; a test of the pictures uses `pictures`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cola_jax.train.hooks.plot_metrics", lambda workdir: [])
        yield


@pytest.fixture
def pictures(monkeypatch):
    from cola_jax.train.plots import plot_metrics

    monkeypatch.setattr("cola_jax.train.hooks.plot_metrics", plot_metrics)


@pytest.fixture(autouse=True, scope="module")
def compile_in_a_hurry(request):
    """Compiling is what these tests spend their time on: most programs are small and run a few times."""
    jax.config.update("jax_disable_most_optimizations", request.path.name not in OPTIMIZED)
    yield
    jax.clear_caches()  # each program maps memory, and a process has 65,530 maps at most: at the end of them jaxlib crashes


@pytest.fixture
def tpu_compiler(request, monkeypatch):
    """Tests that compile for TPUs, which takes libtpu and no TPU; two processes may do so at once. In full, as a user does."""
    pytest.importorskip("libtpu", reason="the TPU compiler is not installed: pip install -e '.[tpu]'")
    os.putenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    os.putenv("TPU_SKIP_MDS_QUERY", "1")
    monkeypatch.delenv("JAX_DISABLE_MOST_OPTIMIZATIONS", raising=False)
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", request.path.name not in OPTIMIZED)


@pytest.fixture(scope="session")
def text_config(tmp_path_factory):
    """A config file of a tiny model of a few text files: FILE:vae or FILE:joint[,STAGE_1_WORKDIR]."""
    folder = tmp_path_factory.mktemp("text")
    for number in range(12):
        (folder / f"{number}.txt").write_text(
            f"Story {number}. Anna has {number} apples and gives {number // 2} away. " * 3
        )
    fields = {
        "data.packing": "best_fit", "data.sources.0.kind": "text", "data.sources.0.path": repr((str(folder),)),
        "data.heldout_fraction": 0.2, "data.threads": 1, "data.prefetch": 1, "tokenizer.kind": "bytes",
        "vae.vocab_size": 258, "vae.dim": 16, "vae.ffn_dim": 24, "vae.num_heads": 2, "vae.encoder_blocks": 1,
        "vae.decoder_blocks": 1, "vae.latent_dim": 4, "vae.block.init_std": 0.3,
        "dit.dim": 16, "dit.num_layers": 1, "dit.num_heads": 2, "dit.head_dim": 8, "dit.block_size": 4, "dit.rope_dim": 6,
        "dit.time_frequencies": 8, "dit.zero_init": False,
        "train.steps": 3, "train.batch_size": 8, "train.sequence_length": 32, "train.log_every": 1, 
        "train.eval_batches": 1, "train.plot_every": 0, "checkpoint.every": 100, "checkpoint.asynchronous": False,
        "optimizer.learning_rate": 1e-2, "optimizer.warmup_steps": 1, "optimizer.decay_steps": 10,
        "mesh.data": 1, "mesh.fsdp": 1, "compute.dtype": "float32", "compute.attention_chunks": 2,
        "sampling.steps": 2, "sampling.guidance": 2.0, "sampling.max_new_tokens": 10,
    }  # fmt: skip
    file = folder / "tiny_text.py"
    file.write_text(TINY_TEXT.format(fields=json.dumps(fields)))
    return file


@pytest.fixture(scope="session")
def trained(text_config, tmp_path_factory):
    """Workdirs of both stages, trained by the command line: {"vae": ..., "joint": ...}."""
    from cola_jax import cli

    folder = tmp_path_factory.mktemp("runs")
    for stage, spec in (("vae", "vae"), ("joint", f"joint,{folder / 'vae'}")):
        assert cli.main(["train", "--config", f"{text_config}:{spec}", "--workdir", str(folder / stage)]) == 0
    return {stage: folder / stage for stage in ("vae", "joint")}


@pytest.fixture(scope="session")
def stores():
    """{scheme: root} of both emulated buckets."""
    import contextlib

    from benchmarks import emulators

    with contextlib.ExitStack() as stack:
        yield {scheme: stack.enter_context(emulators.store(scheme)) for scheme in emulators.KINDS}


@pytest.fixture(params=["gs", "s3"])
def bucket(request, stores, tmp_path):
    """An empty folder of each emulated bucket."""
    from cola_jax import storage

    return storage.path(f"{stores[request.param]}/{tmp_path.name}")


@pytest.fixture(params=["local", "gs", "s3"])
def place(request, tmp_path):
    """An empty folder on a local disk and of each emulated bucket."""
    from cola_jax import storage

    if request.param == "local":
        return tmp_path / "place"
    return storage.path(f"{request.getfixturevalue('stores')[request.param]}/{tmp_path.name}")
