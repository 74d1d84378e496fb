"""XLA's text of a program, read: types, attributes, loops, and what is no such text."""

import jax
import jax.numpy as jnp
import pytest

from gpt_jax.programs import hlo

# Lines as XLA writes them.
# ruff: noqa: E501


@pytest.mark.parametrize(
  'text, dtype, dims, size',
  [
    ('f32[2,3]{1,0}', 'f32', (2, 3), 24),
    ('bf16[]', 'bf16', (), 2),
    ('pred[7]{0}', 'pred', (7,), 7),
    ('s64[0,3]{1,0}', 's64', (0, 3), 0),
    ('f8e4m3fn[4]{0}', 'f8e4m3fn', (4,), 4),
    ('s4[10]{0}', 's4', (10,), 10),  # one byte each, unless packed
    ('s4[10]{0:E(4)}', 's4', (10,), 5),
    ('f32[<=5]{0}', 'f32', (5,), 20),
    ('token[]', 'token', (), 0),
    # A TPU's tiles: the last dimension to 128, the one before to 8 or 16.
    ('f32[3,5]{1,0:T(8,128)}', 'f32', (3, 5), 8 * 128 * 4),
    ('f32[3,5]{0,1:T(8,128)}', 'f32', (3, 5), 8 * 128 * 4),
    ('bf16[2,300,64]{2,1,0:T(8,128)(2,1)}', 'bf16', (2, 300, 64), 2 * 304 * 128 * 2),
    ('f32[768]{0:T(1024)}', 'f32', (768,), 4096),
  ],
)
def test_arrays(text, dtype, dims, size):
  array = hlo.type_of(text)
  assert (array.dtype, array.dims, array.bytes) == (dtype, dims, size)


def test_tuples_and_spaces():
  nested = hlo.type_of('((f32[2]{0:S(1)}, /*index=1*/s32[]), u32[]{:S(2)})')
  assert [array.space for array in hlo.arrays(nested)] == [1, 0, 2]
  assert [array.dtype for array in hlo.arrays(nested)] == ['f32', 's32', 'u32']
  with pytest.raises(ValueError, match='no type of elements'):
    hlo.type_of('x32[2]')


@pytest.mark.parametrize(
  'place', [0, pytest.param(1, id='the other')], ids=['one', 'other']
)
def test_a_compiled_program(place):
  def f(x, y):
    return [x, y][place] + 1, jnp.dot(x, y)

  shape = jax.ShapeDtypeStruct((4, 4), jnp.float32)
  text = jax.jit(f, donate_argnums=place).lower(shape, shape).compile().as_text()
  module = hlo.read(text)
  assert module.scheduled and module.devices == 1
  assert module.donated == {place}
  given = [each.type.dims for each in module.entry.parameters]
  assert given == [(4, 4), (4, 4)]
  root = module.entry.root
  assert [array.dims for array in hlo.arrays(root.type)] == [(4, 4), (4, 4)]
  assert root.opcode == 'tuple'


PROGRAM = """HloModule jit_f, is_scheduled=true, input_output_alias={ {0}: (1, {}, may-alias) }, replica_count=2, num_partitions=4

FileNames
1 "a.py"

%body (t: (u32[], f32[4])) -> (u32[], f32[4]) {
  %t = (u32[]{:T(128)}, f32[4]{0:T(128)}) parameter(0)
  %i = u32[]{:T(128)} get-tuple-element(%t), index=0
  %two = u32[]{:T(128)} constant(2)
  %next = u32[]{:T(128)} add(%i, %two)
  %x = f32[4]{0:T(128)} get-tuple-element(%t), index=1
  ROOT %o = (u32[], f32[4]{0}) tuple(%next, %x)
}

%ends (t: (u32[], f32[4])) -> pred[] {
  %t = (u32[]{:T(128)}, f32[4]{0:T(128)}) parameter(0)
  %i = u32[]{:T(128)} get-tuple-element(%t), index=0
  %n = u32[]{:T(128)} constant(7)
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

ENTRY %main (x: f32[4]) -> f32[4] {
  %x.1 = f32[4]{0:T(128)} parameter(0), metadata={op_name="state[\\'a\\'] {"}
  %zero = u32[]{:T(128)} constant(0)
  %c = u32[]{:T(128)} copy(%zero)
  %t.1 = (u32[]{:T(128)}, f32[4]{0:T(128)}) tuple(%c, %x.1)
  %w = (u32[]{:T(128)}, f32[4]{0:T(128)}) while(%t.1), condition=%ends, body=%body
  ROOT %call = f32[4]{0:T(128)} custom-call(f32[4]{0:T(128)} %x.1, /*index=1*/%x.1), custom_call_target="mine", frontend_attributes={kernel_metadata={
"a":"{\\"b\\": 1}"
}}, backend_config={"custom_call_config":{"cost":"(3"}}
}
"""


