import jax
import pytest


@pytest.fixture(autouse=True, scope="session")
def exact_and_compiled_once(tmp_path_factory):
    """Full fp32 products on every backend, and a compilation cache of this session's own: tests share many programs."""
    jax.config.update("jax_default_matmul_precision", "highest")
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("compiled")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
