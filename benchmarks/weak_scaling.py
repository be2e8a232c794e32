"""The training step on a growing number of CPU devices with a fixed number of rows each: FLOPs, bytes and traffic of
one device.

python -m benchmarks.weak_scaling [--rows 4] [--mesh fsdp]

The model of own_text, stage 2, as compiled; nothing is timed, since the devices share the machine's cores. FLOPs and
bytes of a device should be constant; the traffic of collectives is the cost of the mesh.
"""

from __future__ import annotations

import argparse

import jax

from benchmarks import measure
from cola_jax import config
from cola_jax.aot.compile import compile_program

DEVICES = (1, 2, 4, 8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=4, help="rows of a device")
    parser.add_argument("--mesh", choices=("data", "fsdp"), default="fsdp", help="the axis that grows")
    options = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", max(DEVICES))
    print(measure.machine())
    print("| devices | rows | GFLOPs/device | GB accessed/device | MiB of collectives/device | state MiB/device |")
    print("|---|---|---|---|---|---|")
    for count in DEVICES:
        tree = config.load("own_text:joint,unread.txt")
        tree.mesh.update({"data": 1, "fsdp": 1} | {options.mesh: -1})
        tree.train.batch_size = options.rows * count
        report, _ = compile_program(config.resolve(tree), f"cpu:{count}", "train", 1, 1)
        traffic = sum(c.count * c.bytes for c in report.collectives)
        print(
            f"| {count} | {options.rows * count} | {report.flops / 1e9:.2f} | {report.bytes_accessed / 1e9:.2f} | "
            f"{traffic / 2**20:.1f} | {report.state_bytes / 2**20:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
