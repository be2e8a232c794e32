"""The examples in the launch scripts run as written; stand-ins for gcloud, xpk and sbatch check what they are given."""

import json
import re
import signal
import subprocess
import sys
import tarfile

import pytest
from conftest import LAUNCH, executable, until

ROOT = LAUNCH.parent
TAKEN = ["--config", "/a b/c.py:notes/*.txt,$HOME 'q'", "--workdir", "/mnt/the run"]
RECORD = """
import json, sys
with open({calls!r}, "a") as file:
    file.write(json.dumps(sys.argv) + "\\n")
"""
# What `xpk workload create` of xpk 1.16 takes, and how its container runs the command.
XPK = """
import argparse, os, re
parser = argparse.ArgumentParser(allow_abbrev=False)
parser.add_argument("words", nargs=2)
name = re.compile("[a-z]([-a-z0-9]{{0,38}}[a-z0-9])?").fullmatch
for flag in ("cluster", "workload"):
    parser.add_argument("--" + flag, required=True, type=lambda value: value if name(value) else parser.error(value))
for flag in ("tpu-type", "command"):
    parser.add_argument("--" + flag, required=True)
for flag in ("storage", "zone", "project", "base-docker-image"):
    parser.add_argument("--" + flag)
for flag in ("num-slices", "max-restarts", "termination-grace-period-seconds"):
    parser.add_argument("--" + flag, type=int)
parser.add_argument("--script-dir", type=lambda path: path if os.path.isdir(path) else parser.error(path))
given = parser.parse_args()
assert given.words == ["workload", "create"]
wrapped = f'''_sigterm() (kill -SIGTERM $! 2>/dev/null;);
trap _sigterm SIGTERM;
({{given.command}}) & PID=$!;
while kill -0 $PID 2>/dev/null; do sleep 0.2; done;
wait $PID; exit $?'''
os.execvp("bash", ["bash", "-c", wrapped])
"""
# `scp` copies to every host's home, `ssh` runs its command there.
GCLOUD = """
import os, pathlib, shutil, subprocess
assert sys.argv[1:4] == ["compute", "tpus", "tpu-vm"] and "--worker=all" in sys.argv
assert [word for word in sys.argv if word.startswith("--zone=")]
for host in ("host0", "host1"):
    home = pathlib.Path({folder!r}, host)
    home.mkdir(exist_ok=True)
    if sys.argv[4] == "scp":
        shutil.copy(sys.argv[5], home / sys.argv[6].partition(":")[2])
    else:
        command = [word for word in sys.argv if word.startswith("--command=")][0].partition("=")[2]
        done = subprocess.run(["bash", "-c", command], cwd=home, env=os.environ | dict(HOME=str(home)))
        if done.returncode:
            sys.exit(done.returncode)
"""
# The hosts' python3, whose `uv pip install` makes a cola-jax.
HOST_PYTHON = """
if sys.argv[2:4] == ["uv", "pip"]:
    import pathlib
    assert sys.argv[-2:] == ["-e", "cola_jax[tpu,gs]"] and pathlib.Path("cola_jax/pyproject.toml").is_file()
    program = pathlib.Path("cola_jax_env/bin/cola-jax")
    program.parent.mkdir(parents=True)
    program.write_text("#!{python}\\n" + {run!r})
    program.chmod(0o755)
"""


