"""launch/slurm.sbatch under a real Slurm: what ends a job and what restarts it. Stand-ins for cola-jax are quick."""

import re

import pytest
from conftest import until

pytestmark = pytest.mark.slow

ARGUMENTS = ["--config", "/a b/c.py:notes/*.txt,?", "--workdir", "the run", "--config.mesh.data=-1"]
# The first process of a start notes it; the others, which would race with it, leave at once.
FIRST = (
    '[[ $SLURM_PROCID == 0 ]] || exit 0\nprintf "start of %s\\n" "$SLURM_JOB_ID" >>starts; printf "%s\\n" "$@" >said'
)
STARTS = f"{FIRST}\nstarts=$(wc -l <starts)"
UNTIL_TERM = "trap 'sleep 1; exit 143' TERM\nfor i in {1..600}; do sleep 0.1; done"  # seconds to write a checkpoint


@pytest.fixture(scope="session")
def expiring(slurm, tmp_path_factory):
    """(folder, id) of a job that runs into its time limit: of one minute, of which Slurm counts the half in its own time."""
    folder = tmp_path_factory.mktemp("expiring")
    program = f"{FIRST}\n[[ $SLURM_RESTART_COUNT == 1 ]] && exit 0\nmkdir -p 'the run/checkpoints/7'\n{UNTIL_TERM}"
    limit = ["--time=1", "--signal=B:TERM@20", "--nodelist=127.0.0.3"]
    return folder, slurm.submit(folder, *limit, arguments=ARGUMENTS, program=program)


@pytest.fixture(autouse=True)
def started_first(expiring):
    """Half a minute of waiting that goes on beside the other tests."""


def log(folder, job):
    return (folder / f"slurm-{job}.out").read_text()


def starts(folder):
    """The jobs that a stand-in was started by, in order."""
    return [line.split()[-1] for line in (folder / "starts").read_text().splitlines()]


def ready(folder, count):
    """Waits for the stand-in's start number `count`."""
    until(lambda: (folder / "starts").exists() and len(starts(folder)) >= count)


@pytest.mark.parametrize("status,state,message", [
    (0, "COMPLETED", ""),
    (1, "FAILED", "the run failed with status 1: not restarted"),
    (2, "FAILED", "the run failed with status 2: not restarted"),
])  # fmt: skip
def test_a_run_that_is_done_or_has_failed_is_not_restarted(slurm, tmp_path, status, state, message):
    job = slurm.submit(tmp_path, "--nodes=2", arguments=ARGUMENTS, program=f"{FIRST}\nexit {status}")
    facts = slurm.wait(job, "COMPLETED", "FAILED")
    assert (facts["JobState"], facts["ExitCode"]) == (state, f"{status}:0")
    assert message in log(tmp_path, job) and starts(tmp_path) == [job]
    assert (tmp_path / "said").read_text().splitlines() == ["train", "--distributed", "--all-local-devices", *ARGUMENTS]
    assert job not in slurm.jobs() and not (tmp_path / "the run").exists()


def test_a_cancelled_job_saves_its_checkpoint_and_stays_cancelled(slurm, tmp_path):
    save = "mkdir -p 'the run/checkpoints/7'"
    program = f'{FIRST}\ntrap "sleep 1; {save}; exit 143" TERM\nfor i in {{1..600}}; do sleep 0.1; done'
    job = slurm.submit(tmp_path, arguments=ARGUMENTS, program=program)
    ready(tmp_path, 1)
    slurm("scancel", job)
    assert slurm.wait(job, "CANCELLED")["Restarts"] == "0"
    assert "Slurm ends this job itself" in until(lambda: "itself" in log(tmp_path, job) and log(tmp_path, job))
    assert (tmp_path / "the run" / "checkpoints" / "7").is_dir()
    assert starts(tmp_path) == [job] and not set(slurm.jobs()) & {job, str(int(job) + 1)}


