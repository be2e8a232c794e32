"""Where the time of a run goes: the clock, the lines about it, and lost work."""

import io
import json
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest
import toy_family
from toy_family import FAMILY, HELDOUT, batch_of, batches, config

from cola_jax.train import claim, goodput
from cola_jax.train.compiles import BACKEND, HIT, Compiles, observed
from cola_jax.train.loop import train
from cola_jax.train.metrics import is_goodput, read_metrics, truncate
from cola_jax.train.plots import plot_metrics
from cola_jax.train.run import TrainingDiverged


class Time:
    """A clock that tests turn."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def run(workdir, cfg=None, make=batches):
    stream = io.StringIO()
    options = {"heldout_batches": HELDOUT, "family": FAMILY, "stream": stream, "devices": jax.devices()[:1]}
    return train(cfg or config(), workdir, make_batches=make, **options), stream.getvalue()


def about_time(workdir):
    return [line for line in read_metrics(workdir) if is_goodput(line)]


def test_a_second_counts_in_the_innermost_part_and_compiling_apart():
    time, compiles = Time(), Compiles()
    clock = goodput.Clock(compiles, begun=97.0, now=time)
    time.now += 1
    with clock.part("step"):
        time.now += 10
        with clock.part("evaluation"):
            time.now += 5
            compiles.seconds += 2
        time.now += 20
    seconds = clock.seconds()
    expected = {"import": 3, "other": 1, "step": 30, "evaluation": 3, "compile": 2}
    assert seconds == dict.fromkeys(goodput.PARTS, 0.0) | expected
    assert sum(seconds.values()) == time.now - 97.0


def test_a_part_ends_at_an_error():
    time = Time()
    clock = goodput.Clock(now=time)
    with pytest.raises(KeyError), clock.part("checkpoint"):
        time.now += 4
        raise KeyError
    time.now += 1
    assert (clock.seconds()["checkpoint"], clock.seconds()["other"]) == (4, 1)


def test_a_function_traced_within_another_counts_once():
    compiles = Compiles()
    compiles.add(end=3.0, duration=1.0)
    compiles.add(end=5.0, duration=1.0)
    assert compiles.seconds == 2.0
    compiles.add(end=6.0, duration=5.0)  # around both
    assert compiles.seconds == 5.0
    compiles.add(end=9.0, duration=2.0)
    assert compiles.seconds == 7.0


def test_programs_are_counted_while_observed():
    with observed() as compiles:
        jax.jit(lambda x: x * 2 + 1)(np.arange(7.0))
        found = compiles.compiled + compiles.cached
        assert found > 0 and compiles.seconds > 0
    jax.jit(lambda x: x * 3 + 1)(np.arange(7.0))
    assert compiles.compiled + compiles.cached == found
    compiles.on_duration(BACKEND, 0.0)
    compiles.on_event(HIT)
    assert compiles.compiled + compiles.cached == found + 1


def test_a_start_leaves_one_line_and_prints_it(tmp_path, pictures):
    _, said = run(tmp_path, config(train={"eval_every": 4, "plot_every": 4}))
    [line] = about_time(tmp_path)
    assert line == read_metrics(tmp_path)[-1]
    assert (line["step"], line["goodput/attempt"], line["goodput/from_step"], line["goodput/to_step"]) == (8, 1, 0, 8)
    for part in ("step", "checkpoint", "evaluation", "plots", "restore", "compile", "data_wait"):
        assert line[f"goodput/{part}"] > 0, part
        assert line[f"goodput/all/{part}"] == line[f"goodput/{part}"]
    assert np.isclose(sum(line[f"goodput/{part}"] for part in goodput.PARTS), line["goodput/total"])
    assert line["goodput/share"] == line["goodput/step"] / line["goodput/total"]
    assert line["goodput/lost_work"] == 0 and line["goodput/compiled_programs"] + line["goodput/cached_programs"] > 0
    assert f"goodput {line['goodput/share']:.1%}: " in said and "programs: " in said and "starts:" not in said
    assert not [path for path in plot_metrics(tmp_path) if "goodput" in path.name]


def test_starts_that_end_early_leave_their_line_and_later_ones_sum_them_up(tmp_path):
    run(tmp_path, make=lambda start: batches(start, {2: signal.SIGTERM}))
    stopped = about_time(tmp_path)[-1]["goodput/to_step"]

    def broken(start):
        for index in range(start, 100):
            yield batch_of(index, value=np.nan if index == 6 else 1.0)

    with pytest.raises(TrainingDiverged):
        run(tmp_path, make=broken)
    assert about_time(tmp_path)[-1]["step"] == 7, "a step that is not applied is the last one"
    _, said = run(tmp_path)
    first, second, lost, third = about_time(tmp_path)
    assert [line["goodput/attempt"] for line in (first, second, lost, third)] == [1, 2, 2, 3]
    assert (second["goodput/from_step"], second["step"], second["goodput/to_step"]) == (stopped, 6, 7)
    assert lost["step"] == 6 and lost["goodput/step"] == 0, "the steps of a start with a line are in it"
    assert third["goodput/lost_work"] == third["goodput/all/lost_work"] == lost["goodput/lost_work"] > 0
    whole = first["goodput/step"] + second["goodput/step"] + third["goodput/step"]
    assert np.isclose(third["goodput/all/step"], whole)
    assert np.isclose(third["goodput/all/share"], (whole - lost["goodput/lost_work"]) / third["goodput/all/total"])
    assert "all 3 starts: goodput" in said and "lost work" in said
    steps = [line["step"] for line in read_metrics(tmp_path) if "loss" in line]
    assert steps == list(range(1, 9)), "each step once"


def test_the_steps_of_a_killed_start_are_estimated(tmp_path):
    options = ["--checkpoint", json.dumps({"every": 3, "asynchronous": False}), "--kill-at", "5"]
    done = subprocess.run([sys.executable, toy_family.__file__, str(tmp_path), *options], capture_output=True)
    assert done.returncode == -signal.SIGKILL
    last = [line for line in read_metrics(tmp_path) if "loss" in line][-1]
    _, said = run(tmp_path, config(checkpoint={"every": 3, "asynchronous": False}))
    killed, end = about_time(tmp_path)
    assert (killed["step"], killed["goodput/attempt"], killed["goodput/estimated"]) == (3, 1, 1)
    a_step = 16 * toy_family.LENGTH / last["tokens_per_second"]
    assert np.isclose(killed["goodput/lost_work"], (last["step"] - 3) * a_step)
    assert end["goodput/lost_work"] == killed["goodput/lost_work"] and "all 2 starts" in said


def test_a_claim_has_the_steps_of_its_start_for_later_ones(tmp_path):
    run(tmp_path, config(4))
    run(tmp_path, config(8))
    held = claim.take(tmp_path, print)
    spans = [(one["attempt"], one["from_step"], one["step"]) for one in held.earlier(0)]
    assert spans == [(1, 0, 4), (2, 4, 8)] and len(held.earlier(1)) == 1
    held.release()


CLAIMS = [{"attempt": 1, "from_step": 0, "step": 12}, {"attempt": 2, "from_step": 10, "step": 17}]
RATED = [{"step": 10, "tokens_per_second": 50.0}]


def test_what_killed_starts_did_is_read_in_their_claims():
    line = goodput.line_of_killed(RATED, CLAIMS, 3, 10, tokens_per_step=100)
    assert line == {
        "step": 10, "goodput/attempt": 2, "goodput/estimated": 1,
        "goodput/step": 2.0 * (12 + 7), "goodput/total": 2.0 * (12 + 7), "goodput/lost_work": 2.0 * (17 - 10),
    }  # fmt: skip
    assert goodput.accounted([*RATED, line]) == 2


@pytest.mark.parametrize("lines, claims", [
    (RATED, []), ([{"step": 10}], CLAIMS), (RATED, [{"attempt": 1}]),
], ids=["none was killed", "the time of a step is not known", "it was killed before its first step"])  # fmt: skip
def test_nothing_is_estimated_from_nothing(lines, claims):
    assert goodput.line_of_killed(lines, claims, 2, 10, tokens_per_step=100) is None


def test_lines_about_time_survive_a_resume_at_its_step(tmp_path):
    lines = [{"step": 2, "loss": 1.0}, {"step": 3, "loss": 1.0}, {"step": 3, "goodput/step": 5.0}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    truncate(tmp_path, 2)
    assert read_metrics(tmp_path) == [{"step": 2, "loss": 1.0}, {"step": 2, "goodput/step": 5.0}]
