"""What whole runs of the command left behind, and how to disturb them."""

import os
import signal
import time

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from tests.helpers.command import records


def final_state(workdir, step):
    """All arrays of a checkpoint, read by Orbax alone; asked for as NumPy's, they may come from absent devices."""
    path = str(workdir / "checkpoints" / str(step))
    saved = ocp.checkpointables_metadata(path).metadata
    wanted = {
        name: jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), tree)
        for name, tree in saved.items()
        if name != "metrics"
    }
    return {name: jax.tree.map(np.asarray, tree) for name, tree in ocp.load_checkpointables(path, wanted).items()}


def losses(workdir):
    """The loss of every training line."""
    return np.array([record["loss"] for record in records(workdir)])


def assert_same_end(workdir, whole, steps):
    """Two runs of so many steps, one line each, left the same bits."""
    expected, found = final_state(whole, steps), final_state(workdir, steps)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    np.testing.assert_array_equal(losses(workdir), losses(whole))
    assert [record["step"] for record in records(workdir)] == list(range(1, steps + 1))
    assert records(workdir, "eval") == records(whole, "eval")


def saved_steps(workdir):
    """Steps of the checkpoints that are there."""
    folder = workdir / "checkpoints"
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit()) if folder.is_dir() else []


def being_saved(workdir):
    """Whether a checkpoint is half written."""
    folder = workdir / "checkpoints"
    return folder.is_dir() and any("tmp" in path.name for path in folder.iterdir())


def stop_after(patch, task, number):
    """Until ``patch`` is undone, a run of ``task`` in this process gets SIGTERM when so many batches are drawn."""
    training_batches = task.training_batches

    def interrupted(*arguments):
        for drawn, batch in enumerate(training_batches(*arguments)):
            if drawn == number:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    patch.setattr(task, "training_batches", interrupted)


def wait_until(condition, process):
    """Return when ``condition()`` is true or the process has ended."""
    deadline = time.monotonic() + 240
    while not condition() and process.poll() is None:
        assert time.monotonic() < deadline, "nothing happened for four minutes"
        time.sleep(0.0005)


def kill_when(condition, process):
    """kill -9 at a moment that must come before the end."""
    wait_until(condition, process)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "the run was over before it could be killed"
