"""Modelled times: a product over the peak, bytes over the bandwidth, messages of the best algorithms over links."""

import pytest

from pvt_jax.devices import Device, find
from pvt_jax.planning.groups import Groups
from pvt_jax.planning.roofline import seconds, seconds_of
from pvt_jax.planning.traffic import Collective

# Eight of each make a host.
DEVICE = Device("toy", bfloat16=1e15, float32=5e14, memory=1e11, bandwidth=4e12, link=400e9, network=50e9)
ALL = tuple(range(16))


def collective(kind: str, *members: tuple[int, ...], size: int = 10**9, times: int = 1) -> Collective:
    return Collective(kind, size, Groups(members), times)


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        # Seven eighths are of others; an all-reduce sends them twice.
        (collective("all-gather", ALL[:8]), 7 / 8 / 400),
        (collective("reduce-scatter", ALL[:8]), 7 / 8 / 400),
        (collective("all-reduce", ALL[:8]), 2 * 7 / 8 / 400),
        (collective("all-reduce", ALL[:2], ALL[2:4], times=3), 3 * 2 * 1 / 2 / 400),
        (collective("all-to-all", ALL[:4]), 3 / 4 / 400),
        (collective("collective-permute", (0, 1), (1, 0)), 1 / 400),
        # Two hosts: half of the bytes have to cross, over the eight adapters of a host.
        (collective("all-reduce", ALL), max(2 * 7 / 8 / 400, 2 * 1 / 2 / 8 / 50)),
        (collective("all-gather", ALL, size=8 * 10**9), 8 * max(7 / 8 / 400, 1 / 2 / 8 / 50)),
        # One device of each host: over one adapter.
        (collective("all-reduce", *zip(ALL[:8], ALL[8:], strict=True)), 2 * 1 / 2 / 50),
        (collective("all-to-all", ALL), max(7 / 16 / 400, 1 / 2 / 50)),
        (collective("collective-permute", (0, 8), (1, 2)), 1 / 50),
        # One device has nothing to send.
        (collective("all-reduce", (0,), (1,)), 0),
    ],
)
def test_collectives(one, expected):
    assert seconds_of(one, DEVICE, per_host=8) == pytest.approx(expected)


def test_parts_of_a_step():
    found = seconds(DEVICE, "bfloat16", 3e12, 8e9, [collective("all-gather", ALL[:8])] * 2, per_host=8)
    assert found == pytest.approx({"compute": 3e-3, "memory": 2e-3, "collectives": 2 * 7 / 8 / 400})
    found = seconds(DEVICE, "float32", 3e12, 8e9, [], per_host=8)
    assert found == pytest.approx({"compute": 6e-3, "memory": 2e-3, "collectives": 0})


def test_a_network_that_no_sheet_has():
    card = find("NVIDIA H100 PCIe")
    assert card is not None and card.network == 0
    assert seconds(card, "bfloat16", 1e12, 1e9, [collective("all-reduce", ALL)], per_host=8) is None
    assert seconds(card, "bfloat16", 1e12, 1e9, [collective("all-reduce", ALL[:8])], per_host=8) is not None


def test_a_copy_on_an_h200_is_nine_tenths_of_the_model():
    sheet = find("NVIDIA H200")
    assert sheet is not None and 4.3e12 / sheet.bandwidth == pytest.approx(0.9, abs=0.01)
