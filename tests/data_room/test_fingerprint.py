"""A corpus is known by its content: what changes it changes its fingerprint, and moving it does not."""

import dataclasses
import json
import shutil

import pytest

from cola_jax.config import RunConfig
from cola_jax.config.fields import DataConfig, SourceConfig, TokenizerConfig, TrainConfig
from cola_jax.data import fingerprint, prepare, pydocs, tinyworld
from cola_jax.data.errors import DataError
from cola_jax.errors import UserError


def config(*sources, **fields):
    return RunConfig(
        data=dataclasses.replace(DataConfig(), sources=sources, heldout_fraction=0.2, **fields),
        tokenizer=TokenizerConfig(kind="bytes"),
        train=dataclasses.replace(TrainConfig(), sequence_length=64),
    )


def text(*paths):
    return SourceConfig(kind="text", path=tuple(map(str, paths)))


def of(source, **fields):
    [value] = fingerprint.fingerprint(config(source, **fields)).values()
    return value


@pytest.fixture
def texts(tmp_path):
    folder = tmp_path / "texts"
    (folder / "sub").mkdir(parents=True)
    for name in ("a.txt", "b.txt", "sub/c.txt"):
        (folder / name).write_text(f"the text of {name} " * 20)
    return folder


def test_a_corpus_that_moved_is_the_same(texts, tmp_path, monkeypatch):
    other = shutil.copytree(texts, tmp_path / "elsewhere" / "corpus")
    assert of(text(texts)) == of(text(other))
    assert of(text(texts / "**" / "*.txt")) == of(text(other / "**" / "*.txt"))
    assert of(text(texts / "a.txt", texts / "b.txt")) == of(text(other / "a.txt", other / "b.txt"))
    monkeypatch.chdir(texts)
    assert of(text(".")) == of(text(texts)) and of(text("*.txt")) == of(text(texts / "*.txt"))


@pytest.mark.parametrize("whole", [True, False])
def test_every_change_of_content_size_name_or_order_is_another_corpus(texts, monkeypatch, whole):
    if not whole:
        monkeypatch.setattr(fingerprint, "WHOLE", 0)
        monkeypatch.setattr(fingerprint, "PIECE", 8)
    seen = {of(text(texts))}

    def another():
        value = of(text(texts))
        assert value not in seen
        seen.add(value)

    path = texts / "a.txt"
    original = path.read_bytes()
    for changed in (b"X" + original[1:], original[:-1] + b"X", original + b"x"):
        path.write_bytes(changed)
        another()
    path.write_bytes(original)
    assert of(text(texts)) in seen
    (texts / "d.txt").write_text("more")
    another()
    (texts / "d.txt").rename(texts / "A.txt")
    another()
    (texts / "sub" / "c.txt").unlink()
    another()
    assert of(text(texts / "a.txt", texts / "b.txt")) != of(text(texts / "b.txt", texts / "a.txt"))


