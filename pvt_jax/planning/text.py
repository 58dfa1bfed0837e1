"""A plan as text, at most 80 columns wide."""

from typing import Any

from pvt_jax.messages import aligned, byte_count, in_units, plural

_STATE = {
    "parameters": "parameters",
    "moving_average": "moving average of the parameters",
    "batch_stats": "batch statistics",
    "optimizer_state": "optimizer state",
    "batch": "images and labels",
}
_BESIDES = {"program": "program", "process": "process, with compiler and libraries"}
_LIMITS = {
    "compute": "operations",
    "memory": "memory traffic",
    "collectives": "collectives",
}


def describe(report: dict[str, Any]) -> str:
    """The report of ``plan`` as text."""
    parts = [_head(report), _memory(report)]
    if report["traffic"] is not None:
        parts += [_work(report), _collectives(report), _modelled(report)]
    parts += [_variants(report), _compilation(report)]
    return "\n\n".join("\n".join(part) for part in parts)


def _head(report: dict[str, Any]) -> list[str]:
    height, width = report["image_size"]
    head = f" with {report['head']}" if report["head"] else ""
    parts = f" in {report['accumulation_steps']} parts" if report["accumulation_steps"] > 1 else ""
    settings = "".join(f", {name}" for name in ("remat", "scan") if report[name])
    mesh = " × ".join(f"{axis} {size}" for axis, size in report["mesh"].items())
    hosts = f" on {report['hosts']} hosts" if report["hosts"] > 1 else ""
    return [
        f"{report['model']}{head}: {report['parameters']:,} parameters, {report['dtype']}{settings}",
        f"batches of {report['batch_size']:,} images of {height}×{width}{parts}",
        f"{report['device_count']} × {report['target']}{hosts}; mesh {mesh}",
    ]


def _memory(report: dict[str, Any]) -> list[str]:
    counted, memory, limit = report["counted"], report["memory"], report["memory_limit"]
    rows = [(title, byte_count(counted[name])) for name, title in _STATE.items() if counted[name]]
    state = sum(counted[name] for name in _STATE)
    if "temporary" in memory:
        rest = memory["total"] - sum(memory[name] for name in ("temporary", *_BESIDES)) - state
        rows += [("tiles filled up, results", byte_count(rest))]
        rows += [("temporary: activations, gradients, what kernels need", byte_count(memory["temporary"]))]
        rows += [(title, byte_count(memory[name])) for name, title in _BESIDES.items() if memory[name]]
    rows.append(("total", byte_count(memory["total"])))
    if limit is not None:
        whole = report["memory_of_device"]
        free = f" of {byte_count(whole)}" if whole and whole > limit else ""
        rows.append((f"what programs may take{free}", byte_count(limit)))
        rows.append(("fits", f"yes, {byte_count(limit - memory['total'])} left" if memory["fits"] else "NO"))
    activations = byte_count(counted["activations"])
    return [
        "Memory of a device",
        "",
        *aligned(rows, left=1),
        "",
        f"Differentiation keeps {activations} of activations of a device for the",
        "backward pass; the compiler may recompute some of it.",
    ]


def _work(report: dict[str, Any]) -> list[str]:
    devices, traffic = report["device_count"], report["traffic"]
    rows = [
        ("operations of products, of all devices", f"{in_units(report['flops'])}FLOP"),
        ("operations of products, of a device", f"{in_units(report['flops'] / devices)}FLOP"),
        ("bytes through the memory of a device", f"{in_units(traffic['bytes'])}B"),
        ("bytes an image", f"{in_units(traffic['bytes'] * devices / report['batch_size'])}B"),
        ("kernels", f"{traffic['kernels']:,}"),
    ]
    # What draws random numbers until they fit moves next to nothing.
    is_large = traffic["unknown_bytes"] > 1e-3 * traffic["bytes"]
    note = (
        [f"The body of {plural(traffic['unknown_loops'], 'loop')} of unknown length counts once."] if is_large else []
    )
    return ["A step", "", *aligned(rows, left=1), *note]


def _collectives(report: dict[str, Any]) -> list[str]:
    found = report["collectives"]
    if not found:
        return ["Collectives: none"]
    rows = [("collectives of a step", "devices", "count", "bytes of a device")]
    rows += [(row["kind"], f"{row['devices']}", f"{row['count']:,}", f"{in_units(row['bytes'])}B") for row in found]
    return aligned(rows, left=1)


def _modelled(report: dict[str, Any]) -> list[str]:
    found = report["modelled"]
    if found is None:
        return [f"No time is modelled: there is no data sheet here of {report['target']}."]
    rows = [(title, _time(found["seconds"][name])) for name, title in _LIMITS.items()]
    lines = ["Modelled, not measured: the time of a step by the device's data sheet", ""]
    lines += aligned(rows, left=1)
    bounds = {"overlapped": "all at once", "serial": "one after the other"}
    table = [("", "a step", "images per second", "hours of the run")]
    hours = found["hours"] or {}
    for name, title in bounds.items():
        rate = found["images_per_second"][name]
        length = f"{hours[name]:,.1f}" if hours else "–"
        table.append((title, _time(found["step_seconds"][name]), f"{rate:,.0f}", length))
    lines += ["", *aligned(table, left=1), ""]
    if hours:
        lines.append(f"A run has {plural(report['steps'], 'step')}; evaluation and waiting for data come on top.")
    else:
        lines.append("Its length is in epochs: --train_images says how many images there are.")
    rate = found["images_per_second"]["overlapped"] / report["hosts"]
    return [*lines, f"The pipeline has to read up to {rate:,.0f} images per second on each host."]


def _variants(report: dict[str, Any]) -> list[str]:
    found = [{"change": {}, **report}, *report["variants"]]
    counted = [("what would change, counted of a device", "state", "activations", "operations")]
    compiled = [("compiled, of a device", "total", "fits", "a step, modelled")]
    for row in found:
        title = ", ".join(f"{key}={value}" for key, value in row["change"].items()) or "as it is"
        sizes = row["counted"]
        state = byte_count(sum(sizes[name] for name in _STATE if name != "batch"))
        operations = f"{in_units(row['flops'] / report['device_count'])}FLOP"
        counted.append((title, state, byte_count(sizes["activations"]), operations))
        if "memory" in row:
            fits = {True: "yes", False: "NO", None: "–"}[row["memory"]["fits"]]
            step = _time(row["modelled"]["step_seconds"]["overlapped"]) if row["modelled"] else "–"
            compiled.append((title, byte_count(row["memory"]["total"]), fits, step))
    if len(compiled) == len(counted):
        return [*aligned(counted, left=1), "", *aligned(compiled, left=1)]
    return [*aligned(counted, left=1), "", "--compare compiles each of them, for totals and times."]


def _compilation(report: dict[str, Any]) -> list[str]:
    lowering, compiling = f"{report['lower_seconds']:.0f} s", f"{report['compile_seconds']:.0f} s"
    cached = " (from the persistent cache)" if report["from_cache"] else ""
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    return [f"Tracing and lowering took {lowering}, compiling{cached} {compiling}.", versions]


def _time(seconds: float) -> str:
    return f"{seconds * 1e3:,.2f} ms" if seconds < 10 else f"{seconds:,.1f} s"
