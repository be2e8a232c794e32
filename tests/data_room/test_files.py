"""Which files a source reads: links, endings, compression, empty files, and what is said of those it does not read."""

import bz2
import gzip
import os
import random

import pyarrow
import pytest

from cola_jax.config.fields import DataConfig, SourceConfig
from cola_jax.data import files
from cola_jax.data.errors import DataError
from cola_jax.data.sources import open_source
from cola_jax.errors import UserError

PACKED = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "zst": lambda raw: pyarrow.compress(raw, codec="zstd", asbytes=True),
}


def opened(kind, *path, on_bad_record="refuse", **fields):
    data = DataConfig(heldout_fraction=0.1, on_bad_record=on_bad_record)
    return open_source(data, SourceConfig(kind=kind, path=tuple(map(str, path)), **fields))


def contents(division):
    return sorted(side[i] for side in (division.train, division.heldout) for i in range(len(side)))


def write(folder, **texts):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / name.replace("_", ".")).write_text(text)
    return folder


def test_linked_folders_are_read_once_and_loops_end(tmp_path):
    corpus, far = write(tmp_path / "corpus", a_txt="a"), write(tmp_path / "far" / "deep", b_txt="b")
    write(tmp_path / "far", c_txt="c")
    write(tmp_path, beside_txt="not of the corpus, though a link to its parent leads there")
    (corpus / "shard").symlink_to(tmp_path / "far", target_is_directory=True)
    (corpus / "again").symlink_to(tmp_path / "far" / "deep", target_is_directory=True)
    (corpus / "loop").symlink_to(corpus, target_is_directory=True)
    (corpus / "above").symlink_to(tmp_path, target_is_directory=True)
    (far / "back").symlink_to(corpus, target_is_directory=True)
    assert contents(opened("text", corpus)) == ["a", "b", "c"]


def test_a_real_name_wins_over_a_link_to_the_same_folder(tmp_path):
    corpus = write(tmp_path / "corpus" / "real", a_txt="a", b_txt="b").parent
    (corpus / "alias").symlink_to(corpus / "real", target_is_directory=True)
    assert files.find("text", [str(corpus)], None).relative == ["real/a.txt", "real/b.txt"]


def test_links_to_files_are_files(tmp_path):
    corpus, far = write(tmp_path / "corpus", a_txt="a"), write(tmp_path / "far", b_txt="b")
    (corpus / "c.txt").symlink_to(far / "b.txt")
    assert contents(opened("text", corpus)) == ["a", "b"]


def test_a_link_to_nothing_is_named(tmp_path):
    corpus = write(tmp_path / "corpus", a_txt="a", b_txt="b")
    (corpus / ".#a.txt").symlink_to("user@host.1")  # an editor's lock
    assert contents(opened("text", corpus)) == ["a", "b"]
    (corpus / "shard").symlink_to(tmp_path / "gone")
    for path in (corpus, corpus / "shard", corpus / "*"):
        with pytest.raises(DataError, match="shard'? is a link to .*gone, which does not exist"):
            opened("text", path)


