"""A bridge to EleutherAI's lm-evaluation-harness: a run as a model of that package, for tasks of kind generate_until.

The package is the optional extra `lm-eval`; it is imported only when it is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cola_jax.data.errors import DataError
from cola_jax.evaluate import harness
from cola_jax.evaluate.harness import AskedQuestion, EvaluationPlan
from cola_jax.evaluate.records import Record
from cola_jax.runs.writer import Writer

READ = ("until", "max_gen_toks", "do_sample", "temperature")  # supported generation arguments


@dataclass(frozen=True)
class Ask:
    """A request of the package: the prompt, stop strings, number of new tokens, and temperature."""

    prompt: str
    until: tuple[str, ...]
    max_new_tokens: int
    temperature: float


def ask_of(prompt: str, given: dict[str, Any], max_new_tokens: int) -> Ask:
    """Reads a request's generation arguments; max_new_tokens by default.

    Raises:
      DataError: for an argument that is not supported here.
    """
    unknown = sorted(set(given) - set(READ))
    if unknown:
        raise DataError(f"generation arguments {', '.join(unknown)} are not supported; known: {', '.join(READ)}")
    until = given.get("until") or ()
    until = (until,) if isinstance(until, str) else tuple(until)
    temperature = float(given.get("temperature") or 0.0) if given.get("do_sample") else 0.0
    return Ask(prompt, until, int(given.get("max_gen_toks", max_new_tokens)), temperature)


def cut(text: str, until: Sequence[str]) -> str:
    """Returns `text` up to the first of the strings that end it."""
    return text[: min((text.find(end) for end in until if end and end in text), default=len(text))]


def answer(writer: Writer, asks: Sequence[Ask], plan: EvaluationPlan) -> list[str]:
    """Generates every answer, batched by length and by the settings of the sampler.

    Raises:
      DataError: if the context leaves no room for a prompt.
    """
    texts: dict[int, str] = {}
    for setting in dict.fromkeys((ask.max_new_tokens, ask.temperature) for ask in asks):
        tokens, temperature = setting
        room = (plan.context or writer.cfg.train.sequence_length) - tokens
        if room < 1:
            raise DataError(f"max_gen_toks={tokens} leaves no room for a prompt: give a larger --context")
        changes = {"temperature": temperature} if temperature > 0 else {}  # not every family reads one
        chosen = writer.with_sampling(max_new_tokens=tokens, **changes)
        questions = []
        for number, ask in enumerate(asks):
            if (ask.max_new_tokens, ask.temperature) == setting:
                ids = chosen.tokenizer.encode(ask.prompt)
                record = Record(f"request {number}", number, {}, ask.prompt, (), ("",))
                questions.append(
                    AskedQuestion(number, record, ask.prompt, tuple(ids[-room:]), max(len(ids) - room, 0), "")
                )
        for question, text in harness.write(chosen, questions, plan, "generate_until"):
            texts[question.number] = cut(text, asks[question.number].until)
    return [texts[number] for number in range(len(asks))]


def model_of(writer: Writer, plan: EvaluationPlan, max_new_tokens: int) -> Any:
    """Returns the run as a `lm_eval.api.model.LM`.

    Raises:
      ImportError: if the package is not installed.
    """
    try:
        from lm_eval.api.model import LM
    except ImportError as error:
        raise ImportError("the harness is an optional extra: pip install 'cola_jax[lm-eval]'") from error

    class Run(LM):
        """A run of this project; only generated text is scored (SPEC 7)."""

        def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
            return answer(writer, [ask_of(*request.args, max_new_tokens) for request in requests], plan)

        def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
            raise DataError(
                "a task requests loglikelihood; this bridge supports generate_until only: choose a generative task"
            )

        def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
            return self.loglikelihood(requests)

    return Run()


def evaluate(
    writer: Writer,
    plan: EvaluationPlan,
    tasks: Sequence[str],
    include: str | Path | None,
    limit: int | None,
    max_new_tokens: int,
) -> dict[str, Any]:
    """Runs tasks of the package, and of the YAML files in the folder `include`. Returns its results.

    Raises:
      ImportError: see `model_of`. DataError: for a task that the package does not know or that is not generative.
    """
    model = model_of(writer, plan, max_new_tokens)
    import lm_eval
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=None if include is None else str(include))
    unknown = [name for name in tasks if not manager.match_tasks([name])]
    if unknown:
        raise DataError(f"the harness has no task {', '.join(unknown)}: give --include the folder of its YAML file")
    return lm_eval.simple_evaluate(
        model=model, tasks=list(tasks), task_manager=manager, limit=limit, random_seed=plan.seed, bootstrap_iters=1000
    )
