"""Facts parsed from the text of compiled programs: a handwritten one, and XLA's for the CPU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cfg_jax.preflight import hlo

# A loop of 7 iterations around a fusion of 100 cycles and an all-reduce of 6 float32, an
# asynchronous all-gather of 4 x 8 bfloat16, and a fusion of 30 cycles. The note of 1000 in a nested
# fusion is part of the 30.
WRITTEN = """\
HloModule written, is_scheduled=true, input_output_alias={ {0}: (0, {}, may-alias), \
{1}: (2, {}, must-alias) }, entry_computation_layout={(f32[2,3]{1,0}, bf16[8], s32[])->f32[2,3]}

FileNames
1 "written.py"

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%inside (p: f32[2,3]) -> f32[2,3] {
  ROOT %p = f32[2,3]{1,0:T(8,128)S(1)} parameter(0), \
backend_config={"window_config":{"estimated_cycles":"1000"}}
}

%body (carried: (s32[], /*index=1*/f32[2,3])) -> (s32[], f32[2,3]) {
  %carried = (s32[], /*index=1*/f32[2,3]{1,0:T(8,128)}) parameter(0)
  %i = s32[] get-tuple-element(%carried), index=0
  %x = f32[2,3]{1,0:T(8,128)} get-tuple-element(%carried), index=1
  %work = f32[2,3]{1,0:T(8,128)} fusion(%x), kind=kLoop, calls=%inside, \
metadata={op_name="f(x) = {y}"}, backend_config={"window_config":{"estimated_cycles":"100"}}
  %summed = f32[2,3]{1,0:T(8,128)} all-reduce(%work), replica_groups={{0,1,2,3}}, to_apply=%add
  ROOT %next = (s32[], f32[2,3]{1,0:T(8,128)}) tuple(%i, %summed)
}

%condition (carried.1: (s32[], f32[2,3])) -> pred[] {
  %carried.1 = (s32[], f32[2,3]{1,0}) parameter(0)
  %i.1 = s32[] get-tuple-element(%carried.1), index=0
  %limit = s32[] constant(7)
  ROOT %goes_on = pred[] compare(%i.1, %limit), direction=LT
}

ENTRY %main (x.1: f32[2,3], y: bf16[8], n: s32[]) -> f32[2,3] {
  %x.1 = f32[2,3]{1,0:T(8,128)} parameter(0), sharding={replicated}
  %y = bf16[8]{0:T(256)(2,1)} parameter(1)
  %n = s32[] parameter(2)
  %first = (s32[], f32[2,3]{1,0:T(8,128)}) tuple(%n, %x.1)
  %loop = (s32[], f32[2,3]{1,0:T(8,128)}) while(%first), condition=%condition, body=%body
  %started = (bf16[8]{0}, bf16[4,8]{1,0}) all-gather-start(%y), dimensions={0}
  %gathered = bf16[4,8]{1,0} all-gather-done(%started)
  %out = f32[2,3]{1,0} get-tuple-element(%loop), index=1
  ROOT %last = f32[2,3]{1,0:T(8,128)} fusion(%out), kind=kLoop, calls=%inside, \
backend_config={"window_config":{"estimated_cycles":"30"}}
}
"""


@pytest.fixture(scope="module")
def written():
    return hlo.parse(WRITTEN)


def test_a_program_is_read_line_by_line(written):
    assert written.entry == "main"
    assert set(written.computations) == {"add", "inside", "body", "condition", "main"}
    gathering = next(i for i in written.computations["main"] if i.name == "started")
    assert gathering.opcode == "all-gather-start" and gathering.operands == "%y"
    work = next(i for i in written.computations["body"] if i.name == "work")
    assert work.opcode == "fusion" and 'op_name="f(x) = {y}"' in work.attributes


def test_a_loop_body_counts_once_per_iteration(written):
    times = {e.instruction.name: e.times for e in hlo.executed(written)}
    assert times["summed"] == 7 and times["last"] == 1
    assert hlo.estimated_cycles(written) == 7 * 100 + 30


def test_the_compilers_trip_count_of_a_loop_comes_before_its_condition():
    known = WRITTEN.replace(
        "body=%body", 'body=%body, backend_config={"known_trip_count":{"n":"5"}}'
    )
    assert hlo.estimated_cycles(hlo.parse(known)) == 5 * 100 + 30


def test_a_loop_of_unknown_length_counts_once_and_is_counted_as_such():
    module = hlo.parse(WRITTEN.replace("direction=LT", "direction=NE"))
    assert hlo.unknown_loops(module) == 1
    assert hlo.estimated_cycles(module) == 100 + 30


def test_kernels_that_the_compiler_says_nothing_about_are_counted_once_per_iteration():
    call = '%kernel = f32[6] custom-call(%x), custom_call_target="tpu_custom_call"'
    other = call.replace("tpu_custom_call", "AllocateBuffer").replace("%kernel", "%other")
    loop = WRITTEN.index("\n", WRITTEN.index("%body")) + 1
    module = hlo.parse(f"{WRITTEN[:loop]}  {call}\n  {other}\n{WRITTEN[loop:]}")
    assert hlo.kernels(module) == 7
    assert hlo.kernels(hlo.parse(WRITTEN)) == 0


def test_collectives_are_counted_with_the_bytes_of_the_larger_side(written):
    assert hlo.collectives(written) == {
        "all-gather": {"count": 1, "bytes": 4 * 8 * 2},
        "all-reduce": {"count": 7, "bytes": 7 * 6 * 4},
    }


def test_an_element_of_a_tuple_is_counted_alone():
    text = """\
