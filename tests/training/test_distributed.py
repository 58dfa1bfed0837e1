"""When a process joins others, when it stays alone, and what processes tell each other."""

import os
import socket
import subprocess
import sys

import jax
import pytest

from pvt_jax.errors import UserError
from pvt_jax.training import distributed
from tests.helpers.command import ROOT

SLURM = {"SLURM_NTASKS": "8", "SLURM_PROCID": "3"}
KUBERNETES = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "0"}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"HOME": "/root"}, None),
        (SLURM, "SLURM"),
        ({**SLURM, "SLURM_NTASKS": "1"}, None),
        ({**SLURM, "SLURM_NTASKS": "many"}, None),
        # A shell inside an allocation (salloc) has the job's numbers but is none of its processes.
        ({"SLURM_NTASKS": "8"}, None),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "Open MPI"),
        ({"OMPI_COMM_WORLD_SIZE": "1"}, None),
        (KUBERNETES, "Kubernetes"),
        # Any pod has a service host; only an indexed job numbers its pods.
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, None),
        ({"JOB_COMPLETION_INDEX": "0"}, None),
        ({"TPU_WORKER_HOSTNAMES": "host-0,host-1"}, "TPU"),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, None),
        ({"TPU_WORKER_HOSTNAMES": ""}, None),
        ({"MEGASCALE_COORDINATOR_ADDRESS": "10.0.0.2"}, "TPU"),
        ({**SLURM, **KUBERNETES}, "SLURM"),
    ],
    ids=str,
)
def test_cluster_of(environment, expected):
    assert distributed.cluster_of(environment) == expected


@pytest.fixture
def calls(monkeypatch):
    made = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *arguments: made.append(arguments))
    for name in (*SLURM, *KUBERNETES, "OMPI_COMM_WORLD_SIZE", "TPU_WORKER_HOSTNAMES", "MEGASCALE_COORDINATOR_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    return made


def test_a_lone_process_joins_nobody(calls):
    distributed.initialize(None, None, None)
    assert calls == []


def test_flags_come_before_the_environment(calls, monkeypatch):
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "4")
    distributed.initialize("host:1234", 2, 0)
    assert calls == [("host:1234", 2, 0)]


def test_a_cluster_names_its_own_coordinator(calls, monkeypatch):
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "4")
    distributed.initialize(None, None, None)
    assert calls == [()]


@pytest.mark.parametrize("flags", [("host:1", None, None), (None, 2, None), (None, None, 0), ("host:1", 2, None)])
def test_some_of_the_flags_are_not_enough(calls, flags):
    with pytest.raises(UserError, match="--coordinator_address, --num_processes and --process_id together"):
        distributed.initialize(*flags)
    assert calls == []


def test_a_coordinator_that_does_not_answer_is_named(calls, monkeypatch):
    def fail(*arguments):
        raise RuntimeError("DEADLINE_EXCEEDED: no answer\nmore lines")

    monkeypatch.setattr(jax.distributed, "initialize", fail)
    with pytest.raises(UserError, match="^cannot join the other processes at host:1: DEADLINE_EXCEEDED: no answer$"):
        distributed.initialize("host:1", 2, 1)


# Three rounds, of what the first and the second process pass.
_GATHER = """
import sys
from pvt_jax.training import distributed
address, number = sys.argv[1], int(sys.argv[2])
distributed.initialize(address, 2, number)
for mine in ([b"", b"\\0ab\\0"], [bytes(range(256)) * 3, b"x"], [b"", b""]):
    print([part.hex() for part in distributed.gather(mine[number])])
"""


def test_two_processes_gather_what_each_passes():
    """In their order, on both: zeros at an end are kept, though shorter ones are padded; and nothing may be passed."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _GATHER, address, str(number)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    expected = [["", "00616200"], [(bytes(range(256)) * 3).hex(), "78"], ["", ""]]
    for process in processes:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        # Gloo, which connects the two, says so on stdout.
        said = [line for line in out.splitlines() if not line.startswith("[Gloo]")]
        assert said == [str(line) for line in expected]


@pytest.mark.parametrize("data", [b"", b"\0", b"two\0\0"])
def test_a_lone_process_gathers_its_own(data):
    assert distributed.gather(data) == [data]
