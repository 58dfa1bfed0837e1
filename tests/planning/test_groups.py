"""Who exchanges messages with whom, in every form that XLA writes."""

import pytest

from pvt_jax.planning.groups import groups_of


@pytest.mark.parametrize(
    ("rest", "members"),
    [
        ("), replica_groups={{0,1},{2,3}}, use_global_device_ids=true", [(0, 1), (2, 3)]),
        ("), channel_id=1, replica_groups={}, to_apply=%add", [(0, 1, 2, 3)]),
        ("), to_apply=%add", [(0, 1, 2, 3)]),
        ("), replica_groups=[2,2]<=[4], dimensions={0}", [(0, 1), (2, 3)]),
        ("), replica_groups=[2,2]<=[2,2]T(1,0), dimensions={0}", [(0, 2), (1, 3)]),
        ("), replica_groups=[1,4]<=[4]", [(0, 1, 2, 3)]),
        ("), replica_groups=mesh['a'=2,'b'=2] {'a'}, to_apply=%add", [(0, 2), (1, 3)]),
        ("), replica_groups=mesh['a'=2,'b'=2] {'b'}, to_apply=%add", [(0, 1), (2, 3)]),
        ("), replica_groups=mesh['a'=2,'b'=2] {'a','b'}", [(0, 1, 2, 3)]),
        ("), replica_groups=mesh['a'=1,'b'=2,'c'=2], device_ids=([2,2]T(1,0)) {'b'}", [(0, 1), (2, 3)]),
        ("), replica_groups=mesh['a'=4] {'a':(1)2}", [(0, 2), (1, 3)]),
        ("), replica_groups=mesh['a'=4] {'a':(2)2}", [(0, 1), (2, 3)]),
        ("), channel_id=7, source_target_pairs={{0,1},{2,3},{1,0}}, metadata={}", [(0, 1), (2, 3), (1, 0)]),
    ],
)
def test_groups(rest, members):
    assert sorted(groups_of(rest, 4).members) == sorted(members)


def test_hosts():
    groups = groups_of("replica_groups={{0,1,2,3},{4,5,6,7}}", 8)
    assert groups.size == 4 and groups.hosts(4) == 1 and groups.hosts(2) == 2
    assert groups_of("replica_groups=[4,2]<=[2,4]T(1,0)", 8).hosts(4) == 2
    assert groups_of("", 8).hosts(8) == 1
