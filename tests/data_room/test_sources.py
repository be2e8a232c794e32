"""Sources: every kind gives its documents, both sides are apart, and what cannot be read is named."""

import dataclasses
import json
import shutil

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from array_record.python.array_record_module import ArrayRecordWriter

from cola_jax.config import RunConfig
from cola_jax.config.fields import DataConfig, SourceConfig
from cola_jax.data import pydocs
from cola_jax.data.errors import DataError
from cola_jax.data.fingerprint import fingerprint
from cola_jax.data.sources import divide, open_source

TEXTS = [f"document {i} says é\nand more" for i in range(60)]


def opened(kind, *path, fraction=0.1, **fields):
    return open_source(
        DataConfig(heldout_fraction=fraction), SourceConfig(kind=kind, path=tuple(map(str, path)), **fields)
    )


def contents(division):
    sides = (division.train, division.heldout)
    return sorted(side[i] for side in sides for i in range(len(side)))


def write_array_record(path, records):
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()


def write_tfds(folder):
    import tensorflow_datasets as tfds

    class Little(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = tfds.features.FeaturesDict({"text": tfds.features.Text(), "label": np.int32})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, download_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            yield from ((i, {"text": text, "label": i}) for i, text in enumerate(TEXTS))

    Little(data_dir=str(folder), file_format="array_record").download_and_prepare()


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    """Returns the source fields of the same 60 texts in every format."""
    root = tmp_path_factory.mktemp("corpora")
    for kind in ("text", "jsonl", "parquet", "raw", "records"):
        (root / kind).mkdir()
    for i, text in enumerate(TEXTS):
        (root / "text" / f"{i:02d}.txt").write_text(text)
    lines = [json.dumps({"body": text, "number": 1}) for text in TEXTS]
    (root / "jsonl" / "a.jsonl").write_text("\n".join(lines[:40]) + "\n\n")
    (root / "jsonl" / "b.jsonl").write_text("\n".join(lines[40:]))
    table = pyarrow.table({"body": TEXTS, "number": list(range(60))})
    pyarrow.parquet.write_table(table, root / "parquet" / "a.parquet", row_group_size=7)
    write_array_record(root / "raw" / "a.array_record", [text.encode() for text in TEXTS])
    write_array_record(root / "records" / "a.array_record-00000-of-00002", [line.encode() for line in lines[:50]])
    write_array_record(root / "records" / "a.array_record-00001-of-00002", [line.encode() for line in lines[50:]])
    write_tfds(root / "tfds")
    return {
        "text": ("text", (root / "text",), {}),
        "glob": ("text", (root / "text" / "*.txt",), {}),
        "jsonl": ("jsonl", (root / "jsonl",), {"field": "body"}),
        "parquet": ("parquet", (root / "parquet",), {"field": "body"}),
        "raw": ("array_record", (root / "raw" / "a.array_record",), {}),
        "records": ("array_record", (root / "records",), {"field": "body"}),
        "tfds": ("tfds", ("little:1.0.0", root / "tfds"), {}),
        "tfds folder": ("tfds", (root / "tfds" / "little" / "1.0.0",), {}),
    }


NAMES = ("text", "glob", "jsonl", "parquet", "raw", "records", "tfds", "tfds folder")


@pytest.mark.parametrize("name", NAMES)
def test_every_document_is_on_exactly_one_side(corpora, name):
    kind, path, fields = corpora[name]
    division = opened(kind, *path, **fields)
    assert contents(division) == sorted(TEXTS)
    assert 1 <= len(division.heldout) < len(division.train)


def test_the_format_of_a_document_does_not_change_its_side(corpora):
    sides = []
    for name in NAMES:
        kind, path, fields = corpora[name]
        heldout = opened(kind, *path, **fields).heldout
        sides.append({heldout[i] for i in range(len(heldout))})
    assert sides[0] and all(side == sides[0] for side in sides)


def test_copies_of_a_document_stay_together_and_blank_ones_are_left_out():
    division = divide(TEXTS * 3 + ["", " \n"], 0.3, "copies")
    train, heldout = ({side[i] for i in range(len(side))} for side in (division.train, division.heldout))
    assert not train & heldout and len(division.train) + len(division.heldout) == 180


def test_at_least_one_document_is_held_out_and_one_trained_on():
    assert len(divide(TEXTS, 1e-9, "x").heldout) == 1
    assert len(divide(TEXTS, 1.0, "x").train) == 1
    assert len(divide(TEXTS, 0.0, "x").heldout) == 0


def test_a_corpus_too_small_to_hold_any_out_is_refused(tmp_path):
    (tmp_path / "one.txt").write_text("a single short document")
    with pytest.raises(DataError, match="1 distinct documents are too few.*data.heldout_fraction"):
        opened("text", tmp_path / "one.txt")


def test_a_large_text_file_is_divided_at_blank_lines(tmp_path):
    paragraphs = [f"Paragraph {i}. " + "word " * 60 for i in range(100)]
    path = tmp_path / "large.txt"
    path.write_text("\n\n".join(paragraphs) + "\n")
    documents = contents(opened("text", path))
    assert len(documents) > 10 and all(2000 < len(text) < 4000 for text in documents if "Paragraph 99" not in text)
    assert sorted(p for text in documents for p in text.split("\n\n")) == sorted(paragraphs)


def test_a_large_text_file_without_blank_lines_is_divided_at_lines(tmp_path):
    path = tmp_path / "lines.txt"
    path.write_text("".join(f"line {i} of many\n" for i in range(5000)))
    documents = contents(opened("text", path))
    assert len(documents) > 3 and sorted(line for text in documents for line in text.split("\n")) == sorted(
        f"line {i} of many" for i in range(5000)
    )


def refused(tmp_path, kind, name, content, match, **fields):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=match):
        opened(kind, path, **fields)


