"""Who starts the processes, from options and environment variables."""

import pytest

from instseg_d2.errors import LaunchError
from instseg_d2.processes import OPTIONS, Layout, find_layout
from instseg_d2.processes.layout import SLURM, TORCHRUN
from instseg_d2.processes.ports import port_of_job
from instseg_d2.processes.slurm import first_host, tasks_of_nodes

ONE = Layout(OPTIONS)
TORCHRUN_ENVIRON = {
    "RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "gpu1", "MASTER_PORT": "29500",
}  # fmt: skip
SLURM_ENVIRON = {
    "SLURM_JOB_ID": "4711", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "4", "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1", "SLURM_NODEID": "1", "SLURM_STEP_NODELIST": "node[07-08]",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
}  # fmt: skip


def test_without_options_and_variables_there_is_one_process() -> None:
    assert find_layout(ONE, {"MASTER_ADDR": "set on every machine here"}).world_size == 1


def test_the_options_say_how_many_processes_each_machine_starts() -> None:
    options = Layout(OPTIONS, 4, 2, 1, url="tcp://gpu1:9999")
    layout = find_layout(options, {})
    assert layout == options
    assert layout.of_process(3).rank == 7
    assert str(layout) == "8 processes on 2 machines (--num-gpus)"


def test_on_one_machine_the_port_is_free_unless_it_is_given() -> None:
    two = Layout(OPTIONS, 2, url="tcp://127.0.0.1:50000")
    assert find_layout(two, {}, default_url="tcp://127.0.0.1:50000").url == "auto"
    assert find_layout(two, {}, default_url="tcp://127.0.0.1:1").url == two.url


def test_torchrun_says_which_process_this_is() -> None:
    layout = find_layout(ONE, TORCHRUN_ENVIRON)
    assert layout == Layout(TORCHRUN, 2, 2, 1, 1, "env://")
    assert (layout.rank, layout.world_size) == (3, 4)


def test_srun_says_which_task_this_is() -> None:
    layout = find_layout(ONE, SLURM_ENVIRON)
    assert layout == Layout(SLURM, 2, 2, 1, 1, f"tcp://node07:{port_of_job(4711, 0)}")
    assert str(layout) == "4 processes on 2 machines (SLURM)"


def test_where_the_tasks_meet_can_be_given() -> None:
    environ = {**SLURM_ENVIRON, "MASTER_ADDR": "fe80::1", "MASTER_PORT": "1234"}
    assert find_layout(ONE, environ).url == "tcp://[fe80::1]:1234"


@pytest.mark.parametrize(
    "environ",
    [
        {**SLURM_ENVIRON, "SLURM_NTASKS": "1", "SLURM_PROCID": "0"},
        # A batch script, or the shell of an allocation, of four tasks: srun has not started any.
        {"SLURM_JOB_ID": "4711", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"},
        {**SLURM_ENVIRON, "SLURM_STEP_NUM_TASKS": "1"},
        {"WORLD_SIZE": "1", "RANK": "0"},
    ],
    ids=["one task", "no step", "one task in a job of four", "torchrun"],
)
def test_one_task_is_an_ordinary_process(environ: dict[str, str]) -> None:
    assert find_layout(ONE, environ).world_size == 1


def test_torchrun_within_a_job_counts() -> None:
    assert find_layout(ONE, {**SLURM_ENVIRON, **TORCHRUN_ENVIRON}).started_by == TORCHRUN


def test_a_task_on_each_machine_may_start_the_others() -> None:
    options = Layout(OPTIONS, 8, 2, 1, url="tcp://node07:9999")
    environ = {**SLURM_ENVIRON, "SLURM_NTASKS": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "0"}
    environ["SLURM_STEP_TASKS_PER_NODE"] = "1(x2)"
    assert find_layout(options, environ) == options
    one_machine = Layout(OPTIONS, 8)
    assert find_layout(one_machine, {**SLURM_ENVIRON, "SLURM_STEP_NUM_TASKS": "1"}).per_machine == 8


CONTRADICTIONS = {
    "torchrun and options": (Layout(OPTIONS, 2), {}, TORCHRUN_ENVIRON, "leave these options out"),
    "srun and options": (Layout(OPTIONS, 2), {}, SLURM_ENVIRON, "4 processes on 2 machines"),
    "no MASTER_ADDR": (ONE, {"MASTER_ADDR": None}, TORCHRUN_ENVIRON, "MASTER_ADDR is not"),
    "no LOCAL_RANK": (ONE, {"LOCAL_RANK": None}, TORCHRUN_ENVIRON, "unset WORLD_SIZE"),
    "words": (ONE, {"WORLD_SIZE": "two"}, TORCHRUN_ENVIRON, "WORLD_SIZE is 'two'; a whole number"),
    "rank": (ONE, {"RANK": "4"}, TORCHRUN_ENVIRON, "RANK is 4, but WORLD_SIZE is 4"),
    "local rank": (ONE, {"LOCAL_RANK": "0"}, TORCHRUN_ENVIRON, "do not fit each other"),
    "port": (ONE, {"MASTER_PORT": "http"}, TORCHRUN_ENVIRON, "MASTER_PORT is 'http'"),
    "task": (ONE, {"SLURM_PROCID": "4"}, SLURM_ENVIRON, "SLURM_PROCID is 4, but SLURM_NTASKS is 4"),
    "uneven nodes": (ONE, {"SLURM_STEP_TASKS_PER_NODE": "3,1"}, SLURM_ENVIRON, "--ntasks-per-node"),
    "cyclic": (ONE, {"SLURM_PROCID": "2", "SLURM_NODEID": "0"}, SLURM_ENVIRON, "block"),
    "no nodes": (ONE, {"SLURM_STEP_NODELIST": None}, SLURM_ENVIRON, "give MASTER_ADDR"),
    "machine rank": (Layout(OPTIONS, 1, 2, 2, url="tcp://a:1"), {}, {}, "--machine-rank is 2"),
    "no URL": (Layout(OPTIONS, 1, 2, 1), {}, {}, "needs --dist-url"),
    "negative": (Layout(OPTIONS, -1), {}, {}, "--num-gpus must be at least 0"),
}


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_contradictions_are_refused(case: str) -> None:
    options, changes, environ, message = CONTRADICTIONS[case]
    changed = {key: value for key, value in {**environ, **changes}.items() if value is not None}
    with pytest.raises(LaunchError, match=message) as error:
        find_layout(options, changed)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("gpu5", "gpu5"),
        ("gpu5,node[01-03]", "gpu5"),
        ("node[01-03,07],gpu5", "node01"),
        ("node[4,6-8]", "node4"),
        ("rack[1-2]node[03-04].cluster", "rack1node03.cluster"),
    ],
)
def test_the_first_host_of_a_list(nodes: str, first: str) -> None:
    assert first_host(nodes) == first


def test_tasks_of_nodes() -> None:
    assert tasks_of_nodes("2(x3),1") == [2, 2, 2, 1]
    with pytest.raises(ValueError, match=r"2\(y3\)"):
        tasks_of_nodes("2(y3)")
