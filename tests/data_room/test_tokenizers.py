"""Tokenizers: text comes back exactly, also in pieces; a saved one is the same one; bad files are named."""

import dataclasses
import io
import json
import random

import pytest
import sentencepiece

from cola_jax.config import RunConfig
from cola_jax.config.fields import DataConfig, TokenizerConfig
from cola_jax.data import tinyworld, tokenizers
from cola_jax.data.errors import DataError
from cola_jax.data.sentencepieces import SentencePieceTokenizer, train_sentencepiece
from cola_jax.errors import UserError

TEXTS = [
    "", " ", "a", " lead", "trail ", "two  spaces   three", "\n", "line\n\nline\r\n\tend", "日本語 \U0001f600 é e\u0301",
    "\u2581 a\u2581b\u2581\u2581", "\u2581\ufdd0", "<pad></s><unk><0x41>", "\x00\x7f", "Anna went to the park.",
    "\u00a0x\u3000",
]  # fmt: skip


@pytest.fixture(scope="module")
def stories():
    return [tinyworld.story(0, "train", i) for i in range(1200)]


@pytest.fixture(scope="module")
def trained(stories):
    return train_sentencepiece(stories, 640)


@pytest.fixture(scope="module")
def huggingface(tmp_path_factory, stories):
    hf = pytest.importorskip("tokenizers")
    inner = hf.Tokenizer(hf.models.BPE())
    inner.pre_tokenizer = hf.pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = hf.decoders.ByteLevel()
    alphabet = hf.pre_tokenizers.ByteLevel.alphabet()
    special = ["[PAD]", "[END]"]
    inner.train_from_iterator(
        stories[:200],
        hf.trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    path = tmp_path_factory.mktemp("hf") / "tokenizer.json"
    inner.save(str(path))
    return path


@pytest.fixture(params=["trained", "bytes", "huggingface"])
def tokenizer(request):
    if request.param == "bytes":
        return tokenizers.BytesTokenizer()
    if request.param == "trained":
        return request.getfixturevalue("trained")
    return tokenizers.from_file(request.getfixturevalue("huggingface"), "[PAD]", "[END]")


def test_decoding_gives_the_text_back(tokenizer, stories):
    special = ("<pad></s><unk><0x41>",) if tokenizer.kind == "huggingface" else ()
    for text in TEXTS + stories[:50]:
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text or text in special
        assert all(0 <= i < tokenizer.vocab_size for i in ids) and not {tokenizer.pad_id, tokenizer.eos_id} & set(ids)


def test_no_character_is_lost_where_bytes_have_tokens(tokenizer, stories):
    assert not [text for text in TEXTS + stories[:50] if tokenizer.lost(text)]


def test_characters_without_a_token_are_named(tmp_path):
    hf = pytest.importorskip("tokenizers")
    words = {"[PAD]": 0, "[END]": 1, "[UNK]": 2, "a": 3, "b": 9}
    for unknown in ("[UNK]", None):
        inner = hf.Tokenizer(hf.models.BPE(words, [], unk_token=unknown))
        inner.save(str(tmp_path / "tokenizer.json"))
        loaded = tokenizers.from_file(tmp_path / "tokenizer.json", "[PAD]", "[END]")
        assert loaded.lost("abba") == "" and loaded.lost("a\u00e9b \u6570a") == "\u00e9\u6570"
        assert loaded.vocab_size == 10, "ids may have gaps; the largest must have an embedding"
    inner = hf.Tokenizer(hf.models.WordLevel({**words, "ab": 4}, unk_token="[GONE]"))
    inner.save(str(tmp_path / "tokenizer.json"))
    loaded = tokenizers.from_file(tmp_path / "tokenizer.json", "[PAD]", "[END]")
    assert loaded.lost("ab") == "" and loaded.lost("abc") == "abc"
    with pytest.raises(DataError, match="the tokenizer cannot encode 'abc'"):
        loaded.encode("abc")


def test_sentencepiece_without_bytes_names_what_it_cannot_say(tmp_path):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a b ab ba"] * 9), model_writer=model, vocab_size=8, hard_vocab_limit=False, pad_id=3,
        minloglevel=2,
    )  # fmt: skip
    loaded = SentencePieceTokenizer(model.getvalue(), "<pad>", "</s>", "the model")
    assert loaded.lost("ab a") == "" and loaded.lost("a\u6570 b") == "\u6570"


