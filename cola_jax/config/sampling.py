"""The options of generation: a part of the base config in `fields`, with its defaults and their sources."""

from __future__ import annotations

from dataclasses import dataclass

from cola_jax.config.change import reporting


@dataclass(frozen=True)
class LLaDASamplingConfig:
    """How family llada fills masks (BASELINES 2)."""

    steps: int = reporting(0, least=0)  # passes for all new tokens together; 0: one pass per token
    block_length: int = reporting(
        0, least=0
    )  # tokens per block, finished before the next block is begun; 0: all new tokens
    remasking: str = reporting("low_confidence")  # low_confidence: the likeliest candidates stay | random
    guidance: float = reporting(0.0, least=0.0, most=1e4)  # w in u + (w + 1)(c - u), u without the prompt; 0: none


@dataclass(frozen=True)
class PlaidSamplingConfig:
    """How family plaid denoises (BASELINES 3); tokens are the likeliest of the last step."""

    steps: int = reporting(64, least=1)  # passes for all new tokens together
    score_temperature: float = reporting(0.9, above=0.0, most=1e4)  # the estimated noise is divided by it


@dataclass(frozen=True)
class SamplingConfig:
    """Generation (SPEC 3). The fields on solver, guidance and first block are read by family cola."""

    max_new_tokens: int = reporting(32, least=1)  # tokens to generate
    steps: int = reporting(16, least=1)  # solver steps per block
    solver: str = reporting("euler")  # euler | midpoint | heun (two evaluations per step)
    guidance: float = reporting(7.0, least=0.0, most=1e4)  # s in v_u + s (v_c - v_u); 1: no guidance
    first_block: str = reporting(
        "clean"
    )  # a prompt that ends inside a block: clean | repaint | left_pad | right_pad (Table 5)
    repaint_rounds: int = reporting(4, least=1)  # m, first_block=repaint: how often the known part is noised again
    repaint_time: float = reporting(
        0.5, least=0.0, most=1.0
    )  # t, first_block=repaint: below this time the known part is no longer restored
    temperature: float = reporting(0.0, least=0.0, most=1e4)  # 0: greedy
    top_k: int = reporting(0, least=0)  # 0: all
    # the smallest set of tokens whose probabilities reach it; 1: all
    top_p: float = reporting(1.0, above=0.0, most=1.0)
    # divides positive and multiplies negative logits of the tokens generated so far; 1: no penalty
    repetition_penalty: float = reporting(1.1, above=0.0, most=1e4)
    stop_at_eos: bool = reporting(True)  # end the text at the end of the document
    llada: LLaDASamplingConfig = LLaDASamplingConfig()
    plaid: PlaidSamplingConfig = PlaidSamplingConfig()