@pytest.mark.parametrize("kind", ["text", "jsonl", "parquet", "array_record"])
def test_missing_empty_and_foreign_files_are_refused_by_name(tmp_path, kind):
    with pytest.raises(DataError, match="data.sources.path: '.*gone' names no file"):
        opened(kind, tmp_path / "gone")
    with pytest.raises(DataError, match="folder '.*' holds no .* file"):
        opened(kind, tmp_path)
    refused(tmp_path, kind, "empty.x", b"", "empty.x is empty")
    refused(tmp_path, kind, "binary.x", b"\x00\x80\xff" * 40_000, "binary.x")


def test_text_that_is_not_utf8_is_refused_with_its_line(tmp_path):
    refused(tmp_path, "text", "latin.txt", b"fine\ncaf\xe9\n", "latin.txt, line 2 is not UTF-8 text: byte 3 is 0xe9")
    refused(tmp_path, "text", "zero.txt", b"a\x00b", "zero.txt, line 1 is not text: it has a zero byte")


def test_broken_jsonl_is_refused_with_its_line(tmp_path):
    good = b'{"text": "a"}\n'
    refused(tmp_path, "jsonl", "a.jsonl", good + b"{nothing\n", "a.jsonl, line 2 is not JSON")
    refused(tmp_path, "jsonl", "a.jsonl", good + b"[1]\n", "a.jsonl, line 2 is not a JSON object but list")
    refused(
        tmp_path, "jsonl", "a.jsonl", good, "line 1 has no field data.sources.field='body'; it has: text", field="body"
    )
    refused(tmp_path, "jsonl", "a.jsonl", b'{"text": 5}', "data.sources.field='text' must be text, got int")


def test_parquet_columns_are_checked(tmp_path):
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a", None, "b"], "number": [1, 2, 3]}), path)
    with pytest.raises(DataError, match="no column data.sources.field='body'; it has: text, number"):
        opened("parquet", path, field="body")
    with pytest.raises(DataError, match="data.sources.field='number' must be a text column, got int64"):
        opened("parquet", path, field="number")
    with pytest.raises(DataError, match="a.parquet, row group 0, row 1: .* is null"):
        opened("parquet", path)


def test_records_are_checked(tmp_path):
    path = tmp_path / "a.array_record"
    write_array_record(path, [b'{"text": "a"}', b"plain"])
    with pytest.raises(DataError, match="record 1 of .*a.array_record is not a JSON object"):
        opened("array_record", path)
    with pytest.raises(DataError, match="no field data.sources.field='body'"):
        opened("array_record", path, field="body")


def test_tfds_names_splits_and_features_are_checked(corpora, tmp_path):
    _, path, _ = corpora["tfds"]
    with pytest.raises(DataError, match="no feature data.sources.field='body'; it has: label, text"):
        opened("tfds", *path, field="body")
    with pytest.raises(DataError, match="no split data.sources.split='test'; it has: train"):
        opened("tfds", *path, split="test")
    with pytest.raises(DataError, match="data.sources.field='label' must be text, got int"):
        opened("tfds", *path, field="label")
    with pytest.raises(DataError, match="tfds dataset 'nosuch' is not prepared under"):
        opened("tfds", "nosuch", tmp_path)


def test_a_tfds_dataset_is_known_by_its_files_wherever_they_are(corpora, tmp_path):
    def of(folder):
        source = SourceConfig(kind="tfds", path=(str(folder),))
        return fingerprint(RunConfig(data=DataConfig(sources=(source,))))

    before = corpora["tfds folder"][1][0]
    folder = shutil.copytree(before, tmp_path / "little" / "1.0.0")
    assert of(folder) == of(before)
    [shard] = folder.glob("*array_record-*")
    shard.write_bytes(shard.read_bytes()[:-1] + b"\xff")
    assert of(folder) != of(before)


def test_tfds_without_random_access_says_how_it_is_stored_and_what_to_do(corpora, tmp_path):
    folder = shutil.copytree(corpora["tfds folder"][1][0], tmp_path / "little" / "1.0.0")
    info = folder / "dataset_info.json"
    stored = info.read_text().replace('"array_record"', '"tfrecord"')
    assert stored != info.read_text()
    info.write_text(stored)
    with pytest.raises(DataError, match="is stored as tfrecord, without random access: prepare it with file_format="):
        opened("tfds", folder)


def test_a_prepared_source_has_no_documents(tmp_path):
    with pytest.raises(DataError, match="holds packed tokens"):
        opened("prepared", tmp_path)


def test_generators_give_the_documents_that_are_asked_for():
    data = dataclasses.replace(DataConfig(), generated_documents=30, heldout_documents=5)
    division = open_source(data, SourceConfig())
    assert (len(division.train), len(division.heldout)) == (30, 5)
    assert len(set(contents(division))) == 35


@pytest.mark.slow
def test_pydocs_are_english_documents_that_share_no_paragraph():
    documents = pydocs.documents()
    paragraphs = [paragraph for document in documents for paragraph in document.split("\n\n")]
    assert len(documents) > 200 and sum(map(len, documents)) > 500_000
    assert len(paragraphs) == len(set(paragraphs))
    assert not any(mark in paragraph for paragraph in paragraphs for mark in (">>>", "::=", "\n"))
    assert sum(" the " in paragraph.lower() for paragraph in paragraphs) > 0.5 * len(paragraphs)
