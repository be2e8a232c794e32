"""A config's programs compiled for a topology, with their memory per device and an estimate of their time."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from cola_jax.aot import hlo
from cola_jax.aot.topology import devices_of
from cola_jax.config import ConfigError, RunConfig, for_platform, without_kernels
from cola_jax.families import FAMILIES
from cola_jax.parallel.chips import GiB, chip_of
from cola_jax.parallel.mesh import BATCH_AXES, batch_sharding, make_mesh
from cola_jax.parallel.rules import shardings
from cola_jax.scaling import accounting
from cola_jax.train.state import abstract_state
from cola_jax.train.step import train_step

PROGRAMS = ("train", "generate")


class Program(NamedTuple):
    """A jitted function, and the shapes and shardings of its arguments."""

    function: Any
    arguments: tuple[Any, ...]


@dataclass(frozen=True)
class CompileReport:
    """One program on one topology. Values are per device and per step unless stated otherwise.

    Attributes:
      state_bytes: arguments that live on the device: parameters, optimizer, caches, the batch. temporary_bytes: what
        the step needs besides. total_bytes: both, donated arguments counted once, and the program
        itself.
      host_bytes: temporaries in host memory (compute.remat=offload).
      capacity: bytes of device memory for programs; None if the device kind is unknown.
      flops: matmuls as compiled, loops multiplied out; those of attention kernels by our count.
      useful_flops: by the analytic count (`Cost.useful`).
      seconds: sum of the compiler's estimates of all instructions, without overlap, and attention kernels, which it does
        not estimate, at peak FLOPs; None if the compiler gives no estimates.
      predicted_mfu: useful_flops divided by the peak FLOPs of those seconds.
      refusal: the compiler's error if it could not compile, else "".
    """

    program: str
    topology: str
    devices: int
    device_kind: str
    mesh: dict[str, int]
    compute: str
    compile_seconds: float
    state_bytes: int | None = None
    temporary_bytes: int | None = None
    total_bytes: int | None = None
    host_bytes: int | None = None
    capacity: int | None = None
    flops: float | None = None
    useful_flops: float | None = None
    bytes_accessed: float | None = None
    seconds: float | None = None
    predicted_mfu: float | None = None
    collectives: tuple[hlo.Collective, ...] = ()
    unknown_loops: int = 0
    refusal: str = ""

    @property
    def fits(self) -> bool:
        """Whether it compiled and, if the capacity is known, fits into device memory."""
        return not self.refusal and (self.capacity is None or self.total_bytes <= self.capacity)


def program_of(cfg: RunConfig, mesh: Mesh, name: str, rows: int, prompt: int) -> Program:
    """Returns the program that a run executes on a mesh: the update of the groups its first step trains, or a generation step.

    Args:
      name: one of PROGRAMS. rows, prompt: prompts of a batch and tokens per prompt, of generation.

    Raises:
      MeshError: if sizes do not fit. ConfigError: if the family does not generate text.
    """
    family = FAMILIES[cfg.family]
    abstract = abstract_state(cfg, family, mesh)
    if name == "train":
        batch = abstract_batch(cfg, mesh)
        return Program(train_step(cfg, family, family.training(cfg, 0).groups, mesh, abstract), (abstract, batch))
    if family.generator is None:
        raise ConfigError(f"family {cfg.family!r} does not generate text: it has no generation step to compile")
    placed = jax.tree.map(
        lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
        abstract.params,
        shardings(abstract.params, mesh),
    )
    function, arguments = family.generator.step(cfg, placed, rows, prompt)
    return Program(function, jax.tree.map(lambda x: _by_rows(x, mesh, rows), arguments))


def _by_rows(leaf: Any, mesh: Mesh, rows: int) -> Any:
    """An input of generation: its rows, before or after a leading axis of layers, over the batch axes.

    Leaves that have a sharding already, or are not arrays, are unchanged.
    """
    if not isinstance(leaf, jax.ShapeDtypeStruct) or leaf.sharding is not None:
        return leaf
    axis = next((axis for axis, size in enumerate(leaf.shape[:2]) if size == rows), None)
    whole = axis is None or rows % math.prod(mesh.shape[name] for name in BATCH_AXES)
    spec = P() if whole else P(*[None] * axis, BATCH_AXES)
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec))


def abstract_batch(cfg: RunConfig, mesh: Mesh) -> dict[str, Any]:
    """Returns the shapes and shardings of a global batch."""
    place = batch_sharding(mesh)
    spec = FAMILIES[cfg.family].objective.batch_spec(cfg)
    return {name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place) for name, x in spec.items()}


def compile_program(
    cfg: RunConfig, topology: str, name: str = "train", rows: int = 16, prompt: int = 256
) -> tuple[CompileReport, jax.stages.Compiled | None]:
    """Compiles one program of `cfg` for a topology. Returns the report, and the executable if the compiler made one.

    Args:
      topology: e.g. v5p:2x2x4, v5e:16x16*4 (four slices) or cpu:8. name, rows, prompt: see `program_of`.

    Raises:
      TopologyError: for a topology that does not exist. MeshError, ConfigError: see `program_of`.
    """
    devices = devices_of(topology)
    cfg, compute = for_platform(cfg if name == "train" else without_kernels(cfg), devices[0].platform)
    mesh = make_mesh(cfg.mesh, devices)
    program = program_of(cfg, mesh, name, rows, prompt)
    chip = chip_of(devices[0])
    report = CompileReport(
        name, topology, mesh.size, devices[0].device_kind, dict(mesh.shape), compute, 0.0,
        capacity=None if chip is None else int(chip.memory),
    )  # fmt: skip
    start = time.monotonic()
    try:
        compiled = program.function.lower(*program.arguments).compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        refusal = str(error).splitlines()[0].removeprefix("RESOURCE_EXHAUSTED: ")
        return dataclasses.replace(report, compile_seconds=time.monotonic() - start, refusal=refusal), None
    report = dataclasses.replace(report, compile_seconds=time.monotonic() - start)
    ours = our_count(cfg, mesh.size) if name == "train" else OurCount(None, 0.0)
    return measured(report, compiled, ours, devices[0]), compiled


class OurCount(NamedTuple):
    """FLOPs of one device and step by our count: useful ones, and those of kernels that the compiler does not count."""

    useful: float | None
    kernels: float


def our_count(cfg: RunConfig, devices: int) -> OurCount:
    """Counts a training step. Splash attention computes its scores again in each of two backward kernels."""
    cost, tokens = FAMILIES[cfg.family].objective.cost(cfg), accounting.tokens_of(cfg, 1) / devices
    matmuls = 9 if cfg.compute.remat == "none" else 11  # matmuls of the kernels; without recomputation there would be 6
    kernels = cost.attention * matmuls / 6 if cfg.compute.attention == "splash" else 0.0
    return OurCount(cost.useful * tokens, kernels * tokens)


def measured(report: CompileReport, compiled: jax.stages.Compiled, ours: OurCount, device: jax.Device) -> CompileReport:
    """Fills in the fields that are read from the executable."""
    memory, totals, chip = compiled.memory_analysis(), hlo.read(compiled.as_text()), chip_of(device)
    useful, seconds = ours.useful, None
    if chip is not None and chip.clock and totals.cycles:
        seconds = totals.cycles / chip.clock + ours.kernels / chip.flops
    state = memory.argument_size_in_bytes
    fresh = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return dataclasses.replace(
        report,
        state_bytes=state,
        temporary_bytes=memory.temp_size_in_bytes,
        host_bytes=memory.host_temp_size_in_bytes,
        total_bytes=state + fresh + memory.temp_size_in_bytes + memory.generated_code_size_in_bytes,
        flops=totals.flops + ours.kernels,
        useful_flops=useful,
        bytes_accessed=totals.bytes,
        seconds=seconds,
        predicted_mfu=useful / (seconds * chip.flops) if seconds and useful else None,
        collectives=tuple(totals.listed()),
        unknown_loops=totals.unknown_loops,
    )


def as_json(report: CompileReport) -> dict[str, Any]:
    """Returns the report's fields, and whether it fits."""
    fields = dataclasses.asdict(report) | {"fits": report.fits}
    return fields | {"collectives": [c._asdict() for c in report.collectives]}