def test_text_in_pieces_joins_to_the_whole_and_has_no_half_character(tokenizer):
    rng = random.Random(0)
    for text in TEXTS:
        ids = tokenizer.encode(text)
        decoder, pieces = tokenizers.StreamDecoder(tokenizer), []
        while ids:
            count = rng.randint(1, 3)
            pieces.append(decoder.push(ids[:count]))
            ids = ids[count:]
        assert decoder.finish() == ""
        assert "".join(pieces) == text and "\ufffd" not in "".join(pieces)


def test_a_stream_that_ends_inside_a_character_says_so_at_its_end():
    tokenizer = tokenizers.BytesTokenizer()
    decoder = tokenizers.StreamDecoder(tokenizer)
    ids = tokenizer.encode("a\U0001f600")[:-1]
    assert [decoder.push([i]) for i in ids] == ["a", "", "", ""]
    assert decoder.finish() == "\ufffd"


def test_special_tokens_and_foreign_ids_are_no_text(tokenizer):
    ids = [tokenizer.pad_id, *tokenizer.encode("Anna"), tokenizer.eos_id, tokenizer.vocab_size + 5]
    assert tokenizer.decode(ids) == "Anna"


def test_a_saved_tokenizer_is_the_same_one(tokenizer, tmp_path):
    assert not tokenizers.is_saved(tmp_path)
    tokenizers.save(tokenizer, tmp_path)
    again = tokenizers.load(tmp_path)
    assert tokenizers.fingerprint(again) == tokenizers.fingerprint(tokenizer)
    assert again.encode("Anna went") == tokenizer.encode("Anna went")
    names = ("vocab_size", "pad_id", "eos_id", "kind")
    assert all(getattr(again, name) == getattr(tokenizer, name) for name in names)


def test_training_is_a_function_of_the_corpus(stories, trained):
    assert tokenizers.fingerprint(train_sentencepiece(stories, 640)) == tokenizers.fingerprint(trained)
    assert tokenizers.fingerprint(train_sentencepiece(stories[1:], 640)) != tokenizers.fingerprint(trained)


def test_a_small_corpus_gives_a_smaller_vocabulary(trained):
    assert trained.vocab_size < 640


def test_every_story_fits_in_64_tokens(stories, trained):
    lengths = [len(trained.encode(text)) + 1 for text in stories]
    assert max(lengths) <= 64
    assert sum(30 <= length <= 60 for length in lengths) > 0.95 * len(lengths)


def test_too_small_a_vocabulary_or_corpus_is_refused(stories):
    with pytest.raises(DataError, match=r"tokenizer.vocab_size=100 .* at least \d+"):
        train_sentencepiece(stories, 100)
    for size in (0, -1, 2**31):
        with pytest.raises(DataError, match=f"tokenizer.vocab_size={size} must be between"):
            train_sentencepiece(stories, size)
    with pytest.raises(DataError, match="no text"):
        train_sentencepiece([" ", ""], 640)


def test_an_error_of_a_document_halfway_through_training_is_that_error(stories):
    def broken():
        yield from stories[:300]
        raise DataError("the file is damaged")

    with pytest.raises(DataError, match="the file is damaged"):
        train_sentencepiece(broken(), 640)


def test_files_that_are_no_tokenizer_say_what_they_are(tmp_path):
    pytest.importorskip("tokenizers")
    wrong = {
        "empty.model": (b"", "empty.model is not a SentencePiece model: it is empty"),
        "cl100k.tiktoken": (b"IQ== 0\nIg== 1\n", "not a SentencePiece model: it looks like a tiktoken file"),
        "vocab.json": (b'{"a": 0}', "not a Hugging Face tokenizer.json: a vocabulary alone"),
        "list.json": (b"[1]", "list.json is not a Hugging Face tokenizer.json"),
        "cut.json": (b'{"model": {"type"', "cut.json is not JSON"),
        "bin.json": (b"\xff\xfe\x00", "bin.json is not UTF-8 text"),
        "added.json": (b'{"model": {}, "added_tokens": [3]}', "its added_tokens are damaged"),
        "odd.json": (b'{"model": {"type": "BPE", "vocab": [3]}}', "odd.json is not a Hugging Face tokenizer.json"),
    }
    for name, (content, problem) in wrong.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=problem):
            tokenizers.from_file(tmp_path / name, "<pad>", "</s>")
    with pytest.raises(UserError, match="tokenizer.path hdfs://bucket/a.model: .* not supported"):
        tokenizers.from_file("hdfs://bucket/a.model", "<pad>", "</s>")


