"""Pretraining continuous latent diffusion language models in JAX.

The public surface, loaded on first use:

load_config                 an experiment, checked: `load_config("tinyworld:vae", {"train.steps": 100})`
prepare_corpus              tokenize and pack a corpus once
run_training, read_metrics  train a config in a workdir, or continue it; the metrics it wrote
Writer                      generate text with a trained run
evaluate_run                answer and score tasks
estimate_likelihood         text log-likelihood of answers given prompts
compare_runs                compare configs or runs: parameters, FLOPs, differences
compile_program             compile a run's programs for a topology without its devices
import_weights, export_weights   released and Hugging Face LLaMA folders
UserError                   an error that the user can fix
"""

import importlib

_EXPORTS = {
    "UserError": "errors",
    "Writer": "runs.writer",
    "compare_runs": "runs.comparison",
    "compile_program": "aot.compile",
    "estimate_likelihood": "evaluate.text_likelihood",
    "evaluate_run": "evaluate.benchmark",
    "export_weights": "interop.weights",
    "import_weights": "interop.weights",
    "load_config": "config",
    "prepare_corpus": "data.prepare",
    "read_metrics": "train.metrics",
    "run_training": "runs.training",
}
__all__ = sorted(_EXPORTS)


def __getattr__(name):
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_EXPORTS[name]}"), name)


def __dir__():
    return sorted([*globals(), *__all__])
