"""ArrayRecord files by ranges of bytes give the records that the library wrote."""

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter

from cola_jax.data.array_record_ranges import RangeError, RecordRanges


def written(path, records, options):
    writer = ArrayRecordWriter(str(path), options)
    for record in records:
        writer.write(record)
    writer.close()
    return path.read_bytes()


def ranges(data):
    asked = []

    def read(start, length):
        asked.append((start, length))
        return data[start : start + length]

    return RecordRanges(read, len(data)), asked


RNG = np.random.default_rng(0)
RECORDS = {
    "many": [RNG.bytes(int(n)) for n in RNG.integers(1, 3000, 2000)],
    "large": [RNG.bytes(200_000) for _ in range(20)],
    "alike": [b"ab" * 50] * 20_000,
    "one": [b"x"],
    "empty ones": [b"", b"x", b""],
}


@pytest.mark.parametrize("options", ["group_size:1,zstd", "group_size:1,uncompressed"])
@pytest.mark.parametrize("name", RECORDS)
def test_every_record_is_that_of_the_library(name, options, tmp_path):
    records = RECORDS[name]
    found, asked = ranges(written(tmp_path / "a.array_record", records, options))
    opened = len(asked)
    assert len(found) == len(records) and opened == 2
    for index in RNG.integers(0, len(records), 50):
        assert found[int(index)] == records[index]
    assert len(asked) == opened + 50, "one range per record"


def test_what_is_not_such_a_file_or_damaged_is_an_error(tmp_path):
    data = written(tmp_path / "a.array_record", RECORDS["many"], "group_size:1,zstd")
    for wrong in (b"", b"x" * 10, data[:-1], data[:-65536], data[:65536] + b"\0" * 65536, b"\xff" * len(data)):
        with pytest.raises(RangeError):
            ranges(wrong)
    with pytest.raises(RangeError, match="group_size:1"):
        ranges(written(tmp_path / "b.array_record", RECORDS["many"], "group_size:16,zstd"))
    with pytest.raises(RangeError, match="compression 'b'"):
        ranges(written(tmp_path / "c.array_record", RECORDS["many"], "group_size:1,brotli"))[0][0]
    found, asked = ranges(data)
    assert found[7] == RECORDS["many"][7]
    start, length = asked[-1]
    for damage in (b"\0" * length, data[start : start + 50] + b"\xff" * (length - 50)):
        found, _ = ranges(data[:start] + damage + data[start + length :])
        assert found[6] == RECORDS["many"][6] and found[8] == RECORDS["many"][8]
        with pytest.raises(RangeError, match="damaged"):
            found[7]
