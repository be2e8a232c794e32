"""A Slurm cluster of Debian's daemons on loopback: three nodes with eight GPUs each, which are null devices."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

LAUNCH = Path(__file__).resolve().parents[2] / "launch"
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "scontrol")
NODES = ("127.0.0.1", "127.0.0.2", "127.0.0.3")  # names that resolve on any machine
CONFIG = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
AuthType=auth/none
AuthInfo=cred_expire=5
CredType=cred/none
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SwitchType=switch/none
MpiDefault=none
AccountingStorageType=accounting_storage/none
GresTypes=gpu
MailProg=/bin/true
ReturnToService=2
KillWait=15
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1,sched_min_interval=0,bf_interval=1,batch_sched_delay=0
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


class Cluster:
    """Runs Slurm's commands, as a user would who has `stand_in`, or cola-jax, on PATH."""

    def __init__(self, folder, environment):
        self.folder, self.environment = folder, environment

    def __call__(self, *command, cwd=None, check=True, timeout=60, **environment):
        """Returns what a command prints."""
        own = {"env": self.environment | environment, "cwd": cwd, "timeout": timeout}
        done = subprocess.run(list(map(str, command)), **own, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        assert not check or done.returncode == 0, (command, done.stderr)
        return done.stdout

    def submit(self, folder, *options, arguments=(), program=None, **environment):
        """Submits launch/slurm.sbatch from `folder`, with `program` or the real one as cola-jax; returns the job's id."""
        program = program or f'exec "{sys.executable}" -m cola_jax.cli "$@"'
        executable(folder / "bin" / "cola-jax", program)
        path = f"{folder / 'bin'}{os.pathsep}{self.environment['PATH']}"
        script = [LAUNCH / "slurm.sbatch", *arguments]
        return self("sbatch", "--parsable", *options, *script, cwd=folder, PATH=path, **environment).strip()

    def job(self, number):
        """Returns the fields of a job."""
        said = self("scontrol", "show", "job", number)
        return dict(re.findall(r"(\S+?)=(\S+)", said))

    def jobs(self):
        """Returns the ids of all jobs that are not at their end."""
        return self("squeue", "--noheader", "--format=%i").split()

    def wait(self, number, *states, seconds=60):
        """Waits for a job to reach one of `states`; returns its fields."""
        facts = until(lambda: (facts := self.job(number))["JobState"] in states and facts, seconds, self.told)
        return facts

    def lives(self, number):
        """Asserts that a job has not ended."""
        assert self.job(number)["JobState"] in ("PENDING", "RUNNING", "COMPLETING"), self.told()
        return True

    def told(self):
        """Returns what the jobs and the daemons have said last, for a failed test."""
        files = [*self.folder.rglob("slurm*.log"), *self.folder.parent.rglob("slurm-*.out")]
        return "\n".join(f"== {path}\n{path.read_text(errors='replace')[-2000:]}" for path in files)


def executable(path, program):
    """Writes a bash program."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/usr/bin/env bash\n{program}\n")
    path.chmod(0o755)
    return path


def until(condition, seconds=60, told=lambda: ""):
    """Waits for `condition` to return what is true; returns that."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s\n{told()}"
        time.sleep(0.2)
    return found


def free_ports(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for free in sockets:
            free.bind(("127.0.0.1", 0))
        return [free.getsockname()[1] for free in sockets]


def write_config(folder):
    host, (port, *ports) = socket.gethostname().split(".")[0], free_ports(1 + len(NODES))
    lines = CONFIG.format(host=host, port=port, folder=folder).splitlines()
    for node, own in zip(NODES, ports):
        lines.insert(-1, f"NodeName={node} NodeAddr=127.0.0.1 NodeHostname={host} Port={own} CPUs=2 Gres=gpu:8")
    (folder / "slurm.conf").write_text("\n".join(lines) + "\n")
    for index in range(8):
        with contextlib.suppress(PermissionError):
            os.mknod(folder / f"gpu{index}", 0o20600, os.makedev(1, 3))
    (folder / "gres.conf").write_text(f"Name=gpu File={folder}/gpu[0-7]\n")
    (folder / "state").mkdir()


def stop(cluster, daemons):
    """Ends jobs and daemons, whatever state they are in."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        jobs = cluster("squeue", "--noheader", "--format=%A", check=False, timeout=10).split()
        cluster("scancel", "--full", "--signal=KILL", *jobs, check=False, timeout=10)
    for daemon in daemons:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(daemon.pid, signal.SIGKILL)
        daemon.wait()
    kill_leftovers(cluster.folder)


def kill_leftovers(folder):
    """Kills what was started with the cluster's configuration: steps outlive their slurmd."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"SLURM_CONF={folder}/slurm.conf".encode() in (process / "environ").read_bytes().split(b"\0"):
                os.kill(int(process.name), signal.SIGKILL)


@pytest.fixture(scope="session")
def slurm(tmp_path_factory):
    """A running `Cluster`; skips where Slurm's daemons are absent or cannot be started by this user."""
    path = f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin"
    absent = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    if absent or os.geteuid():
        pytest.skip(f"{', '.join(absent)} not installed: apt-get install slurm-wlm" if absent else "slurmd needs root")
    folder = tmp_path_factory.mktemp("slurm")
    write_config(folder)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_"))}
    environment |= {"SLURM_CONF": f"{folder}/slurm.conf", "PATH": path, "JAX_PLATFORMS": "cpu"}
    environment |= {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "PYTHONPATH": str(LAUNCH.parent)}
    environment |= {
        "JAX_COMPILATION_CACHE_DIR": f"{folder}/compiled",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    cluster = Cluster(folder, environment)
    programs = [["slurmctld", "-D", "-i"], *(["slurmd", "-D", "-N", node] for node in NODES)]
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    daemons = []
    try:
        for program in programs:
            daemons.append(subprocess.Popen(program, env=environment, start_new_session=True, **quiet))
        states = lambda: cluster("sinfo", "--noheader", "--Node", "--format=%t", check=False).split()
        until(lambda: states() == ["idle"] * len(NODES), 60, cluster.told)
        yield cluster
    finally:
        stop(cluster, daemons)
