"""Preparing: nothing is written before the checks, nothing half remains, and what is damaged later is named."""

import dataclasses
import errno
import fcntl
import json
import os
import resource

import numpy as np
import pytest

from cola_jax.config import RunConfig
from cola_jax.config.fields import DataConfig, SourceConfig, TokenizerConfig, TrainConfig
from cola_jax.data import prepare, tokenizers
from cola_jax.data.errors import DataError, WriteError
from cola_jax.data.pipeline import build_corpus, train_batches
from cola_jax.errors import UserError


def config(texts, **fields):
    data = {"sources": (SourceConfig(kind="text", path=(str(texts),)),), "heldout_fraction": 0.1} | fields
    return RunConfig(
        data=dataclasses.replace(DataConfig(), **data),
        tokenizer=TokenizerConfig(kind="bytes"),
        train=dataclasses.replace(TrainConfig(), batch_size=2, sequence_length=64),
    )


def prepared_config(cfg, folder, **fields):
    source = SourceConfig(kind="prepared", path=(str(folder),))
    return dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, sources=(source,), **fields))


@pytest.fixture
def texts(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    for i in range(30):
        (folder / f"{i}.txt").write_text(f"Text {i} is one of thirty. " * 9)
    return folder


@pytest.fixture
def corpus(texts, tmp_path):
    prepare.prepare_corpus(config(texts), tmp_path / "corpus")
    return tmp_path / "corpus"


def untouched(tmp_path):
    return sorted(path.name for path in tmp_path.iterdir()) == ["texts"]


def test_nothing_is_written_where_a_check_fails(texts, tmp_path):
    out = tmp_path / "deep" / "corpus"
    cfg = config(texts)
    wrong = {
        "names no file": config(tmp_path / "gone"),
        "is smaller than the tokenizer's 258": dataclasses.replace(cfg, vae=dataclasses.replace(cfg.vae, vocab_size=9)),
        "is not a file": dataclasses.replace(cfg, tokenizer=TokenizerConfig(kind="file", path="gone.model")),
        "holds packed tokens": prepared_config(cfg, tmp_path),
    }
    for problem, bad in wrong.items():
        with pytest.raises(UserError, match=problem):
            prepare.prepare_corpus(bad, out)
        assert untouched(tmp_path)
    with pytest.raises(UserError, match="--output hdfs://bucket/x: .* not supported"):
        prepare.prepare_corpus(cfg, "hdfs://bucket/x")


def test_places_that_cannot_be_written_are_named_before_the_work(texts, tmp_path, monkeypatch):
    cfg = config(texts)
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    for out, problem in (("file", "file is not an empty folder"), ("file/corpus", "file is a file"),
                         ("link", "link is a link to .*gone")):  # fmt: skip
        with pytest.raises(DataError, match=problem):
            prepare.prepare_corpus(cfg, tmp_path / out)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(WriteError, match="no permission to write in .*") as error:
        prepare.prepare_corpus(cfg, tmp_path / "new" / "corpus")
    assert error.value.exit_status == 1 and not (tmp_path / "new").exists()


def test_a_full_disk_leaves_nothing_behind(texts, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    rng = np.random.default_rng(0)
    (texts / "random.txt").write_text(rng.bytes(40_000).hex())
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
        with pytest.raises(WriteError, match="0-train-00000.array_record cannot be written: write"):
            prepare.prepare_corpus(config(texts), tmp_path / "corpus")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert untouched(tmp_path)


def test_a_full_disk_before_the_first_row_leaves_nothing_behind(texts, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(prepare.storage, "write_json", full)
    with pytest.raises(WriteError, match="corpus.partial cannot be written: no space left on device"):
        prepare.prepare_corpus(config(texts), tmp_path / "corpus")
    assert untouched(tmp_path)


def test_a_source_that_vanishes_is_not_said_to_be_unwritable(texts, tmp_path, monkeypatch):
    def vanish(*_):
        for path in texts.iterdir():
            path.unlink()

    monkeypatch.setattr(tokenizers, "save", vanish)
    with pytest.raises(FileNotFoundError) as error:
        prepare.prepare_corpus(config(texts), tmp_path / "corpus")
    assert error.value.filename.endswith(".txt") and untouched(tmp_path)


def test_rows_that_are_missing_after_writing_are_noticed(texts, tmp_path, monkeypatch):
    class Forgetful(prepare.ArrayRecordWriter):
        def write(self, record):
            pass

    monkeypatch.setattr(prepare, "ArrayRecordWriter", Forgetful)
    with pytest.raises(WriteError, match=r"holds 0 rows of \d+ after writing"):
        prepare.prepare_corpus(config(texts), tmp_path / "corpus")
    assert untouched(tmp_path)


def test_a_folder_that_another_program_is_writing_is_left_alone(texts, tmp_path):
    partial = tmp_path / "corpus.partial"
    partial.mkdir()
    (partial / "half").write_text("x")
    held = os.open(partial, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    with pytest.raises(DataError, match="corpus.partial is being written by another program"):
        prepare.prepare_corpus(config(texts), tmp_path / "corpus")
    assert (partial / "half").read_text() == "x"
    os.close(held)
    prepare.prepare_corpus(config(texts), tmp_path / "corpus")
    assert not partial.exists() and not (tmp_path / "corpus" / "half").exists()


def test_an_empty_folder_and_a_link_to_one_are_filled(texts, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    prepare.prepare_corpus(config(texts), tmp_path / "link")
    assert (tmp_path / "real" / "metadata.json").is_file() and (tmp_path / "link").is_symlink()


def test_what_is_left_out_is_said_once_in_one_line_each(texts, tmp_path):
    (texts / "empty.txt").write_text("")
    (texts / "table.csv").write_text("x")
    said = []
    metadata = prepare.prepare_corpus(config(texts), tmp_path / "corpus", said.append)
    assert [line.split(":")[1].split()[0] for line in said] == ["1", "1"] and metadata["sources"][0]["skipped"] == {}
    (texts / "latin.txt").write_bytes(b"caf\xe9")
    said = []
    cfg = config(texts, on_bad_record="skip")
    metadata = prepare.prepare_corpus(cfg, tmp_path / "other", said.append)
    assert said[1:] == [f"text {texts}: 2 records were skipped: 1 not UTF-8, 1 empty file"]
    assert metadata["sources"][0]["skipped"] == {"not UTF-8": 1, "empty file": 1}
    said_by_training = []
    build_corpus(cfg, tokenizers.BytesTokenizer(), said_by_training.append)
    assert said_by_training == said


def test_characters_without_a_token_are_counted_by_document(texts, tmp_path):
    hf = pytest.importorskip("tokenizers")
    words = ["<unk>", "<pad>", "</s>", *"Tabcdefghijklmnopqrstuvwxyz.0123456789 "]
    inner = hf.Tokenizer(hf.models.BPE({word: i for i, word in enumerate(words)}, [], unk_token="<unk>"))
    inner.save(str(tmp_path / "tokenizer.json"))
    (texts / "31.txt").write_text("caf\u00e9 " * 9 + "\u6570")
    cfg = dataclasses.replace(
        config(texts), tokenizer=TokenizerConfig(kind="file", path=str(tmp_path / "tokenizer.json"))
    )
    said = []
    prepare.prepare_corpus(cfg, tmp_path / "corpus", said.append)
    assert len(said) == 2 and "does not restore every text" in said[0] and "newlines" in said[0]
    assert said[1].startswith(f"text {texts}: 1 of 31 documents hold characters that the tokenizer has no token for")
    assert "\u00e9" in said[1]


def test_fields_that_a_prepared_corpus_has_behind_it_are_refused_where_they_differ(texts, corpus):
    cfg, tokenizer = config(texts), tokenizers.BytesTokenizer()
    build_corpus(prepared_config(cfg, corpus), tokenizer)
    build_corpus(prepared_config(cfg, corpus, heldout_fraction=DataConfig().heldout_fraction), tokenizer)
    for name, old, new in (("heldout_fraction", 0.1, 0.2), ("generated_documents", 20000, 7),
                           ("heldout_documents", 500, 7), ("on_bad_record", "'refuse'", "skip")):  # fmt: skip
        with pytest.raises(DataError, match=f"data.{name}: prepared with {old}, the config has {new!r}"):
            build_corpus(prepared_config(cfg, corpus, **{name: new}), tokenizer)


def test_the_weights_of_a_prepared_corpus_are_those_it_was_prepared_with(texts, tmp_path):
    sources = (SourceConfig(weight=3.0), SourceConfig(kind="text", path=(str(texts),)))
    cfg = config(texts, sources=sources, generated_documents=50, heldout_documents=5)
    prepare.prepare_corpus(cfg, tmp_path / "corpus")
    opened = build_corpus(prepared_config(cfg, tmp_path / "corpus"), tokenizers.BytesTokenizer())
    assert [part.weight for part in opened.parts] == [3.0, 1.0]


def test_a_corpus_prepared_before_its_fields_were_kept_is_read(texts, corpus):
    path = corpus / "metadata.json"
    metadata = json.loads(path.read_text())
    del metadata["data"], metadata["sources"][0]["fingerprint"], metadata["sources"][0]["skipped"]
    path.write_text(json.dumps(metadata))
    cfg = prepared_config(config(texts), corpus, heldout_fraction=0.3)
    assert len(build_corpus(cfg, tokenizers.BytesTokenizer()).train) > 0


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda text: text[: len(text) // 2], "metadata.json is not JSON"),
        (lambda text: "[]", "metadata.json has version None"),
        (lambda text: '{"version": 1}', "metadata.json lacks its sources"),
        (lambda text: text.replace('"rows"', '"lines"'), "metadata.json lacks its sources"),
        (lambda text: text.replace('"weight": 1.0', '"weight": null'), "metadata.json lacks its sources"),
        (lambda text: text.replace('"weight": 1.0', '"weight": NaN'), "metadata.json lacks its sources"),
        (lambda text: text.replace('"data": {', '"data": 3, "more": {'), "metadata.json has a damaged field 'data'"),
        (lambda text: text.replace('"data.packing"', '"packing"'), "data.packing: prepared with None"),
    ],
)
def test_damaged_metadata_are_named(texts, corpus, damage, problem):
    path = corpus / "metadata.json"
    path.write_text(damage(path.read_text()))
    with pytest.raises(UserError, match=problem):
        build_corpus(prepared_config(config(texts), corpus), tokenizers.BytesTokenizer())


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda text: text[: len(text) // 2], "tokenizer.json is not JSON"),
        (lambda text: "null", "tokenizer.json has version None"),
        (lambda text: '{"version": 1}', "tokenizer.json lacks fields"),
        (lambda text: text.replace('"bytes"', '"letters"'), "tokenizer.json lacks fields"),
    ],
)
def test_a_damaged_saved_tokenizer_is_named(texts, corpus, damage, problem):
    path = corpus / "tokenizer.json"
    path.write_text(damage(path.read_text()))
    with pytest.raises(UserError, match=problem):
        tokenizers.build(prepared_config(config(texts), corpus))


def test_cut_and_damaged_shards_are_named(texts, corpus):
    cfg, tokenizer = prepared_config(config(texts), corpus), tokenizers.BytesTokenizer()
    shard = corpus / "0-train-00000.array_record"
    whole = shard.read_bytes()
    damaged = bytearray(whole)
    damaged[2000:2200] = bytes(200)
    shard.write_bytes(damaged)
    opened = build_corpus(cfg, tokenizer)
    with pytest.raises(DataError, match="record .* of .*0-train-00000.array_record cannot be read"):
        for i in range(len(opened.train)):
            opened.train[i]
    shard.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="0-train-00000.array_record is not a complete ArrayRecord file"):
        build_corpus(cfg, tokenizer)


def test_rows_of_damaged_shards_are_named_and_skipped_where_the_config_says_so(texts, corpus):
    cfg, tokenizer = prepared_config(config(texts), corpus), tokenizers.BytesTokenizer()
    cfg = dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, on_damaged_shard="skip"))
    good = build_corpus(cfg, tokenizer).train
    rows = [good[index] for index in range(len(good))]
    shard = corpus / "0-train-00000.array_record"
    whole = shard.read_bytes()
    damaged = bytearray(whole)
    damaged[2000:2200] = bytes(200)
    for content in (bytes(damaged), whole[: len(whole) // 2], None):
        shard.write_bytes(content) if content is not None else shard.unlink()
        said = []
        found = build_corpus(cfg, tokenizer, said.append).train
        assert len(found) == len(rows)
        again = [found[index] for index in range(len(found))]
        lost = [index for index, row in enumerate(again) if not row["weights"].any()]
        assert lost and (len(lost) == len(rows)) == (content is None or len(content) < len(whole))
        for index in set(range(len(rows))) - set(lost):
            np.testing.assert_array_equal(again[index]["tokens"], rows[index]["tokens"])
        assert len(said) == 1 and str(shard) in said[0] and "have weight 0" in said[0] and "1 so far" in said[0]


def test_rows_of_another_length_than_the_metadata_say_are_named(texts, corpus):
    path = corpus / "metadata.json"
    path.write_text(path.read_text().replace('"train.sequence_length": 64', '"train.sequence_length": 128'))
    cfg = prepared_config(config(texts), corpus)
    cfg = dataclasses.replace(cfg, train=dataclasses.replace(cfg.train, sequence_length=128))
    with pytest.raises(DataError, match="has 576 bytes, a row of 128 tokens has 1152"):
        build_corpus(cfg, tokenizers.BytesTokenizer()).train[0]


@pytest.mark.parametrize("name", ["threads", "prefetch"])
def test_grain_options_out_of_range_are_named(texts, name):
    cfg = config(texts, **{name: -1})
    with pytest.raises(DataError, match=f"data.{name}=-1 must not be negative"):
        train_batches(cfg, build_corpus(cfg, tokenizers.BytesTokenizer()))
