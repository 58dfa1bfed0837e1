"""How long a step takes at least, from the data sheet of a device: a model, not a measurement."""

from collections.abc import Iterable

from pvt_jax.devices import Device
from pvt_jax.planning.traffic import Collective

# An all-reduce is a reduce-scatter and an all-gather.
_PASSES = {"all-reduce": 2}


def seconds(
    device: Device, dtype: str, flops: float, moved: float, collectives: Iterable[Collective], per_host: int
) -> dict[str, float] | None:
    """Seconds of a device by what limits it: ``compute``, ``memory`` and ``collectives``.

    None: a collective needs a network of which the sheet has no number.

    Args:
      flops: of a step on one device.
      moved: bytes through its memory.
      per_host: devices with links to each other; between them and others is a network.
    """
    waits = [seconds_of(one, device, per_host) for one in collectives]
    messages = [wait for wait in waits if wait is not None]
    if len(messages) < len(waits):
        return None
    peak = device.bfloat16 if dtype == "bfloat16" else device.float32
    return {"compute": flops / peak, "memory": moved / device.bandwidth, "collectives": sum(messages)}


def seconds_of(one: Collective, device: Device, per_host: int) -> float | None:
    """Of a collective in a step: the messages of its best algorithm over links and network, both busy at once."""
    size, hosts = one.groups.size, one.groups.hosts(per_host)
    if one.kind == "collective-permute":
        on_link, on_network = float(hosts == 1), float(hosts > 1)
    elif one.kind == "all-to-all":
        # Each device has a part for each other one.
        on_link, on_network = (size / hosts - 1) / size, 1 - 1 / hosts
    else:
        # First among the devices of a host, each of which then takes its share to the other hosts.
        here, passes = size / hosts, _PASSES.get(one.kind, 1)
        on_link, on_network = passes * (1 - 1 / here), passes * (1 - 1 / hosts) / here
    if on_network and not device.network:
        return None
    waits = on_link / device.link, on_network / device.network if on_network else 0.0
    return max(waits) * one.bytes * one.times