FUSED = """%fused_add (a: u32[], b: u32[]) -> u32[] {
  %a = u32[] parameter(0)
  %b = u32[] parameter(1)
  ROOT %sum = u32[] add(%b, %a)
}

%fused_less (a: u32[], b: u32[]) -> pred[] {
  %b = u32[] parameter(1)
  %a = u32[] parameter(0)
  ROOT %less = pred[] compare(%a, %b), direction=LT
}

%fused_less_7 (a: u32[]) -> pred[] {
  %a = u32[] parameter(0)
  %n = u32[] constant(7)
  ROOT %less = pred[] compare(%a, %n), direction=LT
}

"""


def test_attributes_and_what_stands_in_quotes():
  module = hlo.read(PROGRAM)
  assert (module.name, module.donated, module.devices) == ('jit_f', {1}, 8)
  call = module.entry.root
  assert call.operands == ('x.1', 'x.1')
  assert call.target == 'mine'
  assert call.config == {'custom_call_config': {'cost': '(3'}}
  assert '"b\\": 1' in call.attributes['frontend_attributes']
  assert module.entry.parameters[0].op_name.endswith('{')


def test_turns_of_a_loop_are_those_of_its_counter():
  module = hlo.read(PROGRAM)
  ((part, loop),) = module.loops()
  assert module.trips(part, loop) == 4  # 0, 2, 4, 6
  for old, new in (
    ('constant(7)', 'parameter(1)'),
    ('add(%i, %two)', 'multiply(%i, %two)'),
    ('direction=LT', 'direction=NE'),
    ('copy(%zero)', 'negate(%zero)'),
  ):
    module = hlo.read(PROGRAM.replace(old, new))
    assert module.trips(*next(module.loops())) is None
  # A GPU has the comparison and the sum in fusions, the limit within or without.
  fused = PROGRAM.replace('%body (', FUSED + '%body (').replace(
    'add(%i, %two)', 'fusion(%two, %i), kind=kLoop, calls=%fused_add'
  )
  for old, new in (
    ('compare(%i, %n), direction=LT', 'fusion(%i, %n), kind=kLoop, calls=%fused_less'),
    ('compare(%i, %n), direction=LT', 'fusion(%i), kind=kLoop, calls=%fused_less_7'),
  ):
    module = hlo.read(fused.replace(old, new))
    assert module.trips(*next(module.loops())) == 4
  said = PROGRAM.replace(
    'body=%body', 'body=%body, backend_config={"known_trip_count":{"n":"9"}}'
  )
  module = hlo.read(said)
  assert module.trips(*next(module.loops())) == 9


@pytest.mark.parametrize(
  'old, new, says',
  [
    ('%c = u32', 'c u32', 'line 25: it is no instruction: c u32'),
    ('copy(%zero)', 'copy(%none)', 'line 25: %none is not there'),
    ('copy(%zero)', 'copy(%zero', 'line 25: a bracket does not close'),
    ('%two = u32[]', '%two = x32[]', "line 9: 'x32' is no type of elements"),
    ('copy(%zero)', '%zero', 'line 25: it has no operation'),
    ('FileNames', 'Poem', 'line 3: it is no part of a program: Poem'),
    ('body=%body', 'body=%other', 'line 27: %w calls %other, not there'),
    ('ROOT %less', '%less', '%ends has 0 lines with ROOT'),
    ('ENTRY ', '', 'no line with ENTRY'),
  ],
)
def test_what_is_not_as_xla_writes_it_is_named(old, new, says):
  with pytest.raises(hlo.Unreadable, match=says):
    hlo.read(PROGRAM.replace(old, new, 1))
