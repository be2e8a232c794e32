"""The launch scripts: that they parse, and what the local one starts."""

import os
import subprocess
from pathlib import Path

import pytest

LAUNCH = Path(__file__).resolve().parents[1] / "launch"


@pytest.mark.parametrize("script", sorted(path.name for path in LAUNCH.iterdir()))
def test_a_launch_script_is_a_shell_program(script):
    done = subprocess.run(["bash", "-n", LAUNCH / script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_local_one_starts_every_process_and_fails_with_any(tmp_path):
    stand_in = tmp_path / "cola-jax"
    stand_in.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/said\ncase "$@" in *"--process-id 1"*) exit 3;; esac\n')
    stand_in.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    program = ["bash", LAUNCH / "local.sh", "3", "--workdir", "a folder"]
    done = subprocess.run(program, env=os.environ | {"PATH": path, "PORT": "1"}, capture_output=True, text=True)
    assert done.returncode == 3
    said = sorted((tmp_path / "said").read_text().splitlines())
    assert [line.split("--process-id ")[1] for line in said] == [f"{id} --workdir a folder" for id in range(3)]
    assert all(line.startswith("train --coordinator localhost:1 --num-processes 3 ") for line in said)
