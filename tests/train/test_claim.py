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

from cola_jax import storage
from cola_jax.train import claim
from cola_jax.train.workdir import WorkdirError

ROOT = Path(__file__).resolve().parents[2]
HOLD = """
import sys, time
from cola_jax import storage
from cola_jax.train import claim
claim.take(storage.path(sys.argv[1]), print)
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


def test_a_second_start_is_refused_while_the_first_one_runs(place):
    first = holder(place)
    try:
        with pytest.raises(WorkdirError, match=f"is in use by process {first.pid} on .*: stop that run first"):
            claim.take(place, quiet)
    finally:
        first.kill()
        first.wait()


def test_a_start_after_a_kill_need_not_wait(place):
    first = holder(place)
    first.send_signal(signal.SIGKILL)
    first.wait()
    said, begun = [], time.monotonic()
    held = claim.take(place, said.append)
    assert time.monotonic() - begun < 5
    assert held.attempt == 2 and f"taking over from process {first.pid}" in said[0]
    held.release()


def test_a_released_claim_is_followed_by_the_next_number(place):
    for attempt in (1, 2, 3):
        held = claim.take(place, quiet)
        assert held.attempt == attempt
        held.release()
    assert claim.attempts(place / "attempts") == [1, 2, 3]


def test_another_machine_that_shows_no_sign_is_taken_over_after_the_lease(place):
    claim.take(place, quiet).release()
    elsewhere(place, released=False)
    said = []
    held = claim.take(place, said.append, claim.Rhythm(5.0, 1.0))
    assert held.attempt == 2
    assert "waiting up to 1 s" in said[0] and "has not answered for 1 s" in said[1]
    held.release()


def test_another_machine_whose_heart_beats_keeps_its_workdir(place):
    claim.take(place, quiet).release()
    path = elsewhere(place, released=False, beat=1)
    beat = threading.Timer(1.0, lambda: path.write_text(json.dumps(json.loads(path.read_text()) | {"beat": 2})))
    beat.start()
    with pytest.raises(WorkdirError, match="is in use by process .* on other"):
        claim.take(place, quiet, claim.Rhythm(5.0, 20.0))
    beat.join()


def test_a_process_id_that_another_process_has_now_is_no_sign_of_life(place):
    claim.take(place, quiet).release()
    path = place / "attempts" / "0001.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"released": False, "started": "1"}))
    held = claim.take(place, quiet)
    assert held.attempt == 2
    held.release()


def test_a_holder_that_was_taken_over_is_told_before_it_writes(place):
    held = claim.take(place, quiet)
    held.check()
    (place / "attempts" / "0002.json").write_text(json.dumps({"host": "there", "pid": 7, "released": False}))
    assert not held.lost
    with pytest.raises(claim.ClaimLost, match="taken over by process 7 on there") as lost:
        held.check()
    assert held.lost and lost.value.exit_status == 1
    held.release()
    assert storage.read_json(place / "attempts" / "0002.json")["released"] is False


def test_of_starts_at_once_one_holds_the_workdir(place):
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", HOLD, str(place)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
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


def test_the_heart_beats_in_the_file(place):
    held = claim.take(place, quiet, claim.Rhythm(0.05, 30.0))
    deadline = time.monotonic() + 10
    beat = lambda: storage.read_json(place / "attempts" / "0001.json")["beat"]
    while (last := beat()) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert last >= 3
    held.release()
    assert storage.read_json(place / "attempts" / "0001.json")["released"] is True


def test_the_heart_notices_that_another_start_has_taken_over(place):
    held = claim.take(place, quiet, claim.Rhythm(0.05, 30.0))
    (place / "attempts" / "0002.json").write_text(json.dumps({"host": "there", "pid": 7, "released": False}))
    deadline = time.monotonic() + 10
    while not held.lost and time.monotonic() < deadline:
        time.sleep(0.05)
    assert held.lost
    held.release()