def test_where_requeueing_is_refused_a_preempted_job_submits_itself_again_with_its_resources(slurm, tmp_path):
    program = f"{STARTS}\n(( starts > 1 )) && exit 0\nmkdir -p 'the run/checkpoints/7'\n{UNTIL_TERM}"
    options = [
        "--no-requeue",
        "--nodes=2",
        "--time=00:07:00",
        "--job-name=a name",
        "--gpus-per-node=4",
        "--cpus-per-task=2",
    ]
    job = slurm.submit(tmp_path, *options, "--output=logs of %j", arguments=ARGUMENTS, program=program)
    ready(tmp_path, 1)
    slurm("scancel", "--signal=TERM", "--batch", job)
    assert slurm.wait(job, "FAILED")["ExitCode"] == "143:0"
    said = (tmp_path / f"logs of {job}").read_text()
    following = re.search(r"requeueing is not allowed: job (\d+) goes on after this one", said)[1]
    facts = slurm.wait(following, "COMPLETED")
    old, kept = (
        slurm.job(job),
        ("TimeLimit", "NumNodes", "NumTasks", "CPUs/Task", "TresPerNode", "Partition", "WorkDir", "Requeue"),
    )
    assert {name: facts[name] for name in kept} == {name: old[name] for name in kept}
    assert (facts["TimeLimit"], facts["TresPerNode"], facts["CPUs/Task"]) == ("00:07:00", "gres:gpu:4", "2")
    assert "JobName=a name" in slurm("scontrol", "show", "job", following)
    assert starts(tmp_path) == [job, following] and not (tmp_path / "logs of").exists()
    assert (tmp_path / "said").read_text().splitlines()[-len(ARGUMENTS) :] == ARGUMENTS
    assert "step 7" in said and not (tmp_path / f"logs of {following}").exists()  # one log for both


def test_starts_without_a_new_checkpoint_are_counted_and_end(slurm, tmp_path):
    program = f"{STARTS}\n(( starts == 2 )) && mkdir -p 'the run/checkpoints/7'\nexit 143"
    options = ["--no-requeue", "--output=log"]
    slurm.submit(tmp_path, *options, arguments=ARGUMENTS, program=program)
    ready(tmp_path, 5)
    said = until(lambda: "not restarted" in (said := (tmp_path / "log").read_text()) and said, told=slurm.told)
    assert [int(count) for count in re.findall(r"start (\d) of at most 3", said)] == [1, 1, 2, 3]
    assert len(starts(tmp_path)) == 5 and not (tmp_path / "the run" / "attempts" / "without_progress").exists()


@pytest.mark.parametrize("options,message", [
    (["--nodes=2", "--ntasks=3", "--ntasks-per-node=2"], "3 tasks do not divide over 2 nodes"),
    (["--ntasks-per-node=2"], "2 tasks share the 8 GPUs of a node"),
])  # fmt: skip
def test_tasks_that_would_leave_gpus_out_are_refused(slurm, tmp_path, options, message):
    job = slurm.submit(tmp_path, *options, arguments=ARGUMENTS, program=FIRST)
    assert slurm.wait(job, "FAILED", "COMPLETED")["ExitCode"] == "2:0"
    assert message in log(tmp_path, job) and not (tmp_path / "starts").exists()


def test_a_job_without_workdir_is_refused(slurm, tmp_path):
    job = slurm.submit(tmp_path, arguments=["--config", "x"], program=FIRST)
    assert slurm.wait(job, "FAILED", "COMPLETED")["ExitCode"] == "2:0"
    assert "give --workdir" in log(tmp_path, job) and not (tmp_path / "starts").exists()


def test_at_its_time_limit_a_job_stops_its_run_requeues_itself_and_goes_on(slurm, expiring):
    folder, job = expiring
    facts = slurm.wait(job, "COMPLETED", seconds=80)
    assert facts["Restarts"] == "1" and starts(folder) == [job, job]
    said = log(folder, job)
    assert "SIGTERM: the run saves a checkpoint" in said and "requeued" in said
    assert "status 143 at step 7" in said
