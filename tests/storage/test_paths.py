"""Files on a local disk, gs:// and s3:// behave alike."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cola_jax import storage
from cola_jax.storage import StorageError


def test_a_user_names_paths_of_a_disk_and_of_object_stores(monkeypatch):
    monkeypatch.setenv("HOME", "/home/anna")
    assert storage.path("~/runs") == Path("/home/anna/runs")
    assert str(storage.path("gs://bkt/runs/")) == "gs://bkt/runs" and storage.is_remote(storage.path("s3://bkt/a"))
    assert str(storage.path("gs://bkt/a") / "b") == "gs://bkt/a/b" and storage.path("gs://bkt/a").name == "a"
    for wrong, message in (
        ("hdfs://x/y", "hdfs:// is not supported"),
        ("gs://", "names no bucket"),
        ("s3:///a", "names no bucket"),
    ):
        with pytest.raises(StorageError, match=message):
            storage.path(wrong, "--workdir")
    with pytest.raises(StorageError, match="config file gs://b/c.py: .* local disk"):
        storage.local("gs://b/c.py", "config file")


def test_a_scheme_without_its_package_names_the_extra(monkeypatch):
    real = storage.paths.importlib.util.find_spec
    monkeypatch.setattr(
        storage.paths.importlib.util, "find_spec", lambda name: None if name in ("gcsfs", "s3fs") else real(name)
    )
    for scheme, package in (("gs", "gcsfs"), ("s3", "s3fs")):
        with pytest.raises(StorageError, match=rf"--workdir .*needs the package {package}: .*cola_jax\[{scheme}\]"):
            storage.path(f"{scheme}://bkt/x", "--workdir")


def test_errors_of_the_clients_of_stores_are_known():
    import botocore.exceptions
    import gcsfs.retry
    import google.auth.exceptions

    for error in (
        botocore.exceptions.NoCredentialsError(),
        gcsfs.retry.HttpError({}),
        google.auth.exceptions.GoogleAuthError(),
    ):
        assert storage.is_store_error(error)
    from google.protobuf.message import DecodeError

    assert not storage.is_store_error(ValueError()) and not storage.is_store_error(DecodeError())


def test_what_is_written_is_read_listed_and_removed(place):
    storage.make_folder(place / "a")
    assert storage.names_in(place / "a") == [] and storage.names_in(place / "none") == []
    storage.write_bytes(place / "a" / "x", b"0123456789")
    storage.write_bytes(place / "a" / "x", b"9876543210")
    storage.write_json(place / "a" / "b.json", {"c": "d"})
    assert storage.read_bytes(place / "a" / "x") == b"9876543210" and storage.read_json(place / "a" / "b.json") == {
        "c": "d"
    }
    assert storage.size_of(place / "a" / "x") == 10 and (place / "a").is_dir() and (place / "a" / "x").is_file()
    assert storage.names_in(place / "a") == ["b.json", "x"] and storage.names_in(place) == ["a"]
    with storage.open_binary(place / "a" / "x") as file:
        file.seek(3)
        assert file.read(2) == b"65"
    storage.remove(place / "a" / "x")
    storage.remove(place / "a" / "x")
    assert storage.names_in(place / "a") == ["b.json"]
    storage.remove_tree(place / "a", first="b.json")
    storage.remove_tree(place / "a", first="b.json")
    assert not (place / "a").exists()
    with pytest.raises(StorageError, match=f"{place}/a/x: "):
        storage.read_bytes(place / "a" / "x")


def test_what_another_process_writes_is_seen_at_once(place):
    storage.make_folder(place / "a")
    storage.write_bytes(place / "a" / "first", b"1")
    assert storage.names_in(place / "a") == ["first"] and not (place / "a" / "second").exists()
    code = "import sys; from cola_jax import storage; storage.write_bytes(storage.path(sys.argv[1]), b'2')"
    subprocess.run([sys.executable, "-c", code, str(place / "a" / "second")], check=True)
    assert storage.names_in(place / "a") == ["first", "second"] and (place / "a" / "second").exists()


def test_of_several_that_create_a_file_one_does(place):
    storage.make_folder(place)
    for number in range(3):
        found, gate = [], threading.Barrier(6)

        def go(k, number=number, found=found, gate=gate):
            gate.wait()
            found.append((storage.create(place / f"claim{number}", b"%d" % k), k))

        threads = [threading.Thread(target=go, args=(k,)) for k in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        [winner] = [k for won, k in found if won]
        assert len(found) == 6 and storage.read_bytes(place / f"claim{number}") == b"%d" % winner
    assert not storage.create(place / "claim0", b"")


def test_a_folder_is_copied_there_and_back(bucket, tmp_path):
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "a").write_bytes(b"1")
    (source / "sub" / "b").write_bytes(b"2")
    storage.upload(source, bucket / "copy", last="a")
    with storage.local_copy(bucket / "copy") as copy:
        assert (copy / "a").read_bytes() == b"1" and (copy / "sub" / "b").read_bytes() == b"2"
    assert not copy.exists()
    with storage.local_copy(bucket / "copy" / "a") as copy:
        assert copy.read_bytes() == b"1" and copy.name == "a"
    with pytest.raises(StorageError, match="does not exist"), storage.local_copy(bucket / "none"):
        pass
