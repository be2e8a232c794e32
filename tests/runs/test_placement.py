"""A run that goes on with another placement has the losses of one that was never moved (a real model; the toy is in train/)."""

import io

import numpy as np
import pytest
from tiny import config

from cola_jax import runs
from cola_jax.train.metrics import read_metrics

SMALL = {
    "train__log_every": 1, "train__eval_every": 0, "train__plot_every": 0, "tokenizer__kind": "bytes", "mesh__data": 1,
    "data__generated_documents": 40, "data__heldout_documents": 8, "optimizer__warmup_steps": 1,
    "optimizer__schedule": "constant", "optimizer__learning_rate": 1e-3, "flow__time_per": "block", "vae__vocab_size": 258,
}  # fmt: skip
MOVED = {
    "train__accumulate": 2, "compute__remat": "full", "compute__attention_chunks": 1, "compute__cross_entropy_chunk": 4,
    "compute__scan_layers": False, "compute__attention": "xla", "data__threads": 1, "data__prefetch": 1,
}  # fmt: skip


def losses(workdir):
    return [line["loss"] for line in read_metrics(workdir) if "loss" in line]


@pytest.mark.slow
def test_kernels_remat_microbatches_and_threads_may_change(tmp_path):
    run = lambda folder, **changes: runs.run_training(config(**SMALL | changes), tmp_path / folder, io.StringIO())
    run("whole", train__steps=4)
    run("moved", train__steps=2)
    summary = run("moved", train__steps=4, **MOVED)
    assert summary.step == 4
    np.testing.assert_allclose(losses(tmp_path / "moved"), losses(tmp_path / "whole"), rtol=2e-5)
