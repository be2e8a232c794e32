"""Text generation with a trained model, in three lines.

writer = Writer.load("runs/demo")
print(writer.write(["Anna was in the kitchen."], max_new_tokens=48)[0])
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from cola_jax import storage
from cola_jax.config import ConfigError as ConfigError
from cola_jax.config import RunConfig, resolve, to_dict, without_kernels
from cola_jax.config.paths import flat
from cola_jax.data import tokenizers
from cola_jax.data.corpus import check_vocabulary
from cola_jax.families import FAMILIES
from cola_jax.families.rows import RowOptions
from cola_jax.generate.prompts import Place, PromptError
from cola_jax.parallel.mesh import BATCH_AXES, batch_sharding, replicated
from cola_jax.storage import AnyPath, check_text
from cola_jax.train.checkpoint import load_params
from cola_jax.train.workdir import TOKENIZER


@dataclass(frozen=True)
class Writer:
    """A model, its parameters, its tokenizer, and its mesh; None: the first device."""

    cfg: RunConfig
    params: Any
    tokenizer: tokenizers.Tokenizer
    mesh: Mesh | None = None

    @classmethod
    def load(
        cls, workdir: str | AnyPath, step: int | str | None = None, mesh: Mesh | None = None, ema: bool = False
    ) -> Writer:
        """Loads a run's newest checkpoint, or that of `step`, or the "best", onto `mesh`.

        Args:
          ema: the average of the parameters (train.ema_decay) instead of those of the last update.

        Raises:
          CheckpointError: if there is none, or it has no average. ConfigError: if the run's family does not generate text.
          DataError: if the tokenizer has more tokens than the model.
          StorageError: for a path that cannot be used, see `storage.path`.
        """
        workdir = storage.path(workdir, "workdir")
        config, params = load_params(workdir, step, mesh, ema=ema)
        cfg = without_kernels(resolve(config))
        if FAMILIES[cfg.family].generator is None:
            raise ConfigError(f"{workdir} is a run of family {cfg.family!r}, which does not generate text by itself")
        tokenizer = tokenizers.load(workdir / TOKENIZER)
        check_vocabulary(cfg, tokenizer)
        return cls(cfg, params, tokenizer, mesh)

    def with_sampling(self, **changes: Any) -> Writer:
        """Returns a writer with other SamplingConfig fields; "llada.steps" is field steps of its group llada.

        Raises:
          ConfigError: for an unknown field or an invalid value.
        """
        fields = to_dict(self.cfg)
        known = flat(fields["sampling"])
        wrong = sorted(set(changes) - set(known))
        if wrong:
            raise ConfigError(f"no such sampling field: {', '.join(wrong)} (known: {', '.join(known)})")
        for path, value in changes.items():
            *groups, name = path.split(".")
            node = fields["sampling"]
            for group in groups:
                node = node[group]
            node[name] = value
        return dataclasses.replace(self, cfg=resolve(fields, assigned=[f"sampling.{path}" for path in changes]))

    def write(
        self, prompts: Sequence[str], *, seed: int = 0, samples: Sequence[int] | None = None, **sampling: Any
    ) -> list[str]:
        """Returns the continuation of each prompt; `sampling` changes SamplingConfig fields, `samples` see `stream_batch`."""
        texts = [""] * len(prompts)
        for pieces in self.stream_batch(prompts, seed=seed, samples=samples, **sampling):
            texts = [text + piece for text, piece in zip(texts, pieces)]
        return texts

    def stream(self, prompt: str, *, seed: int = 0, **sampling: Any) -> Iterator[str]:
        """Yields the continuation of one prompt block by block."""
        for pieces in self.stream_batch([prompt], seed=seed, **sampling):
            yield pieces[0]

    def stream_batch(
        self,
        prompts: Sequence[str],
        *,
        seed: int = 0,
        samples: Sequence[int] | None = None,
        prompt_tokens: int = 0,
        **sampling: Any,
    ) -> Iterator[list[str]]:
        """Yields, block by block, the new text of every prompt, up to max_new_tokens and the end of the document.

        Args:
          samples: index of each prompt among all that are generated with `seed`: the text depends on (seed, index) and the
            prompt, not on the rest of the batch. 0, 1, ... by default.
          prompt_tokens: prompts are padded to at least this length: batches with the same number of rows then share
            compiled programs.

        Raises:
          PromptError: for an empty prompt list or one that is not text.
        """
        writer = self.with_sampling(**sampling) if sampling else self
        rows = [writer.encode(index, prompt) for index, prompt in enumerate(prompts)]
        yield from writer.stream_rows(rows, seed=seed, samples=samples, prompt_tokens=prompt_tokens)

    def stream_rows(
        self,
        rows: Sequence[Sequence[int]],
        *,
        seed: int = 0,
        samples: Sequence[int] | None = None,
        prompt_tokens: int = 0,
    ) -> Iterator[list[str]]:
        """`stream_batch` for prompts given as token ids."""
        options = RowOptions(self.tokenizer.pad_id, seed, samples, prompt_tokens, self._place(len(rows)))
        blocks = FAMILIES[self.cfg.family].generator.generate(self.cfg, self.params, rows, options)
        cuts = [Cut(self.cfg.sampling.max_new_tokens, self._stop_id()) for _ in rows]
        decoders = [tokenizers.StreamDecoder(self.tokenizer) for _ in rows]
        for decoder, row in zip(decoders, rows):
            decoder.push(row)  # the text continues its prompt, with the space between them
        for tokens, _ in blocks:
            kept = [cut(row) for cut, row in zip(cuts, tokens)]
            yield [decoder.push(row) for decoder, row in zip(decoders, kept)]
            if all(cut.done for cut in cuts):
                break
        yield [decoder.finish() for decoder in decoders]

    def _place(self, rows: int) -> Place:
        """Rows are sharded over the mesh if divisible, and replicated otherwise."""
        if self.mesh is None:
            return jnp.asarray
        shards = math.prod(self.mesh.shape[axis] for axis in BATCH_AXES)
        sharding = replicated(self.mesh) if rows % shards else batch_sharding(self.mesh)
        return lambda array: jax.device_put(array, sharding)

    def encode(self, index: int, prompt: str) -> list[int]:
        """Returns the token ids of a prompt; `index` is its number in messages.

        Raises:
          PromptError: for invalid text, characters without a token, and ids that the family refuses.
          StorageError: for text with lone surrogates.
        """
        if not isinstance(prompt, str):
            raise PromptError(f"prompt {index} is {type(prompt).__name__}, expected text")
        check_text(prompt, f"prompt {index}")
        lost = self.tokenizer.lost(prompt)
        if lost:
            raise PromptError(f"prompt {index} has {lost!r}, which the tokenizer has no token for")
        row = self.tokenizer.encode(prompt)
        self.check_row(f"prompt {index}", row)
        return row

    def check_row(self, name: str, row: Sequence[int]) -> None:
        """Raises PromptError, which starts with `name`, if the family cannot continue these token ids."""
        generator = FAMILIES[self.cfg.family].generator
        if not row and generator.needs_prompt:
            raise PromptError(f"{name} is empty: family {self.cfg.family!r} continues a text of at least one token")
        for token, what in generator.reserved(self.cfg).items():
            if token in row:
                raise PromptError(f"{name} holds token {token}, {what}: text may not")

    def _stop_id(self) -> int | None:
        return self.tokenizer.eos_id if self.cfg.sampling.stop_at_eos else None


class Cut:
    """Truncates one row's tokens at a budget and at the end of the document."""

    def __init__(self, budget: int, stop_id: int | None):
        self.left, self.stop_id, self.done = budget, stop_id, False

    def __call__(self, tokens: list[int]) -> list[int]:
        """Returns those of the next tokens that belong to the text."""
        if self.done:
            return []
        kept = tokens[: self.left]
        self.left -= len(kept)
        if self.stop_id is not None and self.stop_id in kept:
            kept, self.done = kept[: kept.index(self.stop_id)], True
        self.done |= self.left <= 0
        return kept
