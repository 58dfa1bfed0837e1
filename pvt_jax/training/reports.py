"""The folder of a report."""

import io
from pathlib import Path

import jax
from PIL import Image

from pvt_jax.errors import UserError
from pvt_jax.tasks.report import Report
from pvt_jax.visualization.curves import check_installed


def check_report(folder: Path) -> None:
    """Raises UserError, before anything is evaluated: the report cannot be drawn, or ``folder`` is not new."""
    check_installed("--report")
    if jax.process_count() > 1:
        raise UserError("--report needs all images in one process: leave the flags of several processes out")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"--report {folder} is not empty: choose another folder, or remove it")


def write_report(folder: Path, report: Report, metrics: dict[str, float]) -> None:
    """Write all files of a report. Raises UserError: they cannot be written."""
    try:
        for name, content in report.files(metrics):
            place = folder / name
            place.parent.mkdir(parents=True, exist_ok=True)
            if not isinstance(content, bytes):
                file = io.BytesIO()
                Image.fromarray(content).save(file, "PNG")
                content = file.getvalue()
            place.write_bytes(content)
    except OSError as error:
        raise UserError(f"cannot write to --report {folder} ({error.strerror}): choose another folder") from error
