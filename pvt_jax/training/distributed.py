"""Start of a run over several hosts, and what they exchange besides arrays."""

import os
import sys
from collections.abc import Mapping

import jax
import numpy as np
from jax.experimental import multihost_utils

from pvt_jax.errors import UserError


def cluster_of(environment: Mapping[str, str]) -> str | None:
    """The name of the cluster manager whose environment variables say that several processes run, or None."""

    def number(name: str) -> int:
        text = environment.get(name, "")
        return int(text) if text.isdigit() else 0

    if number("SLURM_NTASKS") > 1 and "SLURM_PROCID" in environment:
        return "SLURM"
    if number("OMPI_COMM_WORLD_SIZE") > 1:
        return "Open MPI"
    if "KUBERNETES_SERVICE_HOST" in environment and "JOB_COMPLETION_INDEX" in environment:
        return "Kubernetes"
    if "," in environment.get("TPU_WORKER_HOSTNAMES", "") or "MEGASCALE_COORDINATOR_ADDRESS" in environment:
        return "TPU"
    return None


def initialize(coordinator_address: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Join this process to the others, from flags, or from the environment of SLURM, Kubernetes, Open MPI or a TPU pod.

    A lone process needs nothing and stays alone. Must run before anything else touches a device. Raises UserError: only
    some of the three flags are given, or the others could not be reached.
    """
    flags = (coordinator_address, num_processes, process_id)
    if any(flag is not None for flag in flags) and any(flag is None for flag in flags):
        raise UserError("give --coordinator_address, --num_processes and --process_id together, or none of them")
    cluster = cluster_of(os.environ)
    try:
        if coordinator_address is not None:
            jax.distributed.initialize(coordinator_address, num_processes, process_id)
        elif cluster:
            jax.distributed.initialize()
    except (RuntimeError, ValueError) as error:
        where = coordinator_address or f"the coordinator that {cluster} names"
        raise UserError(f"cannot join the other processes at {where}: {str(error).splitlines()[0]}") from error


def say(text: str) -> None:
    """Print a line on stderr, once for all processes."""
    if jax.process_index() == 0:
        print(text, file=sys.stderr, flush=True)


def whole(array: jax.Array) -> np.ndarray:
    """The numbers of an array on every process, however it is sharded; all must call it."""
    if array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))


def gather(data: bytes) -> list[bytes]:
    """What every process passes, in their order, on every process; all must call it."""
    lengths = np.asarray(multihost_utils.process_allgather(np.array(len(data)))).reshape(-1)
    padded = np.zeros(int(lengths.max()), np.uint8)
    padded[: len(data)] = np.frombuffer(data, np.uint8)
    everyone = np.asarray(multihost_utils.process_allgather(padded)).reshape(len(lengths), -1)
    return [row[:length].tobytes() for row, length in zip(everyone, lengths.tolist(), strict=True)]
