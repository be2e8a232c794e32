"""Prompts as people have them: lines, records, pipes, compressed files; all are checked before the first is continued."""

import bz2
import gzip
import io
import json
import os
import threading

import pytest
import tiny

from cola_jax.data.errors import DataError
from cola_jax.data.tokenizers import BytesTokenizer
from cola_jax.evaluate import prompts
from cola_jax.generate.prompts import PromptError
from cola_jax.runs.writer import Writer
from cola_jax.storage import StorageError


def texts(path):
    return [prompt.text for prompt in prompts.read(path)]


def saved(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("a.txt", "One fox.\n\n  two crows \r\n", ["One fox.", "  two crows "]),
        ("a.txt", "page one\fstill the same line\nsecond\x1dline\u2028too\x85\n", ["page one\fstill the same line",
                                                                                 "second\x1dline\u2028too\x85"]),
        ("a.txt", "\ufeffOne fox.", ["One fox."]),
        ("a.txt", '{"prompt": "a"}\n', ["a"]),
        ("a.txt", '{"text": "a"}\n', ['{"text": "a"}']),
        ("a.txt", "{ is a brace\n", ["{ is a brace"]),
        ("a.jsonl", '\ufeff{"prompt": "two\u2028crows"}\n', ["two\u2028crows"]),
        ("a.JSONL", '{"prompt": "a"}', ["a"]), ("a.ndjson", '{"prompt": "a"}', ["a"]), ("a.json", '{"prompt": "a"}', ["a"]),
        ("a.jsonl.gz", gzip.compress(b'{"prompt": "a"}\n', mtime=0), ["a"]), ("a.txt", bz2.compress(b"a\nb"), ["a", "b"]),
    ],
)  # fmt: skip
def test_prompts_are_read(tmp_path, name, content, found):
    assert texts(saved(tmp_path / name, content)) == found


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        (
            "a.jsonl",
            '{"prompt": "a"}\n\n\n\n{"prompt": 5}\n',
            "a.jsonl, line 5: a record needs a field prompt with text",
        ),
        ("a.ndjson", '{"text": "a"}\n', "a.ndjson, line 1: a record needs a field prompt"),
        ("a.txt", '{"prompt": "a"}\nplain\n', "a.txt, line 2 is not JSON"),
        ("a.jsonl", '{"prompt": "ok"}\n{"prompt": "bad \\ud83d"}\n', "a.jsonl, line 2 is not valid Unicode"),
        ("a.txt", b"ok\n\xff\n", "a.txt, line 2 is not UTF-8 text"),
        ("a.txt", "\n \n", "holds no prompts"),
        ("a.txt", gzip.compress(b"prompt" * 999, mtime=0)[:40], "cannot be read to its end"),
    ],
)
def test_what_is_no_prompt_is_named_by_file_and_true_line(tmp_path, name, content, part):
    with pytest.raises((DataError, StorageError)) as error:
        texts(saved(tmp_path / name, content))
    assert part in str(error.value)


def test_prompts_come_through_a_pipe_and_from_stdin(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    thread = threading.Thread(target=(tmp_path / "pipe").write_text, args=("a\nb\n",))
    thread.start()
    assert texts(tmp_path / "pipe") == ["a", "b"]
    thread.join()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(b'{"prompt": "c"}\n'))))
    assert texts("-") == ["c"]


def test_paths_that_are_no_files_are_refused(tmp_path):
    for path, part in (
        (tmp_path, "is a folder"),
        (tmp_path / "none", "no such file"),
        ("hdfs://b/p", "--prompts hdfs://b/p"),
    ):
        with pytest.raises((DataError, StorageError)) as error:
            prompts.read(path)
        assert part in str(error.value)


def test_a_prompt_that_cannot_be_continued_is_found_before_the_first_is(tmp_path):
    cfg = tiny.config(family="ar", backbone__vocab_size=258, tokenizer__kind="bytes")
    writer = Writer(cfg, None, BytesTokenizer())  # no parameters: nothing could be written
    records = [{"prompt": "x"}] * 17 + [{"prompt": ""}] + [{"prompt": "y"}]
    path = saved(tmp_path / "many.jsonl", "".join(json.dumps(record) + "\n" for record in records))
    with pytest.raises(PromptError, match=r"prompt 17 is empty: .*many.jsonl, line 18"):
        prompts.encode(writer, prompts.read(path))
    assert prompts.encode(writer, prompts.read(path)[:2]) == [[120], [120]]
    with pytest.raises(StorageError, match="prompt 3 is not valid Unicode"):
        writer.encode(3, "\udcff")