def as_text(report: CompileReport) -> str:
    """Returns the report as text; its last line says whether it fits."""
    size = lambda value: f"{value / GiB:.2f} GiB"
    mesh = " ".join(f"{axis} {count}" for axis, count in report.mesh.items())
    lines = [f"{report.program} step on {report.topology}: {report.devices} x {report.device_kind}, mesh {mesh}"]
    room = "" if report.capacity is None else f" of {size(report.capacity)}"
    lines.append(f"  {report.compute}")
    if report.refusal:
        return "\n".join([*lines, f"  does not fit: {report.refusal}"])
    lines += [
        f"  compiled in {report.compile_seconds:.0f} s",
        f"  memory per device: state {size(report.state_bytes)}, temporaries {size(report.temporary_bytes)}, "
        f"total {size(report.total_bytes)}{room}"
        + (f"; on the host {size(report.host_bytes)}" if report.host_bytes else ""),
        f"  work per device: {report.flops:.4g} FLOPs in matmuls, {report.bytes_accessed:.4g} bytes" + _useful(report),
        *(f"  {line}" for line in _collective_lines(report.collectives)),
    ]
    if report.unknown_loops:
        lines.append(f"  {report.unknown_loops} loops of unknown length are counted once")
    if report.seconds is not None:
        lines.append(f"  time by the compiler's estimates: {report.seconds:.3f} s per step{_mfu(report)}")
    share = "" if report.capacity is None else f": {report.total_bytes / report.capacity:.0%} of the memory"
    return "\n".join([*lines, f"  {'fits' if report.fits else 'does not fit'}{share}"])


def _useful(report: CompileReport) -> str:
    if report.useful_flops is None or not report.flops:
        return ""
    return f"; useful share {report.useful_flops / report.flops:.3f} (our count over the compiler's)"


def _mfu(report: CompileReport) -> str:
    if report.predicted_mfu is None:
        return ""
    return f", predicted MFU {report.predicted_mfu:.1%} (our count of live matmuls over peak bf16, nothing overlapping)"


def _collective_lines(collectives: Sequence[hlo.Collective]) -> list[str]:
    """The collectives by kind, each with its largest sizes."""
    kinds = {c.kind: [d for d in collectives if d.kind == c.kind] for c in collectives}
    lines = []
    for kind, found in kinds.items():
        total = sum(c.count * c.bytes for c in found) / GiB
        sizes = ", ".join(f"{c.count} x {c.bytes / 2**20:.1f} MiB" for c in found[:4])
        more = f", and {len(found) - 4} other sizes" if len(found) > 4 else ""
        lines.append(f"{kind}: {sum(c.count for c in found)} per step, {total:.2f} GiB ({sizes}{more})")
    return lines or ["no collectives"]