def test_pieces_of_large_files_reach_from_head_to_tail(tmp_path, monkeypatch):
    monkeypatch.setattr(fingerprint, "WHOLE", 0)
    path, size = tmp_path / "a.txt", 100_000
    path.write_bytes(b"a" * size)
    before = of(text(path))
    seen = []
    for place in (0, 4095, size // 15, size - 4096, size - 1):
        raw = bytearray(b"a" * size)
        raw[place] = ord("b")
        path.write_bytes(raw)
        seen.append(of(text(path)))
    assert before not in seen and len(set(seen)) == len(seen)


def test_files_that_are_not_read_do_not_count(texts):
    before = of(text(texts))
    (texts / "table.csv").write_text("x")
    (texts / "empty.txt").write_text("")
    assert of(text(texts)) == before


def test_generators_are_known_by_what_they_generate(monkeypatch):
    world = of(SourceConfig())
    assert world == of(SourceConfig()) != of(SourceConfig(), seed=1)
    assert world != of(SourceConfig(), generated_documents=7)
    with monkeypatch.context() as patch:
        patch.setattr(tinyworld, "draft", lambda rng: f"another story {rng.random()}? Answer: x.")
        assert of(SourceConfig()) != world
    monkeypatch.setattr(pydocs, "documents", lambda: ("one", "two"))
    docs = of(SourceConfig(kind="pydocs"))
    monkeypatch.setattr(pydocs, "documents", lambda: ("one", "three"))
    assert of(SourceConfig(kind="pydocs")) != docs


def test_a_prepared_corpus_is_known_by_its_rows(texts, tmp_path):
    one, same, other = tmp_path / "one", tmp_path / "same", tmp_path / "other"
    prepare.prepare_corpus(config(text(texts)), one)
    prepare.prepare_corpus(config(text(shutil.copytree(texts, tmp_path / "moved"))), same)
    (texts / "a.txt").write_text("another text " * 20)
    prepare.prepare_corpus(config(text(texts)), other)
    source = lambda folder: SourceConfig(kind="prepared", path=(str(folder),))
    assert of(source(one)) == of(source(same)) != of(source(other))


def test_a_prepared_corpus_without_a_fingerprint_is_known_by_its_shards(texts, tmp_path):
    prepare.prepare_corpus(config(text(texts)), tmp_path / "one")
    path = tmp_path / "one" / "metadata.json"
    metadata = json.loads(path.read_text())
    del metadata["sources"][0]["fingerprint"]
    path.write_text(json.dumps(metadata))
    source = SourceConfig(kind="prepared", path=(str(tmp_path / "one"),))
    before = of(source)
    shard = tmp_path / "one" / "0-train-00000.array_record"
    shard.write_bytes(shard.read_bytes()[:-1] + b"\xff")
    assert of(source) != before
    shard.unlink()
    with pytest.raises(DataError, match="lacks 0-train-00000.array_record"):
        of(source)


def test_changes_are_named_by_source():
    old = {"data.sources.0 (text)": "a", "data.sources.1 (jsonl)": "b", "data.sources.2 (text)": "c"}
    new = {"data.sources.0 (text)": "a", "data.sources.1 (jsonl)": "x", "data.sources.3 (text)": "d"}
    assert fingerprint.changed(old, old) == []
    assert fingerprint.changed(old, new) == [
        "data.sources.1 (jsonl) holds other documents",
        "data.sources.2 (text) is gone",
        "data.sources.3 (text) is new",
    ]


def test_a_run_goes_on_with_its_corpus_and_refuses_or_names_another(texts, tmp_path):
    cfg, path = config(text(texts), SourceConfig()), tmp_path / "w" / "corpus.json"
    path.parent.mkdir()
    said = []
    fingerprint.check_unchanged(path, cfg, said.append)  # a workdir of an earlier version has none
    fingerprint.record(path, cfg)
    fingerprint.check_unchanged(path, cfg, said.append)
    moved = config(text(shutil.move(texts, tmp_path / "moved")), SourceConfig())
    fingerprint.check_unchanged(path, moved, said.append)
    assert said == []
    (tmp_path / "moved" / "d.txt").write_text("more")
    with pytest.raises(
        DataError, match=r"w was started with: data.sources.0 \(text\) holds other documents. Restore it"
    ):
        fingerprint.check_unchanged(path, moved, said.append)
    data = dataclasses.replace(moved.data, on_changed_corpus="warn")
    fingerprint.check_unchanged(path, dataclasses.replace(moved, data=data), said.append)
    assert len(said) == 1 and "data.sources.0 (text) holds other documents" in said[0]


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"version": 9}', '{"version": 1}', '{"version": 1, "sources": {"a": 1}}']
)
def test_a_damaged_record_is_named(texts, tmp_path, content):
    (tmp_path / "corpus.json").write_text(content)
    with pytest.raises(UserError, match="corpus.json"):
        fingerprint.check_unchanged(tmp_path / "corpus.json", config(text(texts)))
