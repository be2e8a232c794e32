"""The accelerator benchmark on a toy, and what it reads off a trace."""

import re

import pytest

from benchmarks import accelerator, trace
from benchmarks.trace import Event


def test_a_cpu_is_refused_without_tiny(capsys):
    with pytest.raises(SystemExit) as ended:
        accelerator.main([])
    assert ended.value.code == 2 and "--tiny" in capsys.readouterr().err


@pytest.mark.slow
def test_the_toy_goes_through_step_trace_and_generation(capsys):
    accelerator.main(["--tiny", "--rows", "2", "--prompts", "2", "--prompt", "32", "--repeats", "1"])
    said = capsys.readouterr().out
    cells = next(line for line in said.splitlines() if line.startswith("| tiny")).strip("| ").split(" | ")
    _, devices, rate, mfu, matmul, share, memory, new, loss = cells
    assert (devices, mfu) == ("1", "peak unknown")
    numbers = [float(re.sub("[^0-9.]", "", cell)) for cell in (rate, matmul, share, memory, new, loss)]
    assert all(number > 0 for number in numbers)
    costs = re.findall(r"([\d.]+)% of the traced step, ([\d.]+) ms: (.+)", said)
    shares = [float(share) for share, _, _ in costs]
    assert len(costs) == accelerator.NAMED and shares == sorted(shares, reverse=True) and 0 < sum(shares) <= 100


def test_a_loop_costs_what_its_body_does_not():
    loop = [Event("while.1", 0, 100), Event("dot.2", 10, 30), Event("dot.2", 40, 30), Event("copy.3", 100, 20)]
    other_stream = [Event("kernel", 0, 1000)]
    found = trace.spent(
        [loop, other_stream], {"while.1": "jit(step)/while", "dot.2": "jit(step)/while/body/net/dot_general"}
    )
    assert [(one.name, round(one.seconds * 1e9)) for one in found] == [
        ("kernel", 1000),
        ("net/dot_general", 60),
        ("while.1", 40),
        ("copy.3", 20),
    ]
    assert sum(one.share for one in found) == pytest.approx(1.0)


def test_instructions_are_named_by_what_asked_for_them():
    text = """
  %fusion.7 = bf16[8]{0} fusion(%p), kind=kLoop, calls=%c, metadata={op_name="jit(step)/dit/mul" stack_frame_id=7}
  ROOT %dot.1 = f32[2,2]{1,0} dot(%a, %b), metadata={op_name="jit(step)/transpose(jvp(dit))/dot_general"}
  %copy.2 = f32[2]{0} copy(%q)
"""
    assert dict(trace.NAMED.findall(text)) == {
        "fusion.7": "jit(step)/dit/mul",
        "dot.1": "jit(step)/transpose(jvp(dit))/dot_general",
    }
