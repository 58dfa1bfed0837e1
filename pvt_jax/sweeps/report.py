"""Table and figures of a sweep, from its records alone, put into the README.md beside them."""

import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pvt_jax import paths
from pvt_jax.errors import UserError
from pvt_jax.messages import listed
from pvt_jax.sweeps.results import Record, at, by_arm, counted, number_at
from pvt_jax.sweeps.spec import Column, Figure, Sweep, Train
from pvt_jax.sweeps.statistics import Comparison, compare

FILE = "README.md"


def write(folder: Path, sweep: Sweep, records: Sequence[Record]) -> list[Path]:
    """Draw the figures into ``folder``, and replace the part of its README.md that is of the sweep's scale.

    That part stands between two comments, ``<!-- results: SCALE -->`` and ``<!-- end of results: SCALE -->``; where
    there are none, it is added at the end. Returns the files. Raises UserError: a file cannot be written.
    """
    shown = counted(records, sweep)
    written, pictures = [], []
    try:
        for figure in sweep.figures:
            if (content := figure.draw(sweep, shown)) is not None:
                paths.write_whole(folder / figure.file, content)
                written.append(folder / figure.file)
                pictures.append(figure)
        readme = folder / FILE
        before = readme.read_text("utf-8") if readme.exists() else f"# {sweep.title}\n"
        paths.write_whole(readme, placed(before, sweep.scale, text(sweep, shown, pictures)).encode())
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}") from error
    return [*written, readme]


def text(sweep: Sweep, records: Sequence[Record], drawn: Sequence[Figure] = ()) -> str:
    """Title, table, what figures add to it, and those that are ``drawn``, as Markdown.

    ``records`` are those that count. An arm without any has a row with its facts.
    """
    lines = [f"**{sweep.title}**", "", *_table(sweep, records), "", _origin(records)]
    for figure in sweep.figures:
        if added := figure.table(sweep, records):
            lines += ["", *added]
    for figure in drawn:
        lines += ["", f"![{figure.title}]({figure.file})"]
    return "\n".join(lines)


def placed(readme: str, scale: str, results: str) -> str:
    """The README with the results of a scale in their place."""
    start, end = f"<!-- results: {scale} -->", f"<!-- end of results: {scale} -->"
    part = f"{start}\n{results}\n{end}"
    if start not in readme:
        return f"{readme.rstrip()}\n\n{part}\n"
    before, _, rest = readme.partition(start)
    _, found, after = rest.partition(end)
    if not found:
        raise UserError(f"{FILE} has {start} without {end}: put that where the results end")
    return before + part + after


def _table(sweep: Sweep, records: Sequence[Record]) -> list[str]:
    found = {arm.name: [] for arm in sweep.arms} | by_arm(records)
    # What has not been measured has its facts.
    found = {name: its or [{"facts": sweep.arm(name).facts}] for name, its in found.items()}
    rows = [[name, *(_cell(column, its) for column in sweep.columns)] for name, its in found.items()]
    titles = ["arm", *(column.title for column in sweep.columns)]
    if sweep.tuning is not None:
        titles.append("learning rate")
        for row in rows:
            row.append(_rate(sweep.tuning.key, found[row[0]]))
    if sweep.metric:
        compared = {name: _by_seed(sweep, its) for name, its in found.items()}
        base = sweep.baseline or next((arm.name for arm in sweep.arms if isinstance(arm, Train)), "")
        own = {arm.name: arm.against or base for arm in sweep.arms}
        # Where all have one baseline the title tells it, otherwise each row does.
        is_one = {*own.values()} == {base}
        titles += [f"{sweep.metric} by seed", "mean", "range", *([] if is_one else ["against"])]
        titles += [f"against {base}" if is_one else "by", "p", "difference"]
        for row in rows:
            values, other = compared[row[0]], own[row[0]]
            row += [*_statistics(values), *([] if is_one else ["–" if row[0] == other else other])]
            row += _compared(compare(values, compared[other]) if row[0] != other and other in compared else None)
    left = [any(map(_is_word, column)) for column in zip(*rows, strict=True)]
    lines = [titles, ["---" if is_left else "---:" for is_left in left], *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


def _by_seed(sweep: Sweep, records: Sequence[Record]) -> dict[int, float]:
    numbers = {record.get("seed"): number_at(record, f"values.{sweep.metric}") for record in records}
    return {seed: number for seed, number in numbers.items() if seed is not None and number is not None}


def _statistics(values: Mapping[int, float]) -> list[str]:
    if not values:
        return ["–"] * 3
    numbers = [values[seed] for seed in sorted(values)]
    each = ", ".join(f"{number:.2f}" for number in numbers)
    return [
        each,
        f"{sum(numbers) / len(numbers):.2f}",
        f"{max(numbers) - min(numbers):.2f}" if len(numbers) > 1 else "–",
    ]


def _compared(found: Comparison | None) -> list[str]:
    if found is None:
        return ["–"] * 3
    p = "–" if found.p is None or math.isnan(found.p) else "<0.001" if found.p < 0.0005 else f"{found.p:.3f}"
    return [f"{found.difference:+.2f}", p, found.verdict]


def _cell(column: Column, records: Sequence[Record]) -> str:
    numbers = [number for record in records if (number := number_at(record, column.value)) is not None]
    if numbers:
        return format(sum(numbers) / len(numbers) * column.scale, column.form)
    words = {str(word) for record in records if (word := at(record, column.value)) is not None}
    return ", ".join(sorted(words)) or "–"


def _rate(key: str, records: Sequence[Record]) -> str:
    """The value of a tuned key, as the commands of an arm have it."""
    start = f"--config.{key}="
    words = [word for record in records for word in shlex.split(record.get("command", ""))]
    return ", ".join(sorted({word.removeprefix(start) for word in words if word.startswith(start)})) or "–"


def _is_word(cell: str) -> bool:
    return cell != "–" and not cell.lstrip("+-<").replace(",", "").replace(".", "").replace(" ", "").isdigit()


def _origin(records: Sequence[Record]) -> str:
    """Where and when the numbers were measured."""
    if not records:
        return "Not measured yet."
    kinds: dict[str, Any] = {
        "On": [record["machine"] for record in records],
        "jax": [record["versions"].get("jax") for record in records],
        "revision": [record["revision"] for record in records],
        "measured": [record["date"] for record in records],
    }
    parts = {name: listed(sorted({str(one) for one in found if one})) for name, found in kinds.items()}
    return f"On {parts['On']}; jax {parts['jax']}; revision {parts['revision']}; {parts['measured']}."
