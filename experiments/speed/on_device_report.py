"""The tables of ``on_device.py`` from its records."""

from collections.abc import Sequence
from typing import Any

_HEAD = (
    *("model", "mode", "type", "side", "images/s", "least … most", "ours / it", "peak GiB"),
    *("share of peak FLOPs", "share of bandwidth", "compile, s"),
)
_NOTES = """\
Ours is the program of `python -m pvt_jax.benchmark`; `jax-plain` is without kernels (`kernels=False`). Images/s: the
median of the turns that the sides took one after the other. Ours / it: of the medians, of `jax` and of the side. In
float32 the products of both are in TF32 on GPUs that have it; in bfloat16 PyTorch trains by autocast and predicts with
weights in it. FLOPs: of the model's matrix products, the same for all sides. Bandwidth: bytes that our kernels read and
write by the compiled program, not measured. Memory: the most that the framework has had in use on the device. Hugging
Face's attention is eager, timm's is PyTorch's fused one."""


def report(records: Sequence[dict[str, Any]]) -> str:
    """All of it, in Markdown."""
    by_part: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        by_part.setdefault(record["part"], []).append(record)
    sections = ["# On one device"]
    for one in by_part.get("kernels", [])[-1:]:
        rows = [
            (name, f"{difference:.2g}", _agrees(difference, one)) for name, difference in one["differences"].items()
        ]
        title = f"Kernels on {one['device']}: largest difference from XLA, of at most {one['tolerance']}"
        sections += [f"## {title}", table(("kernel", "difference", ""), rows)]
    if cases := latest(by_part.get("case", [])):
        rows = [row for case in cases for row in case_rows(case)]
        batch, (height, width) = cases[0]["batch_size"], cases[0]["image_size"]
        sections += [f"## {batch} images of {height}×{width}", table(_HEAD, rows), _NOTES, _versions(cases)]
    for one in by_part.get("cifar10", [])[-1:]:
        names = ("step", "loss", "images_per_second", "top1", "exit_code")
        sections += ["## configs/cifar10.py", table(names, [tuple(_number(one[name]) for name in names)])]
    missing = [f"- {one['what']}: {one['reason']}" for one in by_part.get("failure", [])]
    missing += [
        f"- {case['model']}, {case['mode']}, {case['dtype']}, {side}: {values['error']}"
        for case in cases
        for side, values in case["sides"].items()
        if "error" in values
    ]
    measured = {_key(case) for case in cases}
    left_out = dict.fromkeys(_key(one) for one in by_part.get("left_out", []) if _key(one) not in measured)
    missing += [f"- {', '.join(key)}: no time left" for key in left_out]
    if missing:
        sections += ["## What is missing", "\n".join(missing)]
    if totals := by_part.get("total"):
        seconds = sum(one["seconds"] for one in totals)
        calls = f" in {len(totals)} calls" if len(totals) > 1 else ""
        sections.append(f"Total: {seconds:.0f} s{calls}.")
    return "\n\n".join(sections) + "\n"


def latest(cases: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The last record of each case, in the order of the first ones."""
    return list({_key(case): case for case in cases}.values())


def _key(record: dict[str, Any]) -> tuple[str, str, str]:
    return record["model"], record["mode"], record["dtype"]


def case_lines(case: dict[str, Any]) -> list[str]:
    """What a case has found, a line a side."""
    return [
        f"{side}: {values['error']}"
        if "error" in values
        else f"{side}: {_number(values['images_per_second'])} images/s"
        for side, values in case["sides"].items()
    ]


def case_rows(case: dict[str, Any]) -> list[tuple[str, ...]]:
    """A row for each side that has run."""
    ours = case["sides"].get("jax", {})
    rows = []
    for side, values in case["sides"].items():
        if "images_per_second" not in values:
            continue
        rate = values["images_per_second"]
        steps = rate / case["batch_size"]  # a second
        flops, moved = ours.get("flops"), values.get("bytes")
        rows.append(
            (
                *(case["model"], case["mode"], case["dtype"], side, _number(rate)),
                f"{_number(values['least_images_per_second'])} … {_number(values['best_images_per_second'])}",
                f"{ours['images_per_second'] / rate:.2f}" if "images_per_second" in ours else "–",
                f"{values['peak_bytes'] / 2**30:.1f}",
                _share(flops and flops * steps, ours.get("peak_flops")),
                _share(moved and moved * steps, values.get("bandwidth")),
                f"{values['compile_seconds']:.0f}",
            )
        )
    return rows


def _versions(cases: Sequence[dict[str, Any]]) -> str:
    found = [values["versions"] for case in cases for values in case["sides"].values() if "versions" in values]
    return "\n".join(f"- {version}" for version in dict.fromkeys(found))


def _agrees(difference: float, record: dict[str, Any]) -> str:
    return "agrees" if difference <= record["tolerance"] else "TOO LARGE"


def _share(found: float | None, most: float | None) -> str:
    return f"{found / most:.0%}" if found and most else "–"


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if isinstance(value, int) or value >= 100 else f"{value:.3g}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """In Markdown."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows))
