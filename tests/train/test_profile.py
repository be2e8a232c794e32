"""train.profile: a trace of some steps, and the costliest operations in it."""

import io
import re

import jax
import pytest
from toy_family import FAMILY, HELDOUT, batches, config

from cola_jax import storage
from cola_jax.config import profiled_steps
from cola_jax.config.checks import inconsistencies
from cola_jax.train.loop import train
from cola_jax.train.profile import SHOWN, Operation, operations, table


def run(workdir, cfg):
    stream = io.StringIO()
    options = {"heldout_batches": HELDOUT, "family": FAMILY, "stream": stream, "devices": jax.devices()[:1]}
    train(cfg, workdir, make_batches=batches, **options)
    return stream.getvalue()


def profiled(text, steps=8):
    return config(steps, train={"profile": text})


def test_the_steps_of_the_window_are_traced_and_their_operations_printed(tmp_path):
    said = run(tmp_path, profiled("3:2"))
    [trace] = (tmp_path / "profile").rglob("*.xplane.pb")
    assert f"profile of 2 steps: {tmp_path / 'profile'}\noperation " in said
    found = operations(trace)
    of_step = [one for one in found if one.program == "jit_step"]
    assert of_step and all(one.calls % 2 == 0 for one in of_step), "whole steps, both of them"
    assert [one.seconds for one in found] == sorted((one.seconds for one in found), reverse=True)
    assert not [one for one in found if re.match(r"(while|conditional|call)(\.|$)", one.name)]
    rows = table(found).splitlines()
    assert len(rows) == 1 + min(SHOWN, len(found)) and all(row in said for row in rows)


def test_a_window_past_the_end_is_traced_as_far_as_it_goes(tmp_path):
    assert "profile of 1 steps: " in run(tmp_path, profiled("8:5"))


def test_a_window_that_is_over_is_not_traced_and_says_so(tmp_path):
    run(tmp_path, config(4))
    assert "train.profile: step 2 is done already; nothing is traced" in run(tmp_path, profiled("2:9"))
    assert not (tmp_path / "profile").exists()


def test_a_trace_is_written_to_a_bucket(bucket):
    run(bucket, profiled("2:1", steps=2))
    assert [path.name for path in storage.files_of(bucket / "profile") if path.name.endswith(".xplane.pb")]


def test_the_table_has_ten_rows_and_shares_of_all_operations():
    rows = table([Operation(f"fusion.{n}", "jit_step", 0.1, 3) for n in range(20)]).splitlines()
    assert len(rows) == 11 and rows[1].split() == ["fusion.0", "100.000", "3", "5.0%", "jit_step"]
    assert table([]) == "the trace holds no operation of a compiled program"


@pytest.mark.parametrize(
    "text", ["3", "3:", ":3", "0:1", "1:0", "-1:2", "1:2:3", "a:b", " 1:2", "1.5:2", "²:1", "1:99999999999"]
)
def test_other_texts_are_refused(text):
    assert profiled_steps(text) is None
    [problem] = [one for one in inconsistencies(profiled(text)) if "train.profile" in one]
    assert f"train.profile={text!r} must be START:COUNT" in problem


def test_a_start_after_the_end_of_the_run_is_refused():
    assert profiled_steps("9:2") == (9, 10)
    assert "train.profile='9:2' starts after train.steps=8" in inconsistencies(profiled("9:2"))
    assert not [one for one in inconsistencies(profiled("8:2")) if "train.profile" in one]
    assert not [one for one in inconsistencies(profiled("")) if "train.profile" in one]