HloModule m

ENTRY %main (x: f32[4]) -> f32[2] {
  %x = f32[4]{0} parameter(0)
  %pair = (f32[8]{0}, f32[2]{0}) fusion(%x), kind=kLoop, calls=%inside
  ROOT %sum = f32[2]{0} all-reduce(%pair#1), replica_groups={{0,1}}, to_apply=%add
}
"""
    text = text.replace("ENTRY", "%inside (p: f32[4]) -> f32[2] {\n}\n\nENTRY")
    assert hlo.collectives(hlo.parse(text)) == {"all-reduce": {"count": 1, "bytes": 2 * 4}}


def test_donated_arguments_are_read_from_the_first_line(written):
    assert hlo.donated_arguments(written) == {0, 2}
    header = (
        "HloModule m, input_output_alias={ {0}: (0, {0}, may-alias), {1}: (0, {2}, may-alias) }"
    )
    assert hlo.donated_arguments(written._replace(header=header)) == {0, 2}


def test_element_types_are_those_that_instructions_return(written):
    assert set(hlo.dtypes(written)) == {"f32", "bf16", "s32", "pred"}


@pytest.mark.parametrize(
    "shape, size",
    [
        ("f32[2,3]{1,0:T(8,128)S(1)}", 24),
        ("(bf16[8]{0}, /*index=1*/(pred[5], u32[]{:S(2)}))", 16 + 5 + 4),
        ("s4[6]", 3),
        ("token[]", 0),
        ("c64[2]", 16),
    ],
)
def test_bytes_follow_from_a_shape(shape, size):
    # A c64 is two float32.
    assert hlo.num_bytes(shape) == size


def test_a_text_without_a_program_is_refused():
    with pytest.raises(ValueError, match="no ENTRY computation"):
        hlo.parse("HloModule nothing\n")


def compiled_text(function, *shapes):
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return jax.jit(function).lower(*arguments).compile().as_text()


def test_products_in_a_loop_count_in_every_iteration():
    def repeated(x, w):
        return jax.lax.scan(lambda x, _: (jnp.tanh(x @ w), None), x, None, length=9)[0]

    module = hlo.parse(compiled_text(repeated, (4, 16), (16, 16)))
    assert hlo.flops(module) == 9 * 2 * 4 * 16 * 16
    assert hlo.unknown_loops(module) == 0


def multiplications(height, kernel, stride, low, high, spread):
    """Multiplications of a convolution along one axis, by counting kernel positions."""
    padded = np.zeros(low + (height - 1) * spread + 1 + high)
    padded[low : low + (height - 1) * spread + 1 : spread] = 1
    starts = range(0, len(padded) - kernel + 1, stride)
    return int(sum(padded[start : start + kernel].sum() for start in starts))


@pytest.mark.parametrize(
    "kernel, stride, low, high, spread",
    [(3, 1, 1, 1, 1), (3, 2, 0, 1, 1), (3, 1, 1, 2, 2), (8, 1, 1, 1, 1), (1, 1, 0, 0, 1)],
)
def test_a_convolution_counts_no_multiplication_with_padding(kernel, stride, low, high, spread):
    n = (low + 7 * spread + 1 + high - kernel) // stride + 1
    window = f"size={kernel}x{kernel} stride={stride}x{stride} pad={low}_{high}x{low}_{high}"
    text = f"""HloModule written
ENTRY %main (x: f32[5,8,8,6], w: f32[{kernel},{kernel},6,7]) -> f32[5,{n},{n},7] {{
  %x = f32[5,8,8,6] parameter(0)
  %w = f32[{kernel},{kernel},6,7] parameter(1)
  ROOT %y = f32[5,{n},{n},7] convolution(%x, %w), window={{{window} \
lhs_dilate={spread}x{spread}}}, dim_labels=b01f_01io->b01f
}}
"""
    one_axis = multiplications(8, kernel, stride, low, high, spread)
    assert hlo.flops(hlo.parse(text)) == 2 * 5 * 6 * 7 * one_axis**2


def test_flops_of_a_network_are_what_xla_counts():
    def loss(w, v, x):
        h = jax.lax.conv_general_dilated(
            x, w, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return jnp.sum((h.reshape(len(h), -1) @ v) ** 2)

    shapes = (3, 3, 32, 48), (4 * 4 * 48, 64), (16, 8, 8, 32)
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    compiled = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(*arguments).compile()
    counted = hlo.flops(hlo.parse(compiled.as_text()))
    np.testing.assert_allclose(counted, compiled.cost_analysis()["flops"], rtol=0.02)
