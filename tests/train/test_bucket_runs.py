"""Runs whose workdir is in a bucket: killed, damaged, taken over, and with a store that fails."""

import json
import os
import signal
import subprocess
import sys

import flaky_proxy
import pytest
from test_loop import losses, run, run_apart, same
from toy_family import batches, config

from benchmarks import emulators
from cola_jax import storage
from cola_jax.storage import StorageError
from cola_jax.train import claim, saves
from cola_jax.train.metrics import read_metrics
from cola_jax.train.stored import folder, steps_in
from cola_jax.train.workdir import WorkdirError

CFG = {"every": 3, "asynchronous": False}
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The same run on a local disk, never interrupted."""
    workdir = tmp_path_factory.mktemp("whole")
    run(workdir, config(checkpoint=CFG))
    return workdir


def test_a_run_in_a_bucket_is_the_one_on_a_disk(bucket, whole):
    run(bucket, config(checkpoint=CFG))
    assert same(bucket, whole) and steps_in(folder(bucket)) == [3, 6, 8]
    assert storage.names_in(bucket / "tensorboard")


def test_a_run_that_was_killed_has_every_line_once_and_goes_on_bit_by_bit(bucket, whole):
    status, _ = run_apart(bucket, "--checkpoint", json.dumps(CFG), "--kill-at", "5", check=False)
    assert status == -signal.SIGKILL
    assert sorted(losses(bucket)) == [1, 2, 3], "lines up to the checkpoint, flushed before it"
    _, said = run(bucket, config(checkpoint=CFG))
    assert "resuming after step 3" in said and same(bucket, whole)
    assert [line["step"] for line in read_metrics(bucket) if "loss" in line] == list(range(1, 9))


def test_a_run_killed_inside_a_save_goes_on_from_the_one_before(bucket, whole):
    code = (
        "import os, sys; sys.path.insert(0, os.path.dirname(sys.argv[1])); import orbax.checkpoint as ocp\n"
        "C = ocp.path.atomicity.CommitFileTemporaryPath; real = C.finalize\n"
        "async def die(self, *a, **k):\n"
        "    if self._final_path.name.startswith('6.'): os._exit(9)\n"
        "    return await real(self, *a, **k)\n"
        "C.finalize = die\n"
        "import toy_family; sys.argv = sys.argv[1:]; toy_family.main()\n"
    )
    import toy_family

    command = [sys.executable, "-c", code, toy_family.__file__, str(bucket), "--checkpoint", json.dumps(CFG)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ, "PYTHONPATH": "."})
    assert done.returncode == 9, done.stderr
    names = storage.names_in(folder(bucket))
    assert names == ["3.0001", "6.0001"] and steps_in(folder(bucket)) == [3]
    _, said = run(bucket, config(checkpoint=CFG))
    assert "resuming after step 3" in said and same(bucket, whole)
    assert "6.0001" not in storage.names_in(folder(bucket))


def test_a_damaged_newest_checkpoint_is_named_and_the_older_one_taken(bucket, whole):
    run(bucket, config(6, checkpoint=CFG))
    newest = saves.saves_in(folder(bucket))[6]
    for place in storage.files_of(newest / "params"):
        if storage.size_of(place) > 100:
            storage.write_bytes(place, storage.read_bytes(place)[:50])
    _, said = run(bucket, config(checkpoint=CFG))
    assert f"{newest} (" in said and "is damaged and skipped" in said and "resuming after step 3" in said
    assert same(bucket, whole) and (newest / saves.DAMAGED).exists()


def test_a_second_run_is_refused_and_one_that_lost_its_claim_stops(bucket, whole):
    held = claim.take(bucket, lambda line: None)
    with pytest.raises(WorkdirError, match="is in use by process"):
        run(bucket, config(checkpoint=CFG))
    held.release()

    def make(start):
        for index, batch in enumerate(batches(start), start):
            if index == 4:  # another start takes over while this one does not answer
                storage.write_json(bucket / "attempts" / "0009.json", {"host": "there", "pid": 7, "released": True})
            yield batch

    with pytest.raises(claim.ClaimLost, match="taken over by process 7 on there"):
        run(bucket, config(checkpoint=CFG), make=make)
    assert steps_in(folder(bucket)) == [3] and max(losses(bucket)) == 3, "nothing is written after the loss"
    run(bucket, config(checkpoint=CFG))
    assert same(bucket, whole)


@pytest.mark.parametrize("scheme", ["gs", "s3"])
def test_a_put_that_fails_twice_and_then_works_is_tried_again(scheme, whole, monkeypatch):
    counts: dict[str, int] = {}

    def fails(method, path):
        target = path.split("?")[0] if scheme == "s3" else path
        named = any(one in path for one in ("metrics", "commit_success", "manifest"))
        if method not in ("PUT", "POST") or not named or (target not in counts and len(counts) == 2):
            return None
        counts[target] = counts.get(target, 0) + 1
        return 503 if counts[target] <= 2 else None

    with flaky_proxy.store(scheme, fails) as root:
        workdir = storage.path(f"{root}/run")
        run(workdir, config(checkpoint=CFG))
        assert same(workdir, whole) and min(counts.values()) > 2 and len(counts) == 2


@pytest.mark.parametrize("scheme", ["gs", "s3"])
def test_a_store_that_refuses_is_one_error_before_any_work(scheme):
    with flaky_proxy.store(scheme, lambda method, path: 403) as root, pytest.raises(StorageError) as error:
        run(storage.path(f"{root}/run"), config())
    assert str(error.value).startswith(f"{root}/run cannot be reached: ") and "credentials" in str(error.value)


def test_missing_credentials_are_one_line(tmp_path):
    with emulators.store("s3") as root:
        hidden = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
        environment = {name: value for name, value in os.environ.items() if name not in hidden}
        environment |= {
            "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
            "AWS_CONFIG_FILE": str(tmp_path / "none"),
        }
        command = [
            sys.executable,
            "-m",
            "cola_jax.cli",
            "train",
            "--config",
            "tinyworld:vae",
            "--workdir",
            f"{root}/run",
        ]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    lines = [line for line in done.stderr.splitlines() if line.startswith("cola-jax")]
    assert done.returncode == 2 and len(lines) == 1 and "credentials" in lines[0], done.stderr
