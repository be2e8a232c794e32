"""The same seed gives the same losses on every mesh, within what the order of fp32 additions does."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

BOUND = 2e-5  # relative, on the loss of each of three steps
PROGRAM = Path(__file__).with_name("train_on_meshes.py")


@pytest.mark.parametrize("family,packing,meshes", [
    pytest.param("cola", "concat", ["fsdp=2,sequence=2,tensor=2"], marks=pytest.mark.slow),
    pytest.param("cola", "concat", ["replica=2,data=2,fsdp=2"], marks=pytest.mark.slow),
    pytest.param("ar", "best_fit", ["fsdp=8", "fsdp=2,sequence=4"], marks=pytest.mark.slow),
    ("llada", "best_fit", ["fsdp=2,sequence=2,tensor=2"]),
])  # fmt: skip
def test_losses_are_the_same_on_every_mesh(family, packing, meshes):
    program = [sys.executable, str(PROGRAM), family, packing, "one", *meshes]
    done = subprocess.run(program, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    alone = found.pop("one")
    assert len(set(alone)) == 3 and set(found) == set(meshes)
    for mesh, losses in found.items():
        np.testing.assert_allclose(losses, alone, rtol=BOUND, err_msg=mesh)
