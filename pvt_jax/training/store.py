"""The checkpoints of a run, written by Orbax as ``WORKDIR/checkpoints/STEP/ITEM``.

Items are ``params``, ``batch_stats``, ``ema_params`` and ``opt_state``, each if it is not empty: trees of plain nested
dicts with arrays at the leaves, so that Orbax alone restores them. A step's folder gets its final name only when all
of it is on disk.
"""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from pvt_jax import paths
from pvt_jax.errors import UserError
from pvt_jax.weights.load import compare_shapes

Items = dict[str, Any]
log = logging.getLogger("pvt_jax")

_policies = ocp.training.preservation_policies


class CheckpointStore:
    """Saves in the background, keeps the last ``keep`` and the ``keep_best`` steps by a metric (higher is better)."""

    def __init__(
        self, directory: Path, *, keep: int = 2, keep_best: int = 0, best_metric: str = "", read_only: bool = False
    ):
        """``read_only`` leaves everything where it is, also what another process is just writing."""
        self.directory = directory
        self._read_only = read_only
        policies: list[Any] = [_policies.LatestN(keep)]
        if keep_best:
            policies.append(
                _policies.BestN(
                    get_metric_fn=lambda metrics: metrics[best_metric],
                    n=keep_best,
                    keep_checkpoints_without_metrics=False,
                )
            )
        with _storage_errors(directory):
            self._checkpointer: Any = ocp.training.Checkpointer(
                paths.full(directory),
                preservation_policy=_policies.AnyPreservationPolicy(policies),  # pyright: ignore[reportArgumentType]
                cleanup_tmp_directories=not read_only,
            )

    def steps(self) -> list[int]:
        """Steps whose checkpoints are complete by name, ascending."""
        return [checkpoint.step for checkpoint in self._checkpointer.checkpoints]

    def best(self, metric: str) -> int | None:
        """The step with the highest ``metric``, or None if no checkpoint was saved with metrics."""
        scored = [(c.metrics[metric], c.step) for c in self._checkpointer.checkpoints if c.metrics]
        return max(scored)[1] if scored else None

    def has_metrics(self, step: int) -> bool:
        """Whether ``step`` was saved with the metrics of an evaluation."""
        return any(checkpoint.step == step and checkpoint.metrics for checkpoint in self._checkpointer.checkpoints)

    def save(self, step: int, items: Items, metrics: dict[str, float] | None = None) -> None:
        """Write ``items`` in the background; arrays are copied first, so they may be donated afterwards.

        Raises UserError: this or the previous write failed (no space, no permission).
        """
        with _storage_errors(self.directory):
            self._checkpointer.save_checkpointables_async(
                step, {name: tree for name, tree in items.items() if tree}, metrics=metrics, force=True
            )

    def restore(self, abstract: Items, step: int | None = None) -> tuple[int, Items] | None:
        """The newest whole checkpoint, or that of ``step``, as (step, items); None if there is none.

        ``abstract`` has per item a tree of ``jax.ShapeDtypeStruct`` with shardings: a checkpoint saved on any number of
        devices is laid out as they say. One that cannot be read (half written, damaged) is reported and the one before
        it is used; once that one is loaded, those that could not be read are put aside under ``checkpoints_damaged``.
        Raises UserError: parameters are missing, unexpected or of another shape; or no checkpoint at all can be read.
        """
        wanted = {name: tree for name, tree in abstract.items() if tree}
        candidates = self.steps()[::-1] if step is None else [step]
        unreadable: dict[int, str] = {}
        for candidate in candidates:
            try:
                problems = compare_shapes(self._saved(candidate, wanted), wanted)
                restored = {} if problems else self._checkpointer.load_checkpointables(candidate, wanted)
            except Exception as error:  # Orbax raises whatever its readers do.
                unreadable[candidate] = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
                continue
            if problems:
                raise UserError(
                    f"checkpoint {self.directory / str(candidate)} does not fit this model: {'; '.join(problems[:4])}"
                    f"{f' and {len(problems) - 4} more' if len(problems) > 4 else ''}. Use the config that it was "
                    "trained with, or another --workdir"
                )
            for damaged, reason in unreadable.items():
                self._put_aside(damaged, reason)
            return candidate, {**{name: {} for name in abstract}, **restored}
        if unreadable:
            # No other checkpoint shows that the fault is theirs and not the machine's: nothing is moved.
            raise UserError(
                f"none of the checkpoints {sorted(unreadable)} in {self.directory} can be read: "
                f"{unreadable[max(unreadable)]}. Repair them, or move them away to start from the beginning"
            )
        return None

    def wait(self) -> None:
        """Block until everything is on disk. Raises UserError if a write failed."""
        with _storage_errors(self.directory):
            self._checkpointer.wait()

    def close(self) -> None:
        """Wait, then release Orbax's threads."""
        with _storage_errors(self.directory):
            self._checkpointer.close()

    def _saved(self, step: int, wanted: Items) -> Items:
        saved = self._checkpointer.checkpointables_metadata(step).metadata
        for name in wanted:
            if saved.get(name) is None:
                raise FileNotFoundError(f"its item {name} is not whole")
        return {name: saved[name] for name in wanted}

    def _put_aside(self, step: int, reason: str) -> None:
        aside = self.directory.parent / "checkpoints_damaged" / str(step)
        moved = "left in place" if self._read_only else f"moved to {aside}"
        damaged = self.directory / str(step)
        log.warning("checkpoint %s is damaged or half written and is ignored (%s); %s", damaged, reason, moved)
        if self._read_only:
            return
        if jax.process_index() == 0:
            paths.move_folder(damaged, aside)
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils

            multihost_utils.sync_global_devices(f"pvt_jax_put_aside_{step}")
        self._checkpointer.reload()


@contextlib.contextmanager
def _storage_errors(directory: Path) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        for words, reason in _STORAGE_PROBLEMS.items():
            if words in text:
                raise UserError(
                    f"cannot write checkpoints to {directory}: {reason}. Make room or fix the permission, and run the "
                    "same command again; the checkpoints before this one are whole"
                ) from error
        if not paths.is_bucket(directory):
            raise
        raise UserError(
            f"cannot write checkpoints to {directory}: {text.splitlines()[0][:200]}. Check the network, and run the "
            "same command again; the checkpoints before this one are whole"
        ) from error


_STORAGE_PROBLEMS = {
    "No space left": "no space left on the device",
    "RESOURCE_EXHAUSTED": "no space left on the device",
    "Disk quota exceeded": "the disk quota is exceeded",
    "PERMISSION_DENIED": "no permission to write there",
    "Permission denied": "no permission to write there",
    "Forbidden": "no permission to write there",
    "Read-only file system": "the file system is read-only",
}
