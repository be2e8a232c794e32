"""Paths that users give: of a local disk, or gs:// and s3:// of an object store. The one place that knows them apart.

A local path is a pathlib.Path, one of an object store an etils epath.Path, which has the same methods. What a store does
otherwise is here: an object appears whole or not at all, there are no folders apart from the objects in them, and nothing is
renamed. Listings are not cached, because other processes write too.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import has_magic
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

from cola_jax.errors import UserError

if TYPE_CHECKING:
    from etils import epath

AnyPath: TypeAlias = "Path | epath.Path"
SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
# Packages whose errors are those of a store.
CLIENTS = re.compile(r"(aiobotocore|aiohttp|botocore|gcsfs|s3fs|google\.(auth|api_core|cloud|resumable_media))(\.|$)")
PACKAGES = {"gs": "gcsfs", "s3": "s3fs"}  # scheme -> package, which the extra of the scheme's name installs


class StorageError(UserError):
    """A path or a file that cannot be used; the message names it."""


def reason(error: OSError) -> str:
    """Returns what an OSError says, in lower case and without the path."""
    text = error.strerror or str(error)
    return text[:1].lower() + text[1:]


def is_store_error(error: BaseException) -> bool:
    """Returns whether a client of an object store raised an error, e.g. for credentials or the network."""
    return CLIENTS.match(type(error).__module__) is not None


def path(given: str | os.PathLike[str], name: str = "") -> AnyPath:
    """Returns a path that a user gave: pathlib.Path of a local disk, `~` expanded, or epath.Path of gs:// and s3://.

    Args:
      name: of the option or field that it was given by, for the message.

    Raises:
      StorageError: for another scheme://, a path without a bucket, and a scheme whose package is not installed.
    """
    text = os.fspath(given)
    found, where = SCHEME.match(text), f"{name} " if name else ""
    if not found:
        return Path(text).expanduser()
    scheme, rest = found[1], text[found.end() :]
    if scheme not in PACKAGES:
        raise StorageError(
            f"{where}{text}: {scheme}:// is not supported; give a local path, gs://BUCKET/... or s3://BUCKET/..."
        )
    if not rest.strip("/") or rest.startswith("/"):
        raise StorageError(f"{where}{text} names no bucket: give {scheme}://BUCKET/FOLDER")
    package = PACKAGES[scheme]
    if importlib.util.find_spec(package) is None:
        raise StorageError(f"{where}{text} needs the package {package}: pip install 'cola_jax[{scheme}]'")
    _configure()
    from etils import epath

    place = epath.Path(f"{scheme}://{rest.strip('/')}")
    if not hasattr(place._backend, "fs"):
        raise StorageError(
            f"{where}{text}: where TensorFlow is installed, etils reads buckets by it in place of {package}; set "
            "EPATH_USE_TF=0 in the environment"
        )
    return place


def local(given: str | os.PathLike[str], name: str = "") -> Path:
    """Returns a path that must be one of a local disk; `name` as in `path`.

    Raises:
      StorageError: for every scheme://.
    """
    text, where = os.fspath(given), f"{name} " if name else ""
    if SCHEME.match(text):
        raise StorageError(f"{where}{text}: this file is read from a local disk; copy it there")
    return Path(text).expanduser()


def _configure() -> None:
    """Turns caches of listings off, before the first use of a file system."""
    import fsspec

    for protocol in ("gs", "gcs", "s3", "s3a"):
        fsspec.config.conf.setdefault(protocol, {}).setdefault("use_listings_cache", False)


def is_remote(place: AnyPath) -> bool:
    """Returns whether a path is of an object store."""
    return SCHEME.match(os.fspath(place)) is not None


def filesystem(place: AnyPath) -> Any:
    """Returns the fsspec file system of a path of an object store."""
    return place._backend.fs(os.fspath(place))


def absolute(place: AnyPath) -> AnyPath:
    """Returns a path that does not depend on the working directory."""
    return place if is_remote(place) else place.absolute()


def check_access(place: AnyPath) -> None:
    """Lists a folder of an object store, or its bucket, so that missing credentials are found before any work.

    Raises:
      StorageError: if the bucket does not exist, or the folder cannot be listed.
    """
    files, bucket = filesystem(place), "/".join(os.fspath(place).split("/")[:3])
    try:
        try:
            files.ls(os.fspath(place), detail=False)
        except FileNotFoundError:  # nothing is there yet
            files.ls(bucket, detail=False)
    except FileNotFoundError as error:
        raise StorageError(f"{place}: there is no bucket {bucket}, or these credentials do not see it") from error
    except Exception as error:  # each client has errors of its own
        text = " ".join(str(error).split())[:200] or type(error).__name__
        raise StorageError(f"{place} cannot be reached: {text}. Check bucket, credentials and network") from error


def names_in(folder: AnyPath) -> list[str]:
    """Returns the names of what is in a folder, sorted; [] if there is no such folder."""
    if not is_remote(folder):
        return sorted(os.listdir(folder)) if folder.is_dir() else []
    try:
        listed = filesystem(folder).ls(os.fspath(folder), detail=False)
    except FileNotFoundError:
        return []
    below = os.fspath(folder).split("://")[1].rstrip("/") + "/"
    names = [one.rstrip("/").removeprefix(below) for one in listed if one.rstrip("/") + "/" != below]
    return sorted(name for name in names if name and "/" not in name)


def find_named(folder: AnyPath, name: str) -> list[AnyPath]:
    """Returns the files of a name anywhere below a folder, sorted."""
    if not is_remote(folder):
        return sorted(folder.rglob(name))
    scheme = os.fspath(folder).split("://")[0]
    found = filesystem(folder).find(os.fspath(folder))
    return [path(f"{scheme}://{one}") for one in sorted(found) if one.rsplit("/", 1)[-1] == name]


def size_of(place: AnyPath) -> int:
    """Returns the bytes of a file."""
    return place.stat().length if is_remote(place) else place.stat().st_size


def version_of(place: AnyPath) -> tuple[int, str]:
    """Returns bytes and a mark of the content of an object, which another content of the same name does not share.

    Raises:
      FileNotFoundError: if it does not exist.
    """
    info = filesystem(place).info(os.fspath(place))
    return info["size"], str(info.get("generation") or info.get("etag") or info.get("ETag") or info.get("mtime"))


def sizes_in(folder: AnyPath) -> dict[str, int]:
    """Returns {name: bytes} of the files in a folder."""
    if not is_remote(folder):
        return {one.name: one.stat().st_size for one in folder.iterdir() if one.is_file()}
    listed = filesystem(folder).ls(os.fspath(folder), detail=True)
    return {one["name"].rsplit("/", 1)[-1]: one["size"] for one in listed if one["type"] == "file"}


def files_of(place: AnyPath) -> list[AnyPath]:
    """Returns the objects that a path of an object store names: itself, all below it, or those that match a glob; sorted."""
    files, text = filesystem(place), os.fspath(place)
    scheme = text.split("://")[0]
    found = files.glob(text) if has_magic(text) else files.find(text)
    return [path(f"{scheme}://{one}") for one in sorted(found)]


def open_binary(place: AnyPath) -> BinaryIO:
    """Opens a file for reading by position; of an object, the parts that are read are fetched."""
    return filesystem(place).open(os.fspath(place), "rb") if is_remote(place) else open(place, "rb")


def read_whole(place: AnyPath) -> bytes:
    """Returns a file's bytes; of an object in one request, so that they are of one version of it."""
    if is_remote(place):
        return filesystem(place).cat_file(os.fspath(place))
    with open(place, "rb") as file:
        return file.read()


