"""Import and export of a released checkpoint: seconds, and the peak memory of a separate process.

python -m benchmarks.convert --small                          a model of 0.1 B parameters
python -m benchmarks.convert --folder /large/disk [--export]  the published sizes, 2.3 B parameters

Random weights are written in the released form, in shards, one tensor at a time. On a CPU the parameters are in host memory
too: the difference is what the import needs in addition. Disk, in fp32: 9.3 GB of weights and the same for a checkpoint
of the published sizes, and with --export the weights once more. Everything is written under --folder and removed at the end.
"""

from __future__ import annotations

import argparse
import filecmp
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks import measure
from cola_jax.config import DiTConfig, RunConfig, TextVAEConfig
from cola_jax.interop import release
from cola_jax.interop.record import File
from cola_jax.interop.released import rows_of
from cola_jax.interop.released_config import released_fields
from cola_jax.interop.safetensors_file import DTYPES
from cola_jax.interop.tensor_names import constants

SMALL = RunConfig(
    vae=TextVAEConfig(vocab_size=32_000, dim=512, ffn_dim=2048, num_heads=8),
    dit=DiTConfig(dim=640, num_layers=8, num_heads=10, head_dim=64, rope_dim=48),
)
PARTS = ("cola_vae", "cola_dit")


def write_random(folder: Path, cfg: RunConfig, dtype: str, shard_bytes: int) -> int:
    """Writes random weights in the released form. Returns how many parameters there are."""
    rng, count = np.random.default_rng(0), 0
    kind = release.NAMES[dtype]
    for part in PARTS:
        (folder / part).mkdir(parents=True)
        (folder / part / "config.json").write_text(json.dumps(released_fields(part, cfg, dtype), indent=2))
        fixed = constants(part, cfg)
        shapes = {name: row.shape for row in rows_of(part, cfg) for name in row.names}
        count += sum(map(math.prod, shapes.values()))
        dtypes = dict.fromkeys(sorted(shapes), kind) | dict.fromkeys(fixed, "F32")
        shapes |= {name: value.shape for name, value in fixed.items()}

        draw = partial(drawn, rng=rng, fixed=fixed, shapes=shapes)
        release.write_files(folder / part, release.divided(dtypes, shapes, shard_bytes), shapes, draw)
    return count


def drawn(
    file: File, rng: np.random.Generator, fixed: dict[str, np.ndarray], shapes: dict[str, tuple[int, ...]]
) -> Iterator[np.ndarray]:
    """Yields the tensors of a file: constants as they are, the rest N(0, 0.02^2)."""
    for name, kind in file.dtypes.items():
        if name in fixed:
            yield fixed[name]
        else:
            yield (rng.standard_normal(shapes[name], np.float32) * np.float32(0.02)).astype(DTYPES[kind])


def apart(*arguments: str | Path) -> None:
    """Runs `cola-jax convert` in a separate process and prints its time and memory; exits where it fails."""
    before = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "cola_jax.cli", "convert", *map(str, arguments)])
    seconds = time.perf_counter() - before
    if done.returncode:
        raise SystemExit(done.returncode)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20  # of the largest child so far
    print(f"convert {arguments[0]}: {seconds:.1f} s, peak memory of the process {peak:.2f} GiB", flush=True)


def same_files(one: Path, other: Path) -> bool:
    """Returns whether two folders hold the same files with the same bytes."""
    names = sorted(path.name for path in one.iterdir())
    return names == sorted(path.name for path in other.iterdir()) and not filecmp.cmpfiles(one, other, names, False)[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--folder", default=None, help="where to write; the system's temporary folder by default")
    parser.add_argument("--dtype", choices=sorted(release.NAMES), default="float32", help="of the released weights")
    parser.add_argument("--export", action="store_true", help="also export, and compare with what was imported")
    options = parser.parse_args()
    cfg = SMALL if options.small else RunConfig()
    print(measure.machine())
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        source, workdir, back = (Path(folder) / name for name in ("released", "workdir", "exported"))
        before = time.perf_counter()
        count = write_random(source, cfg, options.dtype, 100_000_000 if options.small else release.SHARD_BYTES)
        print(f"{count:,} parameters, {count * 4 / 2**30:.2f} GiB in fp32, {options.dtype} on disk")
        print(f"random weights written in {time.perf_counter() - before:.1f} s", flush=True)
        apart("import", source, workdir, "--config.tokenizer.kind=bytes")
        if options.export:
            apart("export", workdir, back)
            print(
                f"export equals import byte for byte: {all(same_files(source / part, back / part) for part in PARTS)}"
            )


if __name__ == "__main__":
    main()
