"""The options of generation: a part of the base config in `fields`, with its defaults and their sources."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LLaDASamplingConfig:
    """How family llada fills masks (BASELINES 2)."""

    steps: int = 0  # passes for all new tokens together; 0: one a token
    block_length: int = 0  # tokens finished before the next ones are begun; 0: all at once
    remasking: str = "low_confidence"  # low_confidence: the likeliest candidates stay | random
    guidance: float = 0.0  # w in u + (w + 1)(c - u), u without the prompt; 0: none


@dataclass(frozen=True)
class PlaidSamplingConfig:
    """How family plaid denoises (BASELINES 3); tokens are the likeliest of the last step."""

    steps: int = 64  # passes for all new tokens together
    score_temperature: float = 0.9  # the estimated noise is divided by it


@dataclass(frozen=True)
class SamplingConfig:
    """Generation (SPEC 3). Fields that speak of solver, guidance or first block belong to family cola."""

    max_new_tokens: int = 32
    steps: int = 16  # solver steps a block
    solver: str = "euler"  # euler | midpoint | heun (two evaluations a step)
    guidance: float = 7.0  # s in v_u + s (v_c - v_u); 1: no guidance
    first_block: str = "clean"  # a prompt that ends inside a block: clean | repaint | left_pad | right_pad (Table 5)
    repaint_rounds: int = 4  # m, first_block=repaint: how often the known part is noised again
    repaint_time: float = 0.5  # t, first_block=repaint: below this time the known part is no longer put back
    temperature: float = 0.0  # 0: greedy
    top_k: int = 0  # 0: all
    top_p: float = 1.0
    repetition_penalty: float = 1.1
    stop_at_eos: bool = True
    llada: LLaDASamplingConfig = LLaDASamplingConfig()
    plaid: PlaidSamplingConfig = PlaidSamplingConfig()