def test_a_tokenizer_file_is_known_by_its_content_has_a_bom_and_stands_in_home(huggingface, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "some.tok").write_bytes(b"\xef\xbb\xbf" + huggingface.read_bytes())
    loaded = tokenizers.from_file("~/some.tok", "[PAD]", "[END]")
    tokenizers.save(loaded, tmp_path / "kept")
    again = tokenizers.load(tmp_path / "kept")
    assert again.encode("Anna went") == loaded.encode("Anna went") and loaded.kind == "huggingface"


def config(**fields):
    data = DataConfig(generated_documents=300, heldout_documents=10)
    return dataclasses.replace(RunConfig(), data=data, tokenizer=TokenizerConfig(**fields))


def test_a_workdir_keeps_the_tokenizer_it_has(tmp_path):
    first = tokenizers.build(config(vocab_size=500), tmp_path)
    second = tokenizers.build(config(vocab_size=450), tmp_path)
    assert tokenizers.fingerprint(first) == tokenizers.fingerprint(second)
    assert tokenizers.build(config(vocab_size=450)).vocab_size == 450


def test_what_a_tokenizer_file_loses_is_said_once_when_it_is_first_loaded(tmp_path):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a b ab ba"] * 9), model_writer=model, vocab_size=8, hard_vocab_limit=False, pad_id=3,
        minloglevel=2,
    )  # fmt: skip
    (tmp_path / "some.model").write_bytes(model.getvalue())
    said, cfg = [], config(kind="file", path=str(tmp_path / "some.model"))
    for _ in range(2):
        tokenizers.build(cfg, tmp_path / "kept", said.append)
    [line] = said
    assert line.startswith(f"tokenizer.path={tmp_path / 'some.model'} does not restore every text")
    assert "newlines" in line and "runs of spaces" in line


def test_a_model_file_loads_as_the_tokenizer_it_was(trained, tmp_path):
    path = tmp_path / "some.model"
    path.write_bytes(trained.model)
    loaded = tokenizers.build(config(kind="file", path=str(path)))
    assert loaded.encode("Anna went") == trained.encode("Anna went")
    with pytest.raises(DataError, match=r"tokenizer.eos_token='<end>' is not in .*some.model.*'</s>'"):
        tokenizers.build(config(kind="file", path=str(path), eos_token="<end>"))


def test_missing_and_foreign_tokenizer_files_are_named(huggingface, tmp_path):
    junk, wrong = tmp_path / "junk.model", tmp_path / "tokenizer.json"
    junk.write_bytes(b"no model")
    wrong.write_text("{}")
    with pytest.raises(DataError, match="junk.model is not a SentencePiece model"):
        tokenizers.from_file(junk, "<pad>", "</s>")
    with pytest.raises(DataError, match="is not a Hugging Face tokenizer.json"):
        tokenizers.from_file(wrong, "<pad>", "</s>")
    with pytest.raises(DataError, match="tokenizer.path=.*gone.model' is not a file"):
        tokenizers.from_file(tmp_path / "gone.model", "<pad>", "</s>")
    with pytest.raises(DataError, match="tokenizer.pad_token='<pad>' is not in"):
        tokenizers.from_file(huggingface, "<pad>", "[END]")


def test_a_missing_optional_package_is_named(huggingface, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    with pytest.raises(DataError, match=r"pip install 'cola_jax\[hf\]'"):
        tokenizers.from_file(huggingface, "[PAD]", "[END]")


def test_a_changed_or_missing_model_is_not_loaded(trained, tmp_path):
    with pytest.raises(DataError, match="tokenizer.json is missing"):
        tokenizers.load(tmp_path)
    tokenizers.save(trained, tmp_path)
    meta = tmp_path / "tokenizer.json"
    meta.write_text(json.dumps(json.loads(meta.read_text()) | {"fingerprint": "0"}))
    with pytest.raises(DataError, match="is not the model that"):
        tokenizers.load(tmp_path)
    meta.write_text(json.dumps(json.loads(meta.read_text()) | {"version": 99}))
    with pytest.raises(DataError, match="version 99"):
        tokenizers.load(tmp_path)
    tokenizers.save(trained, tmp_path)
    (tmp_path / "tokenizer.model").unlink()
    with pytest.raises(DataError, match="tokenizer.model is missing"):
        tokenizers.load(tmp_path)
