"""Bytes and messages of compiled programs: by hand, by XLA's own count, and on eight devices."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from pvt_jax.planning.traffic import Collective, Traffic, traffic
from tests.helpers.command import ROOT

# A fusion that slices, one that updates in place, a loop, a branch, copies that run beside the rest, chip memory.
PROGRAM = """HloModule jit_f, is_scheduled=true

%inner (r.0: s32[], r.1: f32[1000]) -> f32[10] {
  %r.0 = s32[] parameter(0)
  %r.1 = f32[1000]{0} parameter(1)
  ROOT %cut = f32[10]{0} dynamic-slice(%r.1, %r.0), dynamic_slice_sizes={10}
}

%sliced (p.0: f32[100,10], p.1: f32[10], p.2: s32[]) -> f32[10] {
  %p.0 = f32[100,10]{1,0} parameter(0)
  %p.1 = f32[10]{0} parameter(1)
  %p.2 = s32[] parameter(2)
  %view = f32[1000]{0} bitcast(%p.0)
  %part = f32[10]{0} fusion(%p.2, %view), kind=kLoop, calls=%inner
  ROOT %sum.1 = f32[10]{0} add(%part, %p.1)
}

%updated (q.0: f32[100,10], q.1: f32[10], q.2: s32[]) -> f32[100,10] {
  %q.0 = f32[100,10]{1,0} parameter(0)
  %q.1 = f32[10]{0} parameter(1)
  %q.2 = s32[] parameter(2)
  %zero.1 = s32[] constant(0)
  %row = f32[1,10]{1,0} bitcast(%q.1)
  ROOT %new = f32[100,10]{1,0} dynamic-update-slice(%q.0, %row, %q.2, %zero.1)
}

%body (arg.1: (s32[], f32[10], f32[100,10])) -> (s32[], f32[10], f32[100,10]) {
  %arg.1 = (s32[], f32[10]{0}, f32[100,10]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%arg.1), index=0
  %x = f32[10]{0} get-tuple-element(%arg.1), index=1
  %table = f32[100,10]{1,0} get-tuple-element(%arg.1), index=2
  %read = f32[10]{0} fusion(%table, %x, %i), kind=kLoop, calls=%sliced
  %all = f32[10]{0} all-reduce(%read), channel_id=1, replica_groups={{0,1},{2,3}}, to_apply=%add
  %written = f32[100,10]{1,0} fusion(%table, %all, %i), kind=kLoop, calls=%updated
  ROOT %next = (s32[], f32[10]{0}, f32[100,10]{1,0}) tuple(%i, %all, %written)
}

%condition (arg.2: (s32[], f32[10], f32[100,10])) -> pred[] {
  %arg.2 = (s32[], f32[10]{0}, f32[100,10]{1,0}) parameter(0)
  %j = s32[] get-tuple-element(%arg.2), index=0
  %limit = s32[] constant(5)
  ROOT %lt = pred[] compare(%j, %limit), direction=LT
}

%small (s.0: f32[10]) -> f32[10] {
  %s.0 = f32[10]{0} parameter(0)
  ROOT %n.1 = f32[10]{0} negate(%s.0)
}

%large (l.0: f32[10]) -> f32[10] {
  %l.0 = f32[10]{0} parameter(0)
  %n.2 = f32[10]{0} negate(%l.0)
  ROOT %n.3 = f32[10]{0} negate(%n.2)
}