class Machine:
    """A PATH of stand-ins, and what they have been called with."""

    def __init__(self, folder):
        self.folder, self.calls_file = folder, folder / "calls"
        record = RECORD.format(calls=str(self.calls_file))
        self.program("kubectl", record)
        self.program("pip", record)
        self.program("cola-jax", record)
        self.program("sbatch", record)
        self.program("xpk", record + XPK.format())
        self.program("gcloud", record + GCLOUD.format(folder=str(folder)))
        self.program("python3", record + HOST_PYTHON.format(python=sys.executable, run=record))

    def program(self, name, code):
        path = executable(self.folder / "bin" / name, "")
        path.write_text(f"#!{sys.executable}\n{code}")

    def start(self, command, cwd=ROOT, **environment):
        path = f"{self.folder / 'bin'}:/usr/bin:/bin"
        environment = {"PATH": path, "HOME": str(self.folder), "TMPDIR": str(self.folder)} | environment
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, cwd=cwd, env=environment, text=True, **quiet)

    def run(self, command, **where):
        process = self.start(command, **where)
        _, error = process.communicate(timeout=60)
        return process.returncode, error

    def calls(self, program):
        """The arguments of every call of a program."""
        if not self.calls_file.exists():
            return []
        calls = [json.loads(line) for line in self.calls_file.read_text().splitlines()]
        return [call[1:] for call in calls if call[0].rpartition("/")[2] == program]


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def examples():
    """(script, command) of every example in a comment: a line that starts with the script, perhaps after settings or sbatch."""
    for script in sorted(LAUNCH.iterdir()):
        pattern = rf"^#   ((?:\S+=\S+ |sbatch (?:--\S+ )*)*launch/{re.escape(script.name)} .*)$"
        for example in re.findall(pattern, script.read_text(), re.M):
            yield script.name, example


def test_every_script_has_an_example():
    assert {script for script, _ in examples()} == {script.name for script in LAUNCH.iterdir()}


@pytest.mark.parametrize("script,example", examples())
def test_an_example_runs_as_written_and_starts_the_run_that_it_names(machine, script, example):
    status, error = machine.run(["bash", "-c", example])
    assert status == 0, error
    given = example[example.index("--config") :].split()
    started = machine.calls("sbatch" if script == "slurm.sbatch" else "cola-jax")
    assert started and all(call[-len(given) :] == given for call in started)
    assert len(started) == (1 if script in ("slurm.sbatch", "gke_xpk.sh") else 2)
    assert machine.calls("kubectl") == []


def test_tpu_vms_get_the_project_and_run_with_the_arguments_untouched_from_any_folder(machine, tmp_path):
    status, error = machine.run(["bash", LAUNCH / "tpu_vm.sh", "a-slice", "us-east5-a", *TAKEN], cwd=tmp_path)
    assert status == 0, error
    assert machine.calls("cola-jax") == [["train", "--distributed", *TAKEN]] * 2
    copy, install, train = machine.calls("gcloud")
    where = ["--zone=us-east5-a", "--worker=all"]
    assert copy[3] == "scp" and copy[5:] == ["a-slice:cola_jax.tar.gz", *where]
    assert install[3:-1] == train[3:-1] == ["ssh", "a-slice", *where]
    with tarfile.open(tmp_path / "host0" / "cola_jax.tar.gz") as archive:
        names = archive.getnames()
    assert "./cola_jax/cli.py" in names and not [name for name in names if name.startswith(("./.git/", "./runs"))]
    assert not list(tmp_path.glob("tmp.*"))  # the archive is not left behind


def test_a_host_that_fails_fails_the_launch(machine, tmp_path):
    machine.program("python3", "import sys; sys.exit(5)")
    assert machine.run(["bash", LAUNCH / "tpu_vm.sh", "a-slice", "z", *TAKEN])[0] == 5
    assert machine.calls("cola-jax") == []


JOB = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2", "SLURM_JOB_NUM_NODES": "2", "SLURM_TASKS_PER_NODE": "1(x2)",
       "SLURM_GPUS_PER_NODE": "8"}  # fmt: skip
# `srun OPTIONS cola-jax ...` runs the command once; `scontrol` knows a running job that may be requeued.
SRUN = """
import os
words = sys.argv[[word.startswith("--") for word in sys.argv[1:]].index(False) + 1:]
os.execvp(words[0], words)
"""
SCONTROL = """
if sys.argv[1] == "show":
    print("JobId=7 JobState=RUNNING")
"""


