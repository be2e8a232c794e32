"""Records that cannot be read: refused with file and line, or skipped and counted by reason."""

import json
import os

import pyarrow
import pyarrow.parquet
import pytest
from array_record.python.array_record_module import ArrayRecordWriter

from cola_jax.config.fields import DataConfig, SourceConfig
from cola_jax.data.errors import BadRecord, DataError
from cola_jax.data.sources import open_source

GOOD = [f"document {i}" for i in range(12)]
BAD_LINES = {
    "not JSON": b"{nothing",
    "not a JSON object": b"[1]",
    "no such field": b'{"body": "x"}',
    "null": b'{"text": null}',
    "not text": b'{"text": 5}',
    "not UTF-8": b'{"text": "caf\xe9"}',
    "not valid Unicode": b'{"text": "half \\ud83d"}',
    "zero byte": b'{"text": "a\x00b"}',
}


def opened(kind, path, on_bad_record="refuse", **fields):
    data = DataConfig(heldout_fraction=0.1, on_bad_record=on_bad_record)
    return open_source(data, SourceConfig(kind=kind, path=(str(path),), **fields))


def contents(division):
    return [side[i] for side in (division.train, division.heldout) for i in range(len(side))]


def array_records(path, records):
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()
    return path


def lines(*bad):
    good = [json.dumps({"text": text}).encode() for text in GOOD]
    return good[:5] + list(bad) + good[5:]


@pytest.mark.parametrize("reason", BAD_LINES)
def test_a_bad_line_is_refused_by_name_or_counted(tmp_path, reason):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join(lines(BAD_LINES[reason])))
    with pytest.raises(BadRecord, match="a.jsonl, line 6"):
        opened("jsonl", path)
    division = opened("jsonl", path, "skip")
    assert sorted(contents(division)) == sorted(GOOD) and division.skipped == {reason: 1}


def test_numbers_of_thousands_of_digits_and_deep_nesting_are_not_json(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join(lines(b'{"text": "x", "n": ' + b"9" * 5000 + b"}", b"[" * 100_000)))
    assert opened("jsonl", path, "skip").skipped == {"not JSON": 2}


def test_half_a_character_in_a_field_that_is_not_read_does_no_harm(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join(lines(b'{"text": "fine", "title": "\\ud83d", "emoji": "\\ud83d\\ude00"}')))
    assert "fine" in contents(opened("jsonl", path))


def test_a_bom_at_the_start_of_any_line_is_left_out(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join(b"\xef\xbb\xbf" + line for line in lines()))
    assert sorted(contents(opened("jsonl", path))) == sorted(GOOD)
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\n\xef\xbb\xbftwo\n")
    (tmp_path / "b.txt").write_bytes(b"three")
    assert sorted(contents(opened("text", tmp_path))) == ["one\ntwo", "three"]


def test_skipping_does_not_change_the_order_or_the_side_of_the_others(tmp_path):
    (tmp_path / "good.jsonl").write_bytes(b"\n".join(lines()))
    (tmp_path / "bad.jsonl").write_bytes(b"\n".join(lines(*BAD_LINES.values())))
    one, other = opened("jsonl", tmp_path / "good.jsonl"), opened("jsonl", tmp_path / "bad.jsonl", "skip")
    assert contents(one) == contents(other) and len(one.heldout) == len(other.heldout)
    assert other.skipped == dict.fromkeys(BAD_LINES, 1)


def test_a_text_file_that_is_not_text_is_refused_with_its_line_or_counted(tmp_path):
    for i, text in enumerate(GOOD):
        (tmp_path / f"{i}.txt").write_text(text)
    (tmp_path / "latin.txt").write_bytes(b"fine\ncaf\xe9\n")
    with pytest.raises(BadRecord, match="latin.txt, line 2 is not UTF-8"):
        opened("text", tmp_path)
    (tmp_path / "wide.txt").write_bytes("text".encode("utf-16"))
    division = opened("text", tmp_path, "skip")
    assert sorted(contents(division)) == sorted(GOOD) and division.skipped == {"not UTF-8": 1, "zero byte": 1}