ENTRY %main (a: f32[10], b: f32[100,10], p: pred[]) -> f32[10] {
  %a = f32[10]{0} parameter(0)
  %b = f32[100,10]{1,0} parameter(1)
  %p = pred[] parameter(2)
  %start = s32[] constant(0)
  %copy-start.1 = (f32[10]{0:S(1)}, f32[10]{0}, u32[]{:S(2)}) copy-start(%a)
  %copy-done.1 = f32[10]{0:S(1)} copy-done(%copy-start.1)
  %doubled = f32[10]{0:S(1)} add(%copy-done.1, %copy-done.1)
  %back = f32[10]{0} copy(%doubled)
  %carry = (s32[], f32[10]{0}, f32[100,10]{1,0}) tuple(%start, %back, %b)
  %loop = (s32[], f32[10]{0}, f32[100,10]{1,0}) while(%carry), condition=%condition, body=%body
  %y = f32[10]{0} get-tuple-element(%loop), index=1
  %all-gather-start.1 = (f32[10]{0}, f32[40]{0}) all-gather-start(%y), channel_id=2, replica_groups=[1,4]<=[4]
  %all-gather-done.1 = f32[40]{0} all-gather-done(%all-gather-start.1)
  %first = f32[10]{0} slice(%all-gather-done.1), slice={[0:10]}
  ROOT %chosen = f32[10]{0} conditional(%p, %first, %first), branch_computations={%small, %large}
}
"""


def kinds(found: Traffic) -> dict[tuple[str, int], tuple[int, int]]:
    """(how often, bytes in all) by kind and size of the groups."""
    sums: dict[tuple[str, int], tuple[int, int]] = {}
    for one in found.collectives:
        count, size = sums.get((one.kind, one.groups.size), (0, 0))
        sums[one.kind, one.groups.size] = (count + one.times, size + one.bytes * one.times)
    return sums


def test_a_program_by_hand():
    found = traffic(PROGRAM, 4)
    row = 4 * 10
    body = {"fusion": (row + row + 4 + row) + (row + 4 + row), "all-reduce": 2 * row}
    assert found.by_kind == {
        "fusion": 5 * body["fusion"],
        "all-reduce": 5 * body["all-reduce"],
        # To the chip and back; what is there costs nothing.
        "copy-start": row,
        "copy-done": 0,
        "add": 0,
        "copy": row,
        "all-gather-start": row,
        "all-gather-done": 4 * row,
        "slice": 2 * row,
        # The dearer branch.
        "negate": 4 * row,
    }
    assert found.bytes == sum(found.by_kind.values()) and found.unknown_loops == 0
    assert found.kernels == 3 + 5 * 3 + 1 + 1 + 2
    assert kinds(found) == {("all-reduce", 2): (5, 5 * row), ("all-gather", 4): (1, 4 * row)}


def test_a_loop_of_unknown_length_counts_once():
    found = traffic(PROGRAM.replace("direction=LT", "direction=LE"), 4)
    known = traffic(PROGRAM, 4)
    assert found.unknown_loops == 1 and found.bytes == known.bytes - 4 * found.unknown_bytes
    assert found.unknown_bytes == 288


def test_a_collective_that_runs_beside_others_counts_once():
    """XLA for TPU writes it into several fusions, under one number."""
    piece = "%{0} (p.{0}: f32[10]) -> f32[40] {{\n  %p.{0} = f32[10]{{0}} parameter(0)\n"
    piece += "  ROOT %g.{0} = f32[40]{{0}} all-gather(%p.{0}), channel_id=3, replica_groups=[1,4]<=[4]\n}}\n\n"
    entry = "ENTRY %main (a: f32[10]) -> f32[40] {\n  %a = f32[10]{0} parameter(0)\n"
    entry += "  %x = f32[40]{0} fusion(%a), kind=kCustom, calls=%one\n"
    entry += "  ROOT %y = f32[40]{0} fusion(%a), kind=kCustom, calls=%two\n}\n"
    found = traffic("HloModule m\n\n" + piece.format("one") + piece.format("two") + entry, 4)
    (collective,) = found.collectives
    assert (collective.kind, collective.bytes, collective.times) == ("all-gather", 160, 1)
    assert isinstance(collective, Collective) and found.bytes == 2 * (40 + 160)


def compiled(function, *shapes):
    inputs = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return jax.jit(function).lower(*inputs).compile()


@pytest.mark.parametrize(
    ("function", "shapes"),
    [
        (lambda a, b: a @ b, [(64, 32), (32, 48)]),
        (lambda a, b: jnp.tanh(a * b).sum(0), [(40, 30), (40, 30)]),
        (lambda a: a[3:5] * 2.0, [(100, 50)]),
        (lambda a, b: lax.dynamic_update_slice(a, b, (2, 0)), [(100, 50), (1, 50)]),
    ],
    ids=["product", "fusion", "slice", "update"],
)
def test_bytes_are_those_of_xla(function, shapes):
    program = compiled(function, *shapes)
    assert traffic(program.as_text(), 1).bytes == pytest.approx(program.cost_analysis()["bytes accessed"], rel=0.01)


def test_a_scan_reads_its_slices_as_often_as_it_runs():
    def scanned(x, weights):
        return lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)[0]

    sizes = [traffic(compiled(scanned, (64, 64), (length, 64, 64)).as_text(), 1).bytes for length in (4, 8, 12)]
    each = (sizes[1] - sizes[0]) / 4
    assert sizes[2] - sizes[1] == 4 * each
    # x and w are read, the product written; what tanh is fused with depends on the version of XLA.
    assert 3 * 64 * 64 * 4 <= each <= 8 * 64 * 64 * 4


ON_EIGHT = """
import json
import jax, jax.numpy as jnp, numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from pvt_jax.planning.traffic import traffic

mesh = Mesh(np.array(jax.devices()).reshape(2, 4), ("data", "fsdp"))

@jax.shard_map(mesh=mesh, in_specs=P(("data", "fsdp")), out_specs=P(("data", "fsdp")), check_vma=False)
def exchange(x):
    def body(x, _):
        return lax.psum(x, "fsdp") * 0.5, None
    x, _ = lax.scan(body, x, length=3)
    whole = lax.all_gather(x, "fsdp", tiled=True)
    x = lax.psum_scatter(whole, ("data", "fsdp"), tiled=True)
    x = jnp.tile(x, (8, 1))
    x = lax.all_to_all(x, ("data", "fsdp"), 0, 0, tiled=True)
    return lax.ppermute(x, "data", [(0, 1)])

shape = jax.ShapeDtypeStruct((8 * 16, 32), jnp.float32, sharding=NamedSharding(mesh, P(("data", "fsdp"))))
found = traffic(jax.jit(exchange).lower(shape).compile().as_text(), 8)
print(json.dumps([[c.kind, c.bytes, sorted(c.groups.members), c.times] for c in found.collectives]))
"""


def test_messages_of_eight_devices():
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "8", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", ON_EIGHT], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    found = {kind: (size, members, times) for kind, size, members, times in json.loads(done.stdout)}
    block, rows = 4 * 16 * 32, [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert found["all-reduce"] == (block, rows, 3)
    assert found["all-gather"] == (4 * block, rows, 1)
    assert found["reduce-scatter"] == (4 * block, [list(range(8))], 1)
    assert found["all-to-all"] == (4 * block, [list(range(8))], 1)
    assert found["collective-permute"] == (4 * block, [[0, 4], [1, 5], [2, 6], [3, 7]], 1)
    assert len(json.loads(done.stdout)) == 5


def test_an_operand_that_is_given_twice_is_read_once():
    text = """HloModule m

ENTRY %main (a: f32[1000], b: f32[1000]) -> f32[1000] {
  %a = f32[1000]{0} parameter(0)
  %b = f32[1000]{0} parameter(1)
  ROOT %c = f32[1000]{0} custom-call(%a, %b, %a), custom_call_target="kernel"
}
"""
    assert traffic(text, 1).bytes == 3 * 4000