def read_range(place: AnyPath, start: int, length: int) -> bytes:
    """Returns `length` bytes from `start`, fewer at the end of the file; of an object, these alone are fetched."""
    if is_remote(place):
        return filesystem(place).cat_file(os.fspath(place), start=start, end=start + length)
    with open(place, "rb") as file:
        file.seek(start)
        return file.read(length)


def write_bytes(place: AnyPath, content: bytes) -> None:
    """Writes a file whole, in one rename or one put: a reader sees the old content or the new one."""
    if is_remote(place):
        filesystem(place).pipe_file(os.fspath(place), content)
        return
    with tempfile.NamedTemporaryFile(dir=place.parent, prefix=f".{place.name}.", delete=False) as file:
        try:
            file.write(content)
            file.flush()
            os.chmod(file.name, 0o644)
            os.replace(file.name, place)
        except BaseException:
            os.unlink(file.name)
            raise


def create(place: AnyPath, content: bytes) -> bool:
    """Writes a file if there is none. Returns whether this call wrote it: of several at once, one does."""
    try:
        if is_remote(place):
            filesystem(place).pipe_file(os.fspath(place), content, mode="create")
        else:
            with open(place, "xb") as file:
                file.write(content)
    except FileExistsError:
        return False
    return True


def make_folder(folder: AnyPath) -> None:
    """Makes a folder and those above it; on an object store there is nothing to make."""
    if not is_remote(folder):
        folder.mkdir(parents=True, exist_ok=True)


def remove(place: AnyPath) -> None:
    """Removes a file, if it is there."""
    if not is_remote(place):
        place.unlink(missing_ok=True)
        return
    with suppress(FileNotFoundError):
        filesystem(place).rm_file(os.fspath(place))


def remove_tree(folder: AnyPath, first: str = "") -> None:
    """Removes a folder with all that is in it, if it is there.

    Args:
      first: name in it that goes before the rest: what marks the folder as whole.
    """
    if not is_remote(folder):
        shutil.rmtree(folder, ignore_errors=True)
        return
    if first:
        remove(folder / first)
    with suppress(FileNotFoundError):
        filesystem(folder).rm(os.fspath(folder), recursive=True)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Gives a folder on a local disk that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="cola_jax-") as folder:
        yield Path(folder)


@contextmanager
def local_copy(place: AnyPath) -> Iterator[Path]:
    """Gives a file or folder on a local disk: itself, or a copy of the objects that is gone afterwards.

    Raises:
      StorageError: if there is nothing.
    """
    if not is_remote(place):
        yield place
        return
    with temporary_folder() as folder:
        target = folder / place.name
        download(place, target)
        yield target


def download(place: AnyPath, target: Path) -> None:
    """Copies an object, or all objects below a folder, to a local path.

    Raises:
      StorageError: if there is nothing.
    """
    files, source = filesystem(place), os.fspath(place)
    if files.isfile(source):
        target.parent.mkdir(parents=True, exist_ok=True)
        files.get_file(source, str(target))
        return
    found = files.find(source)
    if not found:
        raise StorageError(f"{place} does not exist")
    below = source.split("://")[1].rstrip("/") + "/"
    for name in found:
        to = target / name.removeprefix(below)
        to.parent.mkdir(parents=True, exist_ok=True)
        files.get_file(name, str(to))


def upload(source: Path, target: AnyPath, last: str = "") -> None:
    """Copies a local folder to an object store, file by file.

    Args:
      last: name below `source` that goes after all others: what marks the folder as whole.
    """
    files = filesystem(target)
    names = [str(file.relative_to(source)) for file in sorted(source.rglob("*")) if file.is_file()]
    for name in sorted(names, key=lambda one: (one == last, one)):
        files.put_file(str(source / name), f"{os.fspath(target)}/{name}")
