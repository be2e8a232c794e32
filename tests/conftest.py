from pathlib import Path

import jax
import pytest

QUICK = {"models", "diffusion", "families", "generate", "interop"}  # many small programs, each run a few times


@pytest.fixture(autouse=True, scope="session")
def exact_and_compiled_once(tmp_path_factory):
    """Full fp32 products on every backend, and a compilation cache of this session's own: tests share many programs."""
    jax.config.update("jax_default_matmul_precision", "highest")
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("compiled")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


@pytest.fixture(autouse=True, scope="module")
def compile_in_a_hurry(request):
    """Compiling is what the folders of QUICK spend their time on."""
    jax.config.update("jax_disable_most_optimizations", Path(request.path).parent.name in QUICK)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
