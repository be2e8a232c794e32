"""What is read off a compiled program against what the program is known to do."""

import jax
import jax.numpy as jnp
import pytest

from cola_jax.aot import hlo

LAYERS, B, N, D, H = 5, 3, 8, 16, 2


def looped(w_LDD, x_BND):
    """LAYERS times a dense layer and the scores of an attention."""

    def body(x, w):
        heads = x.reshape(B, N, H, D // H)
        scores = jnp.einsum("bqhk,bmhk->bhqm", heads, heads)
        return jnp.tanh(jnp.einsum("bhqm,bmhk->bqhk", scores, heads).reshape(B, N, D) @ w), None

    return jnp.sum(jax.lax.scan(body, x_BND, w_LDD)[0])


FORWARD = LAYERS * (2 * B * N * D * D + 4 * B * N * N * D)


@pytest.mark.parametrize("differentiated", [False, True])
def test_matmuls_in_a_loop_count_as_often_as_it_runs(differentiated):
    program = jax.value_and_grad(looped, argnums=(0, 1)) if differentiated else looped
    compiled = jax.jit(program).lower(jnp.zeros((LAYERS, D, D)), jnp.zeros((B, N, D))).compile()
    totals = hlo.read(compiled.as_text())
    assert totals.unknown_loops == 0
    assert totals.flops == (3 if differentiated else 1) * FORWARD
    assert totals.bytes > LAYERS * 4 * (D * D + B * N * D)


TPU = """
%fused (a: bf16[4,512,2,128], b: bf16[4,512,2,128]) -> bf16[4,2,512,512] {
  %a = bf16[4,512,2,128]{3,2,1,0} parameter(0)
  %b = bf16[4,512,2,128]{3,2,1,0} parameter(1)
  ROOT %c = bf16[4,2,512,512]{2,3,1,0} convolution(%a, %b), WINDOW, dim_labels=0b1f_0o1i->01bf
}

%body (p: (s32[], bf16[8,512])) -> (s32[], bf16[8,512]) {
  %p = (s32[], bf16[8,512]{1,0}) parameter(0)
  %x = bf16[8,512]{1,0} get-tuple-element(%p), index=1
  %i = s32[] get-tuple-element(%p), index=0
  %g = bf16[16,512]{1,0} all-gather(%x), channel_id=3, dimensions={0}
  %r = bf16[8,512]{1,0} all-reduce(%x), channel_id=4, to_apply=%add
  %one = s32[] constant(1)
  %n = s32[] add(%i, %one)
  ROOT %t = (s32[], bf16[8,512]{1,0}) tuple(%n, %r)
}

%condition (q: (s32[], bf16[8,512])) -> pred[] {
  %limit = s32[] constant(6)
  %q = (s32[], bf16[8,512]{1,0}) parameter(0)
  %n = s32[] get-tuple-element(%q), index=0
  ROOT %lt = pred[] compare(%n, %limit), direction=LT
}

ENTRY %main (k: bf16[4,512,2,128], s: (s32[], bf16[8,512])) -> (s32[], bf16[8,512]) {
  %k = bf16[4,512,2,128]{3,2,1,0} parameter(0)
  %s = (s32[], bf16[8,512]{1,0}) parameter(1)
  %f = bf16[4,2,512,512]{3,2,1,0} fusion(%k, %k), kind=kOutput, calls=%fused, backend_config={"estimated_cycles":"700"}
  ROOT %w = (s32[], bf16[8,512]{1,0}) while(%s), condition=%condition, body=%body
}
""".replace("WINDOW", "window={size=4x2 stride=3x1 lhs_dilate=4x2}")


def test_batched_products_written_as_dilated_convolutions_count_what_they_multiply():
    totals = hlo.read(TPU)
    assert totals.flops == 2 * 4 * 2 * 512 * 512 * 128
    assert totals.cycles == 700


def test_collectives_in_a_loop_are_listed_by_kind_and_size():
    assert hlo.read(TPU).listed() == [("all-gather", 6, 16 * 512 * 2), ("all-reduce", 6, 8 * 512 * 2)]


def test_a_loop_without_a_known_end_is_said_to_count_once():
    endless = TPU.replace("direction=LT", "direction=NE")
    assert hlo.read(endless).unknown_loops == 1
    assert hlo.read(endless).listed()[0].count == 1


def test_a_collective_that_is_spread_over_fusions_counts_once():
    twice = TPU.replace("%r = bf16[8,512]{1,0} all-reduce", "%g2 = bf16[16,512]{1,0} all-gather").replace(
        "channel_id=4", "channel_id=3"
    )
    assert hlo.read(twice).listed() == [("all-gather", 6, 16 * 512 * 2)]


def test_a_loop_that_the_compiler_unrolled_runs_less_often():
    assert hlo.read(TPU.replace("constant(1)", "constant(2)")).listed()[0].count == 3
    assert hlo.read(TPU.replace("constant(1)", "constant(4)")).listed()[0].count == 2


def test_attributes_that_run_over_several_lines_end_no_computation():
    broken = TPU.replace("channel_id=4,", 'channel_id=4, metadata={\n"kernel":"{}"\n}},')
    assert hlo.read(broken).listed() == hlo.read(TPU).listed()
    assert hlo.read(broken).unknown_loops == 0
