"""What goes wrong around a run: disks, folders, clocks and signals. Each run ends as if it had not happened."""

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import toy_family
from test_loop import ROOT, losses, run, same
from toy_family import config

from cola_jax.errors import UserError
from cola_jax.train import checkpoint, claim, saves
from cola_jax.train import loop as loop_module
from cola_jax.train.stored import CheckpointError, folder, steps_in

CFG = {"every": 2, "asynchronous": False}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The same run, undisturbed."""
    workdir = tmp_path_factory.mktemp("whole")
    run(workdir, config(checkpoint=CFG))
    return workdir


@contextlib.contextmanager
def disk(place, options):
    """Mounts a small file system in memory; skips the test if that is not permitted."""
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], capture_output=True)
    if done.returncode:
        pytest.skip("mounting a file system takes root")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_disk_that_fills_up_is_one_line_and_the_run_goes_on_when_there_is_room(tmp_path, whole):
    with disk(tmp_path / "disk", "size=600k") as place:
        workdir = place / "run"
        keep = json.dumps(CFG | {"keep_last": 100})
        command = [sys.executable, toy_family.__file__, str(workdir), "--checkpoint", keep, "--steps", "100"]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=120, env={**os.environ, "PYTHONPATH": str(ROOT)}
        )
        assert done.returncode == 1 and "No space left" in done.stderr or "free space" in done.stderr, done.stderr
        done = steps_in(folder(workdir))
        assert done and done[-1] < 100
        subprocess.run(["mount", "-o", "remount,size=64m", str(place)], check=True)
        _, said = run(workdir, config(done[-1] + 2, checkpoint=CFG))
        assert f"resuming after step {done[-1]}" in said
        found, expected = losses(workdir), losses(whole)
        assert sorted(found) == list(range(1, done[-1] + 3)), "every step once"
        assert all(found[step] == expected[step] for step in found if step in expected)


def test_a_workdir_that_cannot_be_written_is_one_line_and_nothing_is_lost(tmp_path, whole):
    with disk(tmp_path / "disk", "size=64m") as place:
        workdir = place / "run"
        run(workdir, config(4, checkpoint=CFG))
        subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
        with pytest.raises((UserError, OSError)) as error:
            run(workdir, config(checkpoint=CFG))
        assert "read-only file system" in str(error.value).lower()
        assert isinstance(error.value, UserError) or error.value.errno == errno.EROFS
        subprocess.run(["mount", "-o", "remount,rw", str(place)], check=True)
        run(workdir, config(checkpoint=CFG))
        assert same(workdir, whole)


def test_a_workdir_that_was_moved_goes_on(tmp_path, whole):
    run(tmp_path / "here", config(4, checkpoint=CFG))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "here").rename(tmp_path / "elsewhere" / "there")
    run(tmp_path / "elsewhere" / "there", config(checkpoint=CFG))
    assert same(tmp_path / "elsewhere" / "there", whole)


def test_a_workdir_that_is_renamed_under_a_run_stops_it_and_goes_on_by_its_new_name(tmp_path, whole):
    def make(start):
        for index, batch in enumerate(toy_family.batches(start), start):
            if index == 5:
                (tmp_path / "here").rename(tmp_path / "there")
            yield batch

    with pytest.raises(claim.ClaimLost, match="was moved, renamed or removed while .* continues"):
        run(tmp_path / "here", config(checkpoint=CFG), make=make)
    assert not (tmp_path / "here" / "checkpoints").exists()
    path = tmp_path / "there" / "attempts" / "0001.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"started": "1"}))  # its process has ended
    _, said = run(tmp_path / "there", config(checkpoint=CFG))
    assert "resuming after step 4" in said and same(tmp_path / "there", whole)


def test_a_signal_during_compilation_ends_the_run_after_its_first_step(tmp_path, whole, monkeypatch):
    real = loop_module.update_for

    def compiled(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return real(*arguments)

    monkeypatch.setattr(loop_module, "update_for", compiled)
    summary, said = run(tmp_path / "run", config(checkpoint=CFG))
    assert summary.interrupted and summary.step == 1 and steps_in(folder(tmp_path / "run")) == [1]
    monkeypatch.undo()
    run(tmp_path / "run", config(checkpoint=CFG))
    assert same(tmp_path / "run", whole)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_signal_during_a_save_lets_it_be_finished(tmp_path, whole, monkeypatch, asynchronous):
    real, cfg = checkpoint.ocp.AsyncCheckpointer.save, config(checkpoint=CFG | {"asynchronous": asynchronous})

    def save(self, path, *arguments, **options):
        if path.name == "4":
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self, path, *arguments, **options)

    monkeypatch.setattr(checkpoint.ocp.AsyncCheckpointer, "save", save)
    summary, _ = run(tmp_path / "run", cfg)
    assert summary.interrupted and 4 <= summary.step <= 5
    assert {4, summary.step} <= set(steps_in(folder(tmp_path / "run")))
    monkeypatch.undo()
    run(tmp_path / "run", cfg)
    assert same(tmp_path / "run", whole)


def test_a_clock_that_jumps_changes_nothing(tmp_path, whole, monkeypatch):
    real, offset = time.time, [0.0]
    monkeypatch.setattr(time, "time", lambda: real() + offset[0])

    def make(start):
        for index, batch in enumerate(toy_family.batches(start), start):
            offset[0] = (0.0, 86400.0, -86400.0)[index % 3]
            yield batch

    run(tmp_path / "run", config(4, checkpoint=CFG), make=make)
    held = claim.take(tmp_path / "run", lambda line: None, claim.Rhythm(0.05, 0.5))
    with pytest.raises(UserError, match="is in use by process"):
        claim.take(tmp_path / "run", lambda line: None, claim.Rhythm(0.05, 0.5))
    held.release()
    run(tmp_path / "run", config(checkpoint=CFG | {"every_minutes": 600.0}), make=make)
    assert same(tmp_path / "run", whole) and steps_in(folder(tmp_path / "run")) == [4, 6, 8]


def test_a_save_of_a_stale_process_is_set_aside_for_the_one_that_holds_the_claim(tmp_path, whole):
    workdir = tmp_path / "run"

    def make(start):
        for index, batch in enumerate(toy_family.batches(start), start):
            if index == 5:  # a process that lost its claim commits a save of step 6 after all
                stale = folder(workdir) / "6"
                (stale / "meta").mkdir(parents=True)
                (stale / "meta" / "metadata").write_text('{"attempt": 0}')
                assert steps_in(folder(workdir))[-1] == 4, "it is not found"
            yield batch

    run(workdir, config(checkpoint=CFG), make=make)
    assert same(workdir, whole) and (folder(workdir) / "6.stale").is_dir()
    assert saves.saves_in(folder(workdir))[6].name == "6"


def test_the_first_save_that_cannot_be_read_back_stops_the_run(tmp_path, monkeypatch):
    real = checkpoint.stored.verify

    def verify(path, trees):
        for file in (path / "params" / "d").iterdir():
            file.write_bytes(file.read_bytes()[:10])
        return real(path, trees)

    monkeypatch.setattr(checkpoint.stored, "verify", verify)
    with pytest.raises(CheckpointError, match="cannot be read back"):
        run(tmp_path / "run", config(checkpoint=CFG))
