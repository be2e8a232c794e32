"""slurm.sbatch with a workdir in a bucket."""

import os
import subprocess
import sys
from pathlib import Path

from cola_jax import storage
from cola_jax.train import saves

ROOT = Path(__file__).resolve().parents[2]


def test_slurm_counts_the_checkpoints_of_a_workdir_in_a_bucket(bucket, tmp_path):
    for name in ("2.0001", "10.0001", "12.0002"):
        storage.write_bytes(bucket / "checkpoints" / name / "meta" / "metadata", b"{}")
        if name != "12.0002":  # which is not whole
            storage.write_bytes(bucket / "checkpoints" / name / saves.COMMIT, b"")
    (tmp_path / "cola-jax").write_text("#!/bin/sh\n")
    (tmp_path / "cola-jax").chmod(0o755)
    (tmp_path / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (tmp_path / "python").chmod(0o755)
    text = (ROOT / "launch" / "slurm.sbatch").read_text()
    function = text[text.index("newest_step() {") : text.index("\n}\n", text.index("newest_step() {")) + 3]
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    for workdir, expected in ((bucket, "10"), (bucket / "none", "-1")):
        script = f"{function}\nworkdir='{workdir}'\nnewest_step"
        done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, timeout=60)
        assert done.stdout == f"{expected}\n", done.stderr
