import jax
import pytest


@pytest.fixture(autouse=True, scope="package")
def compile_each_program_once(tmp_path_factory):
    """The tests compile the same few programs again and again: a compilation cache of this session's own."""
    changes = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("compiled")),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }
    before = {name: getattr(jax.config, name) for name in changes}
    for name, value in changes.items():
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)
