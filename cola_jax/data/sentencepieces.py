"""SentencePiece: training on documents, and lossless encoding."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import sentencepiece

from cola_jax.data.errors import DataError

PAD_TOKEN, EOS_TOKEN = "<pad>", "</s>"
LONGEST_SENTENCE = 4096  # bytes; longer text is split before training, because SentencePiece would drop it
SPACE_SIGN = "\u2581"  # SentencePiece's space sign; in a text it would be decoded as a space
STAND_INS = tuple(map(chr, range(0xFDD0, 0xFDF0)))  # Unicode noncharacters, which do not occur in text


class SentencePieceTokenizer:
    """A SentencePiece model with pad and end of document among its pieces."""

    kind = "sentencepiece"

    def __init__(self, model: bytes, pad_token: str, eos_token: str, source: str):
        """Raises DataError, naming `source`, if `model` is not a SentencePiece model or lacks a special token."""
        self._inner = _processor(model, source)
        self.model = model
        self.special_names = (pad_token, eos_token)
        self.vocab_size = self._inner.get_piece_size()
        self.pad_id = self._named("pad_token", pad_token, self._inner.pad_id(), source)
        self.eos_id = self._named("eos_token", eos_token, self._inner.eos_id(), source)
        self._inner = _without_spelling(self._inner, model, (self.pad_id, self.eos_id), source)
        self._hidden = {self.pad_id, self.eos_id}
        self._has_bytes = self._inner.is_byte(self._bytes(SPACE_SIGN)[0])
        self._alone: dict[str, bool] = {}  # whether a character alone has a piece

    def _named(self, field: str, token: str, own: int, source: str) -> int:
        found = self._inner.piece_to_id(token)
        if found != self._inner.unk_id() or token == self._inner.id_to_piece(found):
            return found
        instead = f"; its own is {self._inner.id_to_piece(own)!r}" if own >= 0 else ""
        raise DataError(f"tokenizer.{field}={token!r} is not in {source}: give the name of a piece it has{instead}")

    def encode(self, text: str) -> list[int]:
        if SPACE_SIGN not in text:
            return self._inner.encode(text)
        stand_in = next(sign for sign in STAND_INS if sign not in text)
        return _replace(
            self._inner.encode(text.replace(SPACE_SIGN, stand_in)), self._bytes(stand_in), self._bytes(SPACE_SIGN)
        )

    def _bytes(self, character: str) -> list[int]:
        return [self._inner.piece_to_id(f"<0x{byte:02X}>") for byte in character.encode()]

    def decode(self, ids: Sequence[int]) -> str:
        kept = [int(i) for i in ids if int(i) not in self._hidden and 0 <= i < self.vocab_size]
        return self._inner.decode(kept)

    def lost(self, text: str) -> str:
        unknown, rest = self._inner.unk_id(), text.replace(SPACE_SIGN, "")
        pieces = zip(self._inner.encode(rest), self._inner.encode(rest, out_type=str))
        lost = "".join(piece.replace(SPACE_SIGN, "") for index, piece in pieces if index == unknown)
        lost += SPACE_SIGN if SPACE_SIGN in text and not self._has_bytes else ""
        return lost + "".join(c for c in dict.fromkeys(rest) if not self._has_piece(c))

    def drops(self, text: str, ids: Sequence[int]) -> bool:
        return self._inner.unk_id() in ids or any(not self._has_piece(c) for c in set(text))

    def _has_piece(self, character: str) -> bool:
        """Returns whether normalization keeps a character."""
        if character not in self._alone:
            self._alone[character] = (
                character.isspace() or character == SPACE_SIGN or bool(self._inner.encode(character))
            )
        return self._alone[character]


def _processor(model: bytes, source: str) -> sentencepiece.SentencePieceProcessor:
    """Raises DataError if `model` is not a SentencePiece model; `source` is its name in the message."""
    try:
        inner = sentencepiece.SentencePieceProcessor(model_proto=model) if model else None
    except (RuntimeError, ValueError, TypeError) as error:
        raise DataError(f"{source} is not a SentencePiece model{_instead(model)}") from error
    if inner is None:
        raise DataError(f"{source} is not a SentencePiece model: it is empty")
    return inner


def _instead(model: bytes) -> str:
    """Returns the format of a file that is not a SentencePiece model, if its first line shows it."""
    if re.match(rb"[A-Za-z0-9+/]+=* \d+\r?\n", model):
        return ": it looks like a tiktoken file; give the tokenizer.json of that tokenizer"
    return ""


def _without_spelling(
    inner: sentencepiece.SentencePieceProcessor, model: bytes, special: Sequence[int], source: str
) -> sentencepiece.SentencePieceProcessor:
    """Returns a processor that never encodes text as the pieces `special`: they are made control symbols.

    Raises:
      DataError: if one of them is the unknown piece or a byte piece.
    """
    taken = [i for i in special if inner.is_unknown(i) or inner.is_byte(i)]
    if taken:
        raise DataError(
            f"{source}: {inner.id_to_piece(taken[0])!r} is used for text; give other names as tokenizer.pad_token and eos_token"
        )
    if all(inner.is_control(i) for i in special):
        return inner
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto.FromString(model)
    for i in special:
        proto.pieces[i].type = proto.pieces[i].CONTROL
    return _processor(proto.SerializeToString(), source)


def _replace(ids: list[int], old: list[int], new: list[int]) -> list[int]:
    """Returns `ids` with every run `old` replaced by `new`."""
    out: list[int] = []
    for i in ids:
        out.append(i)
        if out[-len(old) :] == old:
            out[-len(old) :] = new
    return out


def train_sentencepiece(documents: Iterable[str], vocab_size: int) -> SentencePieceTokenizer:
    """Trains a unigram model with byte fallback; deterministic for the same documents.

    Text is not normalized, so decoding restores newlines and runs of spaces. A corpus with fewer distinct pieces than
    `vocab_size` gives a smaller vocabulary.

    Raises:
      DataError: if there is no text, or `vocab_size` is below the 256 bytes, the special tokens and the characters.
    """
    if not 0 < vocab_size < 2**31:
        raise DataError(f"tokenizer.vocab_size={vocab_size} must be between 1 and 2**31 - 1")
    model, failed = io.BytesIO(), []
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_sentences(_watched(documents, failed)),
            model_writer=model,
            vocab_size=vocab_size,
            model_type="unigram",
            byte_fallback=True,
            character_coverage=0.9999,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            hard_vocab_limit=False,
            max_sentence_length=4 * LONGEST_SENTENCE,
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            pad_piece=PAD_TOKEN,
            eos_piece=EOS_TOKEN,
            num_threads=1,
            minloglevel=2,
        )
    except (RuntimeError, SystemError) as error:
        if failed:  # some versions raise a SystemError instead of the exception of a document
            raise failed[0] from None
        raise DataError(_training_problem(str(error), vocab_size)) from error
    return SentencePieceTokenizer(model.getvalue(), PAD_TOKEN, EOS_TOKEN, "the trained model")


def _watched(documents: Iterable[str], failed: list[Exception]) -> Iterator[str]:
    """Yields documents and stores an exception of reading them."""
    try:
        yield from documents
    except Exception as error:
        failed.append(error)
        raise


def _sentences(documents: Iterable[str]) -> Iterator[str]:
    """Yields pieces of documents, then every word that came twice, with and without a full stop.

    SentencePiece proposes only substrings that occur in two different strings between spaces: a word that is always
    followed by a space, as in a small corpus, would otherwise never become a piece.
    """
    words: Counter[str] = Counter()
    for document in documents:
        for start in range(0, len(document), LONGEST_SENTENCE):
            piece = document[start : start + LONGEST_SENTENCE].replace("\x00", " ")
            if piece.strip():
                words.update(re.findall(r"\w+", piece))
                yield piece
    for word, count in sorted(words.items()):
        if count > 1:
            yield f"{word} {word}."


def _training_problem(message: str, vocab_size: int) -> str:
    needed = re.search(r"required_chars\. \d+ vs (\d+)", message)
    if needed:
        return f"tokenizer.vocab_size={vocab_size} is too small for this corpus: at least {needed[1]} are needed"
    if "!sentences_.empty()" in message:
        return "the corpus holds no text to train tokenizer.kind='sentencepiece' on"
    return f"SentencePiece could not be trained on this corpus: {message}"
