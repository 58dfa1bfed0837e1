"""The text of compiled programs: shapes and their bytes, operands, how often a loop runs."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvt_jax.planning import hlo

LOOP = """HloModule jit_f, is_scheduled=true

%region_0.9 (arg.1: (s32[], f32[8])) -> (s32[], f32[8]) {
  %arg.1 = (s32[], f32[8]{0}) parameter(0)
  %i = s32[] get-tuple-element(%arg.1), index=0
  ROOT %next = (s32[], f32[8]{0}) tuple(%i, %i)
}

%fused_compare (p: s32[]) -> pred[] {
  %p = s32[] parameter(0)
  %limit = s32[] constant(12)
  ROOT %lt = pred[] compare(%p, %limit), direction=LT
}

%region_1.3 (arg.2: (s32[], f32[8])) -> pred[] {
  %arg.2 = (s32[], f32[8]{0}) parameter(0)
  %j = s32[] get-tuple-element(%arg.2), index=0
  ROOT %test = pred[] fusion(%j), kind=kLoop, calls=%fused_compare
}

ENTRY %main.5 (x: (s32[], f32[8])) -> (s32[], f32[8]) {
  %x = (s32[], f32[8]{0}) parameter(0), sharding={replicated}
  ROOT %while.1 = (s32[], f32[8]{0}) while(%x), condition=%region_1.3, body=%region_0.9, metadata={op_name="a (b)"}
}
"""


@pytest.mark.parametrize(
    ("shape", "size", "held"),
    [
        ("f32[]", 4, 4),
        ("bf16[3,5]{1,0}", 30, 30),
        ("pred[7]{0}", 7, 7),
        ("s4[6]{0}", 3, 3),
        ("f8e4m3fn[6]{0}", 6, 6),
        ("u32[2]{0}", 8, 8),
        ("token[]", 0, 0),
        ("(f32[2]{0}, (bf16[3]{0}, s64[1]{0}), /*index=5*/c64[1]{0})", 30, 30),
        # A tile of 8 × 128 is filled up, along the last axes in memory.
        ("f32[160,160]{1,0:T(8,128)}", 4 * 160 * 160, 4 * 160 * 256),
        ("f32[100,3]{0,1:T(8,128)}", 1200, 4 * 8 * 128),
        ("bf16[2,49,64]{2,1,0:T(8,128)(2,1)}", 2 * 2 * 49 * 64, 2 * 2 * 56 * 128),
        ("f32[10]{0:T(128)}", 40, 512),
        # What is kept on the chip takes no memory.
        ("f32[160]{0:T(256)S(1)}", 640, 0),
        ("(f32[8]{0:S(1)}, f32[8]{0}, u32[]{:S(2)})", 68, 32),
    ],
)
def test_bytes_of_shapes(shape, size, held):
    assert (hlo.size(shape), hlo.held(shape)) == (size, held)


@settings(max_examples=30)
@given(st.lists(st.integers(1, 300), min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_tiles_hold_what_is_in_them(sides, random):
    order = random.sample(range(len(sides)), len(sides))
    shape = f"f32[{','.join(map(str, sides))}]{{{','.join(map(str, order))}:T(8,128)}}"
    stored = [sides[axis] for axis in reversed(order)]
    rows = stored[-2] if len(sides) > 1 else 8
    expected = math.prod(stored[:-2]) * -(-rows // 8) * 8 * -(-stored[-1] // 128) * 128
    # An array of one axis has one axis of the tile.
    assert hlo.held(shape) == 4 * (expected if len(sides) > 1 else -(-stored[-1] // 128) * 128)
    assert hlo.size(shape) == 4 * math.prod(sides)


def test_computations_and_their_instructions():
    program = hlo.parse(LOOP)
    assert program.entry == "main.5" and list(program.computations) == [
        "region_0.9",
        "fused_compare",
        "region_1.3",
        "main.5",
    ]
    parameter, loop = program.computations["main.5"]
    assert (parameter.kind, parameter.operands, parameter.is_root) == ("parameter", (), False)
    assert (loop.kind, loop.operands, loop.is_root) == ("while", ("x",), True)
    assert loop.shape == "(s32[], f32[8]{0})" and loop.attribute("body") == "region_0.9"
    assert loop.attribute("to_apply") == ""


def test_how_often_a_loop_runs():
    def trips(text: str) -> int | None:
        program = hlo.parse(text)
        return program.trips(program.computations["main.5"][1])

    assert trips(LOOP) == 12
    known = LOOP.replace("body=%region_0.9", 'body=%region_0.9, backend_config={"known_trip_count":{"n":"7"}}')
    assert trips(known) == 7
    # It ends when a number fits, not when a counter has reached its limit.
    assert trips(LOOP.replace("direction=LT", "direction=LE")) is None
    assert trips(LOOP.replace("constant(12)", "parameter(1)")) is None


def test_branches():
    def branches(rest: str) -> tuple[str, ...]:
        return hlo.Instruction("c", "f32[]", "conditional", (), rest, False).branches

    assert branches("), branch_computations={%a.1, %b, %c}, metadata={}") == ("a.1", "b", "c")
    assert branches("), true_computation=%yes, false_computation=%no") == ("yes", "no")


def test_another_text_is_refused():
    with pytest.raises(ValueError, match="has no ENTRY"):
        hlo.parse("module @jit_f {\n}\n")
