"""Orbax as this project uses it on a local disk, gs:// and s3://.

On a local disk Orbax writes under another name and renames. In an object store nothing is renamed: it writes in place and
commit_success.txt last. Orbax chooses so by itself for gs:// alone, and knows no driver of TensorStore for s3://: both are
given to it here.
"""

from __future__ import annotations

from typing import Any

import orbax.checkpoint as ocp

from cola_jax import storage
from cola_jax.errors import UserError
from cola_jax.storage import AnyPath


class OrbaxVersionError(UserError):
    """A version of Orbax that cannot be given the driver of s3://."""

    exit_status = 1


def checkpointer(directory: AnyPath, item_handler: Any = None, asynchronous: bool = False, **options: Any) -> Any:
    """Returns an Orbax checkpointer for folders below `directory`.

    Args:
      item_handler: of what is not the Composite of items by name.
      options: handlers by item name, of a Composite.

    Raises:
      OrbaxVersionError: if `directory` is of s3:// and this version of Orbax has changed where it makes drivers.
    """
    kind = ocp.AsyncCheckpointer if asynchronous else ocp.Checkpointer
    if not storage.is_remote(directory):
        return kind(item_handler or ocp.CompositeCheckpointHandler(**options))
    if str(directory).startswith("s3://"):
        _give_s3_driver()
    commits = ocp.path.atomicity.CommitFileTemporaryPath
    composite = ocp.CompositeCheckpointHandler(
        composite_options=ocp.CompositeOptions(temporary_path_class=commits), **options
    )
    return kind(item_handler or composite, temporary_path_class=commits)


def _give_s3_driver() -> None:
    """Lets Orbax make TensorStore specs of s3:// paths, at the endpoint and in the region that s3fs has found."""
    try:
        from orbax.checkpoint._src.path import gcs_utils
        from orbax.checkpoint._src.serialization import tensorstore_utils as specs

        normalize, uses, kvstore = specs._normalize_path, specs._use_gcs_driver, gcs_utils.get_kvstore_for_gcs
    except (ImportError, AttributeError) as error:
        raise OrbaxVersionError(
            f"checkpoints on s3:// need orbax-checkpoint 0.11.30 to 0.12; {ocp.__version__} creates its drivers in another "
            f"way ({error})"
        ) from error
    if hasattr(kvstore, "of_s3"):
        return

    def spec(path: Any) -> dict[str, Any]:
        if not str(path).startswith("s3://"):
            return kvstore(path)
        bucket, _, key = str(path).removeprefix("s3://").partition("/")
        return {"driver": "s3", "bucket": bucket, "path": key} | _client(storage.filesystem(storage.path(str(path))))

    spec.of_s3 = True
    is_s3 = lambda path: str(path).startswith("s3:/")
    specs._normalize_path = lambda path: "s3://" + normalize(path)[4:].lstrip("/") if is_s3(path) else normalize(path)
    specs._use_gcs_driver = lambda directory: is_s3(directory) or uses(directory)
    gcs_utils.get_kvstore_for_gcs = spec


def _client(files: Any) -> dict[str, Any]:
    """Returns how s3fs reaches the store, for TensorStore, which reads no endpoint from the environment."""
    files.connect()
    client = files.s3.meta
    found = {"aws_region": client.region_name}
    if "amazonaws.com" not in client.endpoint_url:
        found["endpoint"] = client.endpoint_url
    credentials = getattr(getattr(files.s3, "_request_signer", None), "_credentials", None)
    if getattr(credentials, "method", "") == "env":
        found["aws_credentials"] = {"type": "environment"}  # else TensorStore logs errors about files that do not exist
    return found
