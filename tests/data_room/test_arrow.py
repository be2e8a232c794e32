"""Text columns of every Arrow type, in Parquet, in Arrow files and in folders as Hugging Face datasets saves them."""

import json

import pyarrow
import pyarrow.parquet
import pytest

from cola_jax.config.fields import DataConfig, SourceConfig
from cola_jax.data.errors import DataError
from cola_jax.data.sources import open_source

TEXTS = [f"document {i} é" for i in range(30)]
TYPES = {
    "string": pyarrow.string(),
    "large_string": pyarrow.large_string(),
    "string_view": pyarrow.string_view(),
    "dictionary": pyarrow.dictionary(pyarrow.int32(), pyarrow.string()),
}


def opened(kind, *path, **fields):
    return open_source(DataConfig(heldout_fraction=0.1), SourceConfig(kind=kind, path=tuple(map(str, path)), **fields))


def contents(division):
    return sorted(side[i] for side in (division.train, division.heldout) for i in range(len(side)))


def write_arrow(path, texts, kind=None, stream=True, options=None, finish=True):
    table = pyarrow.table({"text": pyarrow.array(texts, kind), "number": list(range(len(texts)))})
    new = pyarrow.ipc.new_stream if stream else pyarrow.ipc.new_file
    with pyarrow.OSFile(str(path), "wb") as sink:
        writer = new(sink, table.schema, options=options)
        for start in range(0, len(texts), 7):
            writer.write_table(table.slice(start, 7))
        if finish:
            writer.close()
    return path


def save_to_disk(folder, texts, shards=2, **state):
    """Writes what Dataset.save_to_disk writes."""
    folder.mkdir(parents=True)
    names = [f"data-{k:05d}-of-{shards:05d}.arrow" for k in range(shards)]
    for k, name in enumerate(names):
        write_arrow(folder / name, texts[k::shards])
    listed = {"_data_files": [{"filename": name} for name in names], "_split": "train"} | state
    (folder / "state.json").write_text(json.dumps(listed))
    (folder / "dataset_info.json").write_text("{}")
    return folder


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("kind", ["parquet", "stream", "file"])
def test_every_kind_of_text_column_is_read(tmp_path, kind, name):
    if kind == "parquet":
        table = pyarrow.table({"text": pyarrow.array(TEXTS, TYPES[name])})
        try:
            pyarrow.parquet.write_table(table, tmp_path / "a.parquet", row_group_size=7)
        except pyarrow.ArrowNotImplementedError:
            pytest.skip(f"pyarrow {pyarrow.__version__} does not write {name} into Parquet")
    else:
        write_arrow(tmp_path / "a.arrow", TEXTS, TYPES[name], stream=kind == "stream")
    division = opened("parquet" if kind == "parquet" else "arrow", tmp_path)
    assert contents(division) == sorted(TEXTS) and division.notes == ()


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_compressed_buffers_are_read(tmp_path, codec):
    write_arrow(tmp_path / "a.arrow", TEXTS, options=pyarrow.ipc.IpcWriteOptions(compression=codec))
    assert contents(opened("arrow", tmp_path / "a.arrow")) == sorted(TEXTS)


def test_a_saved_dataset_gives_its_own_files_and_no_caches(tmp_path):
    folder = save_to_disk(tmp_path / "saved", TEXTS)
    write_arrow(folder / "cache-0123.arrow", ["a cache"])
    division = opened("arrow", folder)
    assert contents(division) == sorted(TEXTS) and division.notes == ()
    assert contents(opened("arrow", tmp_path)) == sorted(TEXTS), "nor as a folder of saved datasets"


def test_a_saved_dataset_of_several_splits_gives_the_one_that_is_named(tmp_path):
    save_to_disk(tmp_path / "saved" / "train", TEXTS[:20])
    save_to_disk(tmp_path / "saved" / "test", TEXTS[20:])
    (tmp_path / "saved" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert contents(opened("arrow", tmp_path / "saved")) == sorted(TEXTS[:20])
    assert contents(opened("arrow", tmp_path / "saved", split="test")) == sorted(TEXTS[20:])
    with pytest.raises(DataError, match="no split data.sources.split='dev'; it has: train, test"):
        opened("arrow", tmp_path / "saved", split="dev")
    with pytest.raises(DataError, match="data.sources.split='test': .* holds no splits"):
        opened("arrow", tmp_path / "saved" / "test", split="test")


def test_a_saved_dataset_that_is_not_whole_is_named(tmp_path):
    folder = save_to_disk(tmp_path / "saved", TEXTS)
    (folder / "data-00001-of-00002.arrow").unlink()
    with pytest.raises(DataError, match="data-00001-of-00002.arrow is missing, though .*state.json lists it"):
        opened("arrow", folder)
    (folder / "state.json").write_text("{}")
    with pytest.raises(DataError, match="state.json lists no _data_files"):
        opened("arrow", folder)
    folder = save_to_disk(tmp_path / "chosen", TEXTS, _indices_data_files=[{"filename": "indices.arrow"}])
    with pytest.raises(DataError, match="rows are in another order.*flatten_indices"):
        opened("arrow", folder)


def test_cut_foreign_and_empty_arrow_files_are_named(tmp_path):
    whole = write_arrow(tmp_path / "whole.arrow", TEXTS, stream=False).read_bytes()
    for raw in (whole[: len(whole) // 2], whole[: len(whole) - 20], b"no arrow file at all"):
        (tmp_path / "bad.arrow").write_bytes(raw)
        with pytest.raises(DataError, match="bad.arrow is not a complete Arrow file"):
            opened("arrow", tmp_path / "bad.arrow")
    stream = write_arrow(tmp_path / "stream.arrow", TEXTS).read_bytes()
    (tmp_path / "bad.arrow").write_bytes(stream[: len(stream) // 2])
    with pytest.raises(DataError, match="bad.arrow is not a complete Arrow file"):
        opened("arrow", tmp_path / "bad.arrow")
    with pytest.raises(DataError, match="no column data.sources.field='body'; it has: text, number"):
        opened("arrow", tmp_path / "whole.arrow", field="body")
    with pytest.raises(DataError, match="'number' must be a text column, got int64"):
        opened("arrow", tmp_path / "whole.arrow", field="number")


def test_offsets_that_point_outside_the_text_are_named(tmp_path):
    path = write_arrow(tmp_path / "a.arrow", ["aaaaa", "bbbbb"])
    offsets = b"".join(place.to_bytes(4, "little") for place in (0, 5, 10))
    raw = path.read_bytes()
    assert raw.count(offsets) == 1
    path.write_bytes(raw.replace(offsets, offsets[:8] + (10_000_000).to_bytes(4, "little")))
    with pytest.raises(DataError, match="a.arrow is not a complete Arrow file"):
        opened("arrow", path)


def test_a_stream_without_the_mark_at_its_end_is_told_of(tmp_path):
    write_arrow(tmp_path / "a.arrow", TEXTS, finish=False)
    division = opened("arrow", tmp_path / "a.arrow")
    assert contents(division) == sorted(TEXTS)
    assert division.notes == (f"{tmp_path / 'a.arrow'} has no end marker: it may be truncated",)