def test_only_the_document_with_the_bad_line_of_a_large_file_is_skipped(tmp_path):
    paragraphs = [f"Paragraph {i}. " + "word " * 600 for i in range(10)]
    raw = "\n\n".join(paragraphs).encode().replace(b"Paragraph 4.", b"Paragraph \xe9.")
    (tmp_path / "large.txt").write_bytes(raw)
    division = opened("text", tmp_path / "large.txt", "skip")
    assert division.skipped == {"not UTF-8": 1}
    assert sorted(contents(division)) == sorted(p for i, p in enumerate(paragraphs) if i != 4)


def test_records_are_refused_by_file_and_number_or_counted(tmp_path):
    array_records(tmp_path / "a.array_record", lines()[:5])
    array_records(tmp_path / "b.array_record", [lines()[5], *BAD_LINES.values(), *lines()[6:]])
    with pytest.raises(BadRecord, match="record 1 of .*b.array_record"):
        opened("array_record", tmp_path)
    division = opened("array_record", tmp_path, "skip")
    assert sorted(contents(division)) == sorted(GOOD)
    # What is not JSON is no object either: both have one reason here.
    assert division.skipped == dict.fromkeys(BAD_LINES.keys() - {"not JSON"}, 1) | {"not a JSON object": 2}


def test_a_bom_and_a_bad_first_record_do_not_hide_that_records_are_json(tmp_path):
    path = array_records(tmp_path / "a.array_record", [b"\xff\xfe", *(b"\xef\xbb\xbf" + line for line in lines())])
    assert sorted(contents(opened("array_record", path, "skip"))) == sorted(GOOD)
    path = array_records(tmp_path / "b.array_record", [b"\xef\xbb\xbf" + text.encode() for text in GOOD])
    assert sorted(contents(opened("array_record", path))) == sorted(GOOD)


def test_a_null_row_is_refused_or_counted(tmp_path):
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": [*GOOD[:7], None, *GOOD[7:]]}), path, row_group_size=5)
    with pytest.raises(BadRecord, match="a.parquet, row group 1, row 2: .* is null"):
        opened("parquet", path)
    division = opened("parquet", path, "skip")
    assert sorted(contents(division)) == sorted(GOOD) and division.skipped == {"null": 1}


def test_a_row_that_is_not_utf8_is_refused_or_counted(tmp_path):
    raw = pyarrow.array([*(text.encode() for text in GOOD), b"caf\xe9"], pyarrow.binary())
    table = pyarrow.table({"text": pyarrow.Array.from_buffers(pyarrow.string(), 13, raw.buffers())})
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(table, path)
    with pytest.raises(BadRecord, match="a.parquet, row group 0, row 12 is not UTF-8"):
        opened("parquet", path)
    assert opened("parquet", path, "skip").skipped == {"not UTF-8": 1}


def test_records_that_are_all_bad_say_what_was_skipped(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join(BAD_LINES.values()))
    with pytest.raises(DataError, match="0 distinct documents are too few.*skipped: 1 "):
        opened("jsonl", path, "skip")


@pytest.mark.parametrize("on_bad_record", ["refuse", "skip"])
def test_a_cut_or_damaged_file_is_refused_by_name_always(tmp_path, on_bad_record):
    pyarrow.parquet.write_table(
        pyarrow.table({"text": [os.urandom(99).hex() for _ in range(99)]}), tmp_path / "a.parquet"
    )
    array_records(tmp_path / "a.array_record", [text.encode() * 500 for text in GOOD * 9])
    for kind, problem in (
        ("parquet", "a.parquet is not a complete Parquet"),
        ("array_record", "a.array_record is not a complete"),
    ):
        path = tmp_path / f"a.{kind}"
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(DataError, match=problem):
            opened(kind, path, on_bad_record)
    path = array_records(tmp_path / "b.array_record", [os.urandom(500).hex().encode() for _ in range(60)])
    damaged = bytearray(path.read_bytes())
    damaged[20_000:20_020] = os.urandom(20)
    path.write_bytes(damaged)
    with pytest.raises(DataError, match=r"record \d+ of .*b.array_record cannot be read: the file is damaged"):
        opened("array_record", path, on_bad_record)
