"""Which saves of a run are found: whole ones, of the attempts that held the claim."""

import json
import shutil

import pytest

from cola_jax import storage
from cola_jax.train import saves


def put(directory, step, attempt, whole=True):
    """What Orbax leaves of a save."""
    path = saves.path_of(directory, step, attempt)
    storage.make_folder(path / "meta")
    storage.write_json(path / "meta" / "metadata", {"attempt": attempt})
    if whole and storage.is_remote(directory):
        storage.write_bytes(path / saves.COMMIT, b"done")
    if not whole and not storage.is_remote(directory):
        path.rename(path.with_name(f"{path.name}.orbax-checkpoint-tmp"))
    return path


def found(directory):
    return list(saves.saves_in(directory))


@pytest.fixture
def directory(place):
    return place / "checkpoints"


def test_an_unfinished_save_is_not_found_and_is_cleared(directory):
    put(directory, 2, 1)
    put(directory, 10, 1)
    put(directory, 12, 1, whole=False)
    assert found(directory) == [2, 10]
    saves.clear(directory)
    assert found(directory) == [2, 10] and len(storage.names_in(directory)) == 2


def test_what_a_stale_attempt_commits_is_never_found(directory):
    put(directory, 2, 1)
    saves.inherit(directory, 2)
    put(directory, 4, 1)  # attempt 1 did not notice that it had lost its claim
    assert found(directory) == [2]
    own = put(directory, 3, 2)
    assert found(directory) == [2, 3]
    saves.inherit(directory, 3)
    put(directory, 6, 2)
    put(directory, 5, 3)
    assert found(directory) == [2, 3, 5] and saves.saves_in(directory)[3] == own
    saves.clear(directory)
    assert len(storage.names_in(directory)) == 3
    records = [name for name in storage.names_in(directory.parent / "attempts") if "saves" in name]
    assert records == ["0003.saves.json"]


def test_two_attempts_never_write_the_same_objects(bucket):
    directory = bucket / "checkpoints"
    assert saves.path_of(directory, 4, 1) != saves.path_of(directory, 4, 2)
    put(directory, 4, 1)
    saves.inherit(directory, 2)
    saves.set_aside(saves.path_of(directory, 4, 1), "damaged")
    assert found(directory) == []
    put(directory, 4, 2)
    assert saves.saves_in(directory)[4].name == "4.0002"
    saves.clear(directory)
    assert storage.names_in(directory) == ["4.0001", "4.0002"], "what is damaged is kept"


def test_a_removed_save_is_gone_and_one_set_aside_is_kept(directory):
    removed, aside = put(directory, 2, 1), put(directory, 4, 1)
    saves.remove(removed)
    saves.set_aside(aside, "damaged")
    assert found(directory) == [] and len(storage.names_in(directory)) == 1


def test_a_removal_that_was_cut_short_leaves_nothing_to_find(bucket, monkeypatch):
    directory = bucket / "checkpoints"
    path = put(directory, 2, 1)
    monkeypatch.setattr(storage.filesystem(path), "rm", lambda *a, **k: (_ for _ in ()).throw(OSError("cut")))
    with pytest.raises(OSError, match="cut"):
        saves.remove(path)
    assert found(directory) == [] and (path / "meta" / "metadata").exists()


def test_a_copied_workdir_has_the_same_saves(bucket, tmp_path):
    here = tmp_path / "run" / "checkpoints"
    path = put(here, 2, 1)
    saves.mark(path)
    put(here, 4, 1, whole=False)
    storage.upload(tmp_path / "run", bucket)
    assert found(bucket / "checkpoints") == [2]
    put(bucket / "checkpoints", 6, 2)
    put(bucket / "checkpoints", 8, 2, whole=False)
    storage.download(bucket, tmp_path / "back")
    assert found(tmp_path / "back" / "checkpoints") == [2, 6]


def test_a_save_whose_meta_cannot_be_read_is_found_for_the_restore_to_name(tmp_path):
    directory = tmp_path / "checkpoints"
    saves.inherit(directory, 1)
    path = put(directory, 2, 1)
    (path / "meta" / "metadata").write_text("{")
    assert found(directory) == [2]
    (path / "meta" / "metadata").write_text(json.dumps({"attempt": 0}))
    assert found(directory) == []
    shutil.rmtree(tmp_path / "attempts")
    assert found(directory) == [2], "without a record every whole save counts"
