"""One run at a time in a workdir."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from cola_jax.train import claim
from cola_jax.train.workdir import WorkdirError

ROOT = Path(__file__).resolve().parents[2]
HOLD = """
import sys, time
from pathlib import Path
from cola_jax.train import claim
claim.take(Path(sys.argv[1]), print)
print("held", flush=True)
time.sleep(60)
"""
quiet = lambda line: None


def holder(workdir):
    """A process that holds the claim of a workdir."""
    started = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(workdir)], cwd=ROOT, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert started.stdout.readline() == "held\n"
    return started


def elsewhere(workdir, **changes):
    """Makes the newest claim that of a process on another machine."""
    path = workdir / "attempts" / f"{claim.attempts(workdir / 'attempts')[-1]:04d}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"machine": "other", "host": "other", **changes}))
    return path


def test_a_second_start_is_refused_while_the_first_one_runs(tmp_path):
    first = holder(tmp_path)
    try:
        with pytest.raises(WorkdirError, match=f"is in use by process {first.pid} on .*: stop that run first"):
            claim.take(tmp_path, quiet)
    finally:
        first.kill()
        first.wait()


def test_a_start_after_a_kill_need_not_wait(tmp_path):
    first = holder(tmp_path)
    first.send_signal(signal.SIGKILL)
    first.wait()
    said, begun = [], time.monotonic()
    held = claim.take(tmp_path, said.append)
    assert time.monotonic() - begun < 5
    assert held.attempt == 2 and f"taking over from process {first.pid}" in said[0]
    held.release()


def test_a_released_claim_is_followed_by_the_next_number(tmp_path):
    for attempt in (1, 2, 3):
        held = claim.take(tmp_path, quiet)
        assert held.attempt == attempt
        held.release()
    assert claim.attempts(tmp_path / "attempts") == [1, 2, 3]


def test_another_machine_that_shows_no_sign_is_taken_over_after_the_lease(tmp_path):
    claim.take(tmp_path, quiet).release()
    elsewhere(tmp_path, released=False)
    said = []
    held = claim.take(tmp_path, said.append, lease=1.0)
    assert held.attempt == 2
    assert "waiting up to 1 s" in said[0] and "has not answered for 1 s" in said[1]
    held.release()


def test_another_machine_whose_heart_beats_keeps_its_workdir(tmp_path):
    claim.take(tmp_path, quiet).release()
    path = elsewhere(tmp_path, released=False, beat=1)
    beat = threading.Timer(1.0, lambda: path.write_text(json.dumps(json.loads(path.read_text()) | {"beat": 2})))
    beat.start()
    with pytest.raises(WorkdirError, match="is in use by process .* on other"):
        claim.take(tmp_path, quiet, lease=20.0)
    beat.join()


def test_a_process_id_that_another_process_has_now_is_no_sign_of_life(tmp_path):
    claim.take(tmp_path, quiet).release()
    path = tmp_path / "attempts" / "0001.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"released": False, "started": "1"}))
    held = claim.take(tmp_path, quiet)
    assert held.attempt == 2
    held.release()


def test_a_holder_that_was_taken_over_is_told_before_it_writes(tmp_path):
    held = claim.take(tmp_path, quiet)
    held.check()
    (tmp_path / "attempts" / "0002.json").write_text(json.dumps({"host": "there", "pid": 7, "released": False}))
    with pytest.raises(claim.ClaimLost, match="taken over by process 7 on there") as lost:
        held.check()
    assert lost.value.exit_status == 1
    held.release()
    assert json.loads((tmp_path / "attempts" / "0002.json").read_text())["released"] is False


def test_of_starts_at_once_one_holds_the_workdir(tmp_path):
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", HOLD, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        for _ in range(4)
    ]  # fmt: skip
    try:
        lines = [process.stdout.readline() for process in processes]
        assert sorted(lines) == ["", "", "", "held\n"]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def test_the_heart_beats_in_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(claim, "HEARTBEAT", 0.05)
    held = claim.take(tmp_path, quiet)
    deadline = time.monotonic() + 10
    beat = lambda: json.loads((tmp_path / "attempts" / "0001.json").read_text())["beat"]
    while beat() < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert beat() >= 3
    held.release()
    assert json.loads((tmp_path / "attempts" / "0001.json").read_text())["released"] is True