def test_folders_that_cannot_be_searched_are_named(tmp_path, monkeypatch):
    corpus = write(tmp_path / "corpus" / "sub", a_txt="a").parent
    scan = os.scandir

    def denied(path):
        if str(path).endswith("sub"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(DataError, match="corpus/sub: permission denied"):
        opened("text", corpus)


def test_endings_count_in_either_case(tmp_path):
    corpus = write(tmp_path / "t", a_txt="a", B_TXT="b", c_Md="c")
    assert contents(opened("text", corpus)) == ["a", "b", "c"]
    corpus = write(tmp_path / "j", a_JSONL='{"text": "a"}', b_ndjson='{"text": "b"}', c_NdJson='{"text": "c"}')
    assert contents(opened("jsonl", corpus)) == ["a", "b", "c"]


@pytest.mark.parametrize("ending", PACKED)
def test_compressed_files_give_the_documents_of_plain_ones_in_the_same_order(tmp_path, ending):
    rng = random.Random(0)
    paragraphs = "\n\n".join(f"Paragraph {i} " + "wörd " * rng.randint(1, 200) for i in range(60)).encode()
    lines = b"".join(b'\xef\xbb\xbf{"text": "number %d"}\r\n\n' % i for i in range(50))
    for kind, name, raw in (("text", "a.txt", paragraphs), ("jsonl", "a.jsonl", lines)):
        plain, packed = tmp_path / "plain" / kind, tmp_path / "packed" / kind
        plain.mkdir(parents=True), packed.mkdir(parents=True)
        (plain / name).write_bytes(raw)
        (packed / f"{name}.{ending.upper()}").write_bytes(PACKED[ending](raw))
        one, other = opened(kind, plain), opened(kind, packed)
        for side in ("train", "heldout"):
            first, second = getattr(one, side), getattr(other, side)
            assert len(first) > 0 and [first[i] for i in range(len(first))] == [second[i] for i in range(len(second))]


@pytest.mark.parametrize("ending", PACKED)
def test_a_cut_compressed_file_is_named(tmp_path, ending):
    raw = b"".join(b'{"text": "%d"}\n' % random.Random(0).getrandbits(4000) for _ in range(50))
    whole = PACKED[ending](raw)
    for kind, name in (("jsonl", "a.jsonl"), ("text", "a.txt")):
        path = tmp_path / f"{name}.{ending}"
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(UserError, match=f"{name}.{ending} cannot be read to its end"):
            opened(kind, path)


def test_a_text_that_begins_as_a_compressed_file_might_is_text(tmp_path):
    corpus = write(tmp_path, a_txt="BZh is no bzip2", b_txt="BZh9 neither")
    assert contents(opened("text", corpus)) == ["BZh is no bzip2", "BZh9 neither"]


def test_one_empty_file_among_good_ones_is_told_of_or_counted(tmp_path):
    corpus = write(tmp_path, a_txt="a", b_txt="b", c_txt="")
    division = opened("text", corpus)
    assert contents(division) == ["a", "b"] and division.skipped == {}
    assert division.notes == (f"data.sources.path: 1 empty files were left out, the first is {corpus / 'c.txt'}",)
    division = opened("text", corpus, on_bad_record="skip")
    assert contents(division) == ["a", "b"] and division.skipped == {"empty file": 1} and division.notes == ()


@pytest.mark.parametrize("on_bad_record", ["refuse", "skip"])
def test_files_that_are_all_empty_are_refused(tmp_path, on_bad_record):
    with pytest.raises(DataError, match="all 2 files are empty"):
        opened("text", write(tmp_path, a_txt="", b_txt=""), on_bad_record=on_bad_record)


def test_files_of_other_endings_are_told_of(tmp_path):
    corpus = write(tmp_path, a_txt="a", b_txt="b", c_csv="x", d_CSV="x", e_pdf="x", LICENSE="x")
    write(tmp_path / ".git", config="x")
    [note] = opened("text", corpus).notes
    assert "4 files of folder" in note and "(others: 2 .csv, 1 .pdf, 1 no ending)" in note
    with pytest.raises(DataError, match=r"holds no .parquet file \(others: 2 .csv, 2 .txt, 1 .pdf, ...\)"):
        opened("parquet", corpus)


def test_folders_that_a_glob_matches_are_told_of(tmp_path):
    corpus = write(tmp_path, a_txt="a", b_txt="b")
    write(tmp_path / "sub", c_txt="c")
    [note] = opened("text", corpus / "*").notes
    assert "matches 1 folders too, whose files were not read" in note
    assert opened("text", corpus / "**" / "*.txt").notes == ()


def test_other_schemes_are_refused_and_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "notes", a_txt="a", b_txt="b")
    assert contents(opened("text", "~/notes")) == contents(opened("text", "~/notes/*.txt")) == ["a", "b"]
    for kind, path in (("text", ["hdfs://bucket/a"]), ("tfds", ["hdfs://bucket/set"]), ("tfds", ["set", "hdfs://bucket"]),
                       ("arrow", ["hdfs://bucket/a"])):  # fmt: skip
        with pytest.raises(UserError, match="data.sources.path hdfs://.* not supported"):
            opened(kind, *path)


def test_an_empty_entry_is_not_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(write(tmp_path, a_txt="a", b_txt="b"))
    for kind in ("text", "arrow"):
        with pytest.raises(DataError, match="data.sources.path has an empty entry"):
            opened(kind, "")


def test_a_tfds_source_takes_a_name_and_a_folder(tmp_path):
    with pytest.raises(DataError, match="got 3 entries"):
        opened("tfds", "set", tmp_path, "more")