@pytest.mark.parametrize("ends,status,requeued,message", [
    (0, 0, [], ""),
    (1, 1, [], "the run failed with status 1: not restarted"),
    (143, 143, [["requeue", "7"]], "start 1 of at most 3 in a row without a new checkpoint"),
])  # fmt: skip
def test_a_slurm_job_restarts_what_a_signal_ended_and_nothing_else(machine, tmp_path, ends, status, requeued, message):
    """With stand-ins for Slurm's programs; test_slurm.py has the same and more under a real Slurm."""
    record = RECORD.format(calls=str(machine.calls_file))
    for name, more in (("srun", SRUN), ("scontrol", SCONTROL), ("cola-jax", f"sys.exit({ends})")):
        machine.program(name, record + more)
    given = ["--config", "/a b/c.py:notes/*.txt,$HOME 'q'", "--workdir", "the run"]
    found, error = machine.run(["bash", LAUNCH / "slurm.sbatch", *given], cwd=tmp_path, **JOB)
    assert found == status and message in error
    assert machine.calls("cola-jax") == [["train", "--distributed", "--all-local-devices", *given]]
    assert [call for call in machine.calls("scontrol") if call[0] != "show"] == requeued
    assert machine.calls("sbatch") == []


def test_a_workload_may_restart_and_takes_the_arguments_untouched_from_any_folder(machine, tmp_path):
    settings = {"CLUSTER": "tpus", "TPU_TYPE": "v5p-32", "NUM_SLICES": "2", "STORAGE": "data", "ZONE": "us-east5-a"}
    status, error = machine.run(["bash", LAUNCH / "gke_xpk.sh", "joint", *TAKEN], cwd=tmp_path, **settings)
    assert status == 0, error
    assert machine.calls("cola-jax") == [["train", "--distributed", *TAKEN]]
    assert machine.calls("pip") == [["install", "--quiet", "-e", ".[tpu,gs]"]]
    (call,) = machine.calls("xpk")
    flags = dict(flag[2:].split("=", 1) for flag in call[2:])
    assert flags.pop("command").startswith(
        "pip install --quiet -e '.[tpu,gs]' && exec cola-jax train "
    )  # gets SIGTERM itself
    assert flags == {
        "cluster": "tpus", "workload": "joint", "tpu-type": "v5p-32", "num-slices": "2", "zone": "us-east5-a",
        "storage": "data", "base-docker-image": "python:3.12", "script-dir": str(ROOT), "max-restarts": "100",
        "termination-grace-period-seconds": "120",
    }  # fmt: skip


def test_a_preempted_workload_is_signalled_itself_and_ends_with_the_status_that_is_restarted(machine):
    waits = "import signal, time\nsignal.signal(15, lambda *_: sys.exit(143))\nopen({!r}, 'w').close()\ntime.sleep(60)"
    ready = machine.folder / "ready"
    machine.program("cola-jax", "import sys\n" + waits.format(str(ready)))
    process = machine.start(["bash", LAUNCH / "gke_xpk.sh", "joint", *TAKEN], CLUSTER="tpus", TPU_TYPE="v5p-32")
    until(ready.exists)
    children = f"/proc/{process.pid}/task/{process.pid}/children"
    with open(children) as file:  # the container's first process, to which Kubernetes sends the signal
        container = int(file.read().split()[0])
    subprocess.run(["kill", f"-{signal.SIGTERM.value}", str(container)], check=True)
    process.communicate(timeout=30)
    assert process.returncode == 143


@pytest.mark.parametrize("command,message", [
    (["tpu_vm.sh", "NAME"], "give the slice's name and zone"),
    (["gke_xpk.sh", "NAME"], "give the workload's name"),
    (["gke_xpk.sh", "NAME", "--config", "x"], "name of the xpk cluster"),
    (["local.sh", "--config", "x"], "give the number of processes"),
])  # fmt: skip
def test_what_a_script_lacks_is_named(machine, command, message):
    status, error = machine.run(["bash", LAUNCH / command[0], *command[1:]])
    assert status != 0 and message in error and not machine.calls_file.exists()
