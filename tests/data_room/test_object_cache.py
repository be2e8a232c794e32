"""Files of buckets on the local disk: fetched once, anew when they change, within their budget."""

import pytest

from cola_jax import storage
from cola_jax.data import files
from cola_jax.data.errors import DataError
from cola_jax.data.object_cache import ObjectCache


def kept(folder):
    return sorted(path.name for path in folder.glob("*/*"))


def test_a_file_is_fetched_once_and_anew_when_it_changes(bucket, tmp_path, monkeypatch):
    cache, fetched, real = ObjectCache(tmp_path, 100), [], storage.download
    monkeypatch.setattr(storage, "download", lambda place, target: (fetched.append(place.name), real(place, target)))
    storage.write_bytes(bucket / "a", b"1" * 40)
    assert cache.get(bucket / "a").read_bytes() == cache.get(bucket / "a").read_bytes() == b"1" * 40
    assert fetched == ["a"]
    storage.write_bytes(bucket / "a", b"2" * 40)
    assert cache.get(bucket / "a").read_bytes() == b"2" * 40 and fetched == ["a", "a"]


def test_the_least_recently_used_file_makes_room(bucket, tmp_path):
    cache = ObjectCache(tmp_path, 100)
    for name in "ab":
        storage.write_bytes(bucket / name, name.encode() * 40)
        cache.get(bucket / name)
    cache.get(bucket / "a")
    storage.write_bytes(bucket / "c", b"c" * 40)
    assert cache.get(bucket / "c").read_bytes() == b"c" * 40 and kept(tmp_path) == ["a", "c"]
    storage.write_bytes(bucket / "d", b"d" * 101)
    with pytest.raises(DataError, match="more than data.cache_gib"):
        cache.get(bucket / "d")
    with pytest.raises(DataError, match="does not exist"):
        cache.get(bucket / "none")


def test_files_that_do_not_fit_together_are_refused_before_any_is_fetched(bucket, tmp_path):
    for name in ("a.txt", "b.txt"):
        storage.write_bytes(bucket / "text" / name, name.encode() * 10)
    with pytest.raises(DataError, match="more than data.cache_gib"):
        files.find("text", [str(bucket / "text")], ObjectCache(tmp_path, 60))
    assert kept(tmp_path) == []
    found = files.find("text", [str(bucket / "text"), str(bucket / "text" / "*.txt")], ObjectCache(tmp_path, 200))
    assert found.relative == ["a.txt", "b.txt"], "each once"
