"""What devices send each other, by counts by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from gpt_jax.programs import collectives, hlo, work

# Lines as XLA writes them.
# ruff: noqa: E501
PROGRAM = """HloModule jit_f, is_scheduled=true, num_partitions=8

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %s = f32[] add(%a, %b)
}

%body (t: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %t = (s32[], f32[4,8]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%t), index=0
  %y = f32[4,8]{1,0} get-tuple-element(%t), index=1
  %x = bf16[1,8]{1,0} constant({...})
  %g = bf16[4,8]{1,0} all-gather(%x), replica_groups=[2,4]<=[8], dimensions={0}
  %p = f32[4,8]{1,0} collective-permute(%y), source_target_pairs={{0,1},{1,0}}
  ROOT %o = (s32[], f32[4,8]{1,0}) tuple(%i, %p)
}

%c (t.1: (s32[], f32[4,8])) -> pred[] {
  %t.1 = (s32[], f32[4,8]{1,0}) parameter(0)
  ROOT %e = pred[] constant(true)
}

ENTRY %main (x: f32[4,8]) -> f32[4,8] {
  %x.1 = f32[4,8]{1,0} parameter(0)
  %n = s32[] constant(0)
  %a.1 = f32[10]{0} constant({...})
  %t.2 = (s32[], f32[4,8]{1,0}) tuple(%n, %x.1)
  %w = (s32[], f32[4,8]{1,0}) while(%t.2), condition=%c, body=%body, backend_config={"known_trip_count":{"n":"3"}}
  %r = (f32[10]{0}, s32[]) all-reduce(%a.1, %n), replica_groups={{0,1},{2,3}}, to_apply=%add
  %z = f32[6]{0} reduce-scatter(%a.1), replica_groups=mesh['axis_0'=2,'axis_1'=3], device_ids=([6]) {'axis_1'}, to_apply=%add
  ROOT %q = f32[4,8]{1,0} get-tuple-element(%w), index=1
}
"""


def test_communication_is_counted_by_groups_sizes_and_turns_of_loops():
  sent, operations = collectives.by_kind(collectives.sent(hlo.read(PROGRAM)))
  assert sent == {
    'all-gather': 3 * 64 * 3 / 4,
    'collective-permute': 3 * 128,
    'all-reduce': 44 * 2 * 1 / 2,
    'reduce-scatter': 24 * 2,
  }
  assert operations == {
    'all-gather': 3,
    'collective-permute': 3,
    'all-reduce': 1,
    'reduce-scatter': 1,
  }


def test_a_new_way_to_write_groups_is_no_wrong_number():
  with pytest.raises(ValueError, match='line 30: .* a new way: all'):
    collectives.sent(hlo.read(PROGRAM.replace('{{0,1},{2,3}}', 'all')))


@pytest.mark.parametrize(
  'groups, wanted',
  [
    ('{{4,5},{6,7}}', (4, 5)),
    ('{}', tuple(range(8))),
    ('[2,4]<=[8]', (0, 1, 2, 3)),
    ('[4,2]<=[2,4]T(1,0)', (0, 4)),
    ("mesh['a'=2,'b'=4] {'a'}", (0, 4)),
    ("mesh['a'=2,'b'=4] {'a','b'}", tuple(range(8))),
    ("mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'b'}", (0, 2, 4, 6)),
  ],
)
def test_the_first_group_of_devices(groups, wanted):
  line = PROGRAM.replace('{{0,1},{2,3}}', groups)
  given = {each.name: each for each in collectives.sent(hlo.read(line))}
  assert given['r'].group == wanted


GPU = """HloModule jit_f, is_scheduled=true, num_partitions=4

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %s = f32[] add(%a, %b)
}

%scatter (p: f32[64]) -> f32[16] {
  %p = f32[64]{0} parameter(0)
  ROOT %rs = f32[16]{0} reduce-scatter(%p), replica_groups=[1,4]<=[4], dimensions={0}, to_apply=%add
}

ENTRY %main (x: f32[16], y: f32[64]) -> (f32[64], f32[16], f32[64]) {
  %x = f32[16]{0} parameter(0)
  %y = f32[64]{0} parameter(1)
  %all-gather-start = (f32[16]{0}, f32[64]{0}) all-gather-start(%x), replica_groups=[1,4]<=[4], dimensions={0}, backend_config={"collective_backend_config":{"is_sync":false}}
  %n = f32[64]{0} negate(%y)
  %all-gather-done = f32[64]{0} all-gather-done(%all-gather-start)
  %reduce-scatter-start = ((f32[64]{0}), f32[16]{0}) async-start(%n), calls=%scatter
  %m = f32[64]{0} exponential(%y)
  %k = f32[64]{0} sine(%m)
  %reduce-scatter-done = f32[16]{0} async-done(%reduce-scatter-start)
  %all-reduce-start = f32[64]{0} all-reduce-start(%k), replica_groups=[1,4]<=[4], to_apply=%add, backend_config={"collective_backend_config":{"is_sync":true}}
  %l = f32[64]{0} cosine(%k)
  %all-reduce-done = f32[64]{0} all-reduce-done(%all-reduce-start)
  ROOT %o = (f32[64]{0}, f32[16]{0}, f32[64]{0}) tuple(%all-gather-done, %reduce-scatter-done, %all-reduce-done)
}
"""


def test_what_stands_between_start_and_end_may_overlap():
  given = {each.kind: each for each in collectives.sent(hlo.read(GPU))}
  assert given['all-gather'].sent == 256 * 3 / 4  # its operand is not gathered again
  assert [each.name for each in given['all-gather'].beside] == ['n']
  assert given['reduce-scatter'].sent == 64 * 3
  assert [each.name for each in given['reduce-scatter'].beside] == ['m', 'k']
  assert given['all-reduce'].sent == 2 * 256 * 3 / 4
  assert given['all-reduce'].beside == ()  # it says that it blocks
  loose = hlo.read(GPU.replace(', is_scheduled=true', ''))
  with pytest.raises(hlo.Unreadable, match='not scheduled'):
    collectives.sent(loose)


TPU = """HloModule jit_f, is_scheduled=true, num_partitions=4

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %s = f32[] add(%a, %b)
}

%all-reduce-scatter (p: f32[64]) -> f32[16] {
  %p = f32[64]{0:T(256)} parameter(0)
  %all-reduce = f32[64]{0:T(256)} all-reduce(%p), replica_groups={{0,1,2,3}}, to_apply=%add
  %i = s32[] constant(0)
  ROOT %d = f32[16]{0:T(256)} dynamic-slice(%all-reduce, %i), dynamic_slice_sizes={16}
}

ENTRY %main (x: f32[64]) -> f32[16] {
  %x = f32[64]{0:T(256)} parameter(0)
  ROOT %f = f32[16]{0:T(256)} fusion(%x), kind=kCustom, calls=%all-reduce-scatter
}
"""


def test_a_sum_of_which_a_part_is_kept_is_a_scatter():
  (given,) = collectives.sent(hlo.read(TPU))
  # Its 64 numbers take the room of 256, a tile.
  assert (given.kind, given.sent) == ('reduce-scatter', 1024 * 3 / 4)


def test_a_compiled_sum_over_a_mesh():
  mesh = Mesh(np.array(jax.devices()).reshape(2, 4), ('a', 'b'))
  x = jax.ShapeDtypeStruct((8, 32), jnp.float32, sharding=NamedSharding(mesh, P('b')))
  f = jax.jit(lambda x: x.sum(axis=0), out_shardings=NamedSharding(mesh, P()))
  (given,) = collectives.sent(hlo.read(f.lower(x).compile().as_text()))
  assert (given.kind, given.sent, given.group) == (
    'all-reduce',
    2 * 32 * 4 * 3 / 4,
    (0, 1, 2, 3),
  )


# A gather that goes on while two fusions of a TPU compute, from its start to its end.
CHAIN = """HloModule jit_f, is_scheduled=true, num_partitions=8

%start (p: bf16[96,768]) -> (bf16[96,768], bf16[768,768], s32[2]) {
  %p = bf16[96,768]{1,0:T(8,128)(2,1)S(1)} parameter(0)
  %all-gather.1 = bf16[768,768]{1,0:T(8,128)(2,1)} all-gather(%p), replica_groups=mesh['axis_0'=8,'axis_1'=1] {'axis_0'}, dimensions={0}, frontend_attributes={chain_id="22"}
  ROOT %custom-call.1 = (bf16[96,768]{1,0:T(8,128)(2,1)S(1)}, bf16[768,768]{1,0:T(8,128)(2,1)S(1)}, s32[2]{0:S(4)}) custom-call(%all-gather.1), custom_call_target="AsyncCollectiveStart"
}

%async_collective_fusion.7 (p.1: bf16[96,768], g.1: bf16[768,768], s.1: s32[2], x.1: bf16[1024,768], w.1: bf16[768,768]) -> (bf16[1024,768], bf16[96,768], bf16[768,768], s32[2]) {
  %p.1 = bf16[96,768]{1,0:T(8,128)(2,1)S(1)} parameter(0)
  %g.1 = bf16[768,768]{1,0:T(8,128)(2,1)S(1)} parameter(1)
  %s.1 = s32[2]{0:S(4)} parameter(2)
  %x.1 = bf16[1024,768]{1,0:T(8,128)(2,1)} parameter(3)
  %w.1 = bf16[768,768]{1,0:T(8,128)(2,1)} parameter(4)
  %convolution.1 = bf16[1024,768]{1,0:T(8,128)(2,1)} convolution(%x.1, %w.1), dim_labels=bf_io->bf
  %all-gather.2 = bf16[768,768]{1,0:T(8,128)(2,1)S(1)} all-gather(%p.1), replica_groups=mesh['axis_0'=8,'axis_1'=1] {'axis_0'}, dimensions={0}, frontend_attributes={chain_id="22"}
  ROOT %tuple.1 = (bf16[1024,768]{1,0:T(8,128)(2,1)}, bf16[96,768]{1,0:T(8,128)(2,1)S(1)}, bf16[768,768]{1,0:T(8,128)(2,1)S(1)}, s32[2]{0:S(4)}) tuple(%convolution.1, %p.1, %all-gather.2, %s.1)
}

%done (p.2: bf16[96,768], g.2: bf16[768,768], s.2: s32[2]) -> bf16[768,768] {
  %p.2 = bf16[96,768]{1,0:T(8,128)(2,1)S(1)} parameter(0)
  %g.2 = bf16[768,768]{1,0:T(8,128)(2,1)S(1)} parameter(1)
  %s.2 = s32[2]{0:S(4)} parameter(2)
  %all-gather.3 = bf16[768,768]{1,0:T(8,128)(2,1)} all-gather(%p.2), replica_groups=mesh['axis_0'=8,'axis_1'=1] {'axis_0'}, dimensions={0}, frontend_attributes={chain_id="22"}
  ROOT %custom-call.2 = bf16[768,768]{1,0:T(8,128)(2,1)S(1)} custom-call(%p.2, %g.2, %all-gather.3, %s.2), custom_call_target="AsyncCollectiveDone"
}

ENTRY %main (p.3: bf16[96,768], x: bf16[1024,768], w: bf16[768,768]) -> (bf16[1024,768], bf16[768,768], bf16[1024,768]) {
  %p.3 = bf16[96,768]{1,0:T(8,128)(2,1)S(1)} parameter(0)
  %x = bf16[1024,768]{1,0:T(8,128)(2,1)} parameter(1)
  %w = bf16[768,768]{1,0:T(8,128)(2,1)} parameter(2)
  %f = (bf16[96,768]{1,0:T(8,128)(2,1)S(1)}, bf16[768,768]{1,0:T(8,128)(2,1)S(1)}, s32[2]{0:S(4)}) fusion(%p.3), kind=kCustom, calls=%start
  %f.0 = bf16[96,768]{1,0:T(8,128)(2,1)S(1)} get-tuple-element(%f), index=0
  %f.1 = bf16[768,768]{1,0:T(8,128)(2,1)S(1)} get-tuple-element(%f), index=1
  %f.2 = s32[2]{0:S(4)} get-tuple-element(%f), index=2
  %n = bf16[1024,768]{1,0:T(8,128)(2,1)} negate(%x)
  %h = (bf16[1024,768]{1,0:T(8,128)(2,1)}, bf16[96,768]{1,0:T(8,128)(2,1)S(1)}, bf16[768,768]{1,0:T(8,128)(2,1)S(1)}, s32[2]{0:S(4)}) fusion(%f.0, %f.1, %f.2, %n, %w), kind=kOutput, calls=%async_collective_fusion.7
  %h.0 = bf16[1024,768]{1,0:T(8,128)(2,1)} get-tuple-element(%h), index=0
  %h.1 = bf16[96,768]{1,0:T(8,128)(2,1)S(1)} get-tuple-element(%h), index=1
  %h.2 = bf16[768,768]{1,0:T(8,128)(2,1)S(1)} get-tuple-element(%h), index=2
  %h.3 = s32[2]{0:S(4)} get-tuple-element(%h), index=3
  %d = bf16[768,768]{1,0:T(8,128)(2,1)S(1)} fusion(%h.1, %h.2, %h.3), kind=kCustom, calls=%done
  %m = bf16[1024,768]{1,0:T(8,128)(2,1)} sine(%n)
  ROOT %o = (bf16[1024,768]{1,0:T(8,128)(2,1)}, bf16[768,768]{1,0:T(8,128)(2,1)S(1)}, bf16[1024,768]{1,0:T(8,128)(2,1)}) tuple(%h.0, %d, %m)
}
"""


def test_fusions_that_share_a_collective_count_it_once():
  module = hlo.read(CHAIN)
  (given,) = collectives.sent(module)
  assert (given.kind, given.sent) == ('all-gather', 768 * 768 * 2 * 7 / 8)
  assert [each.name for each in given.beside] == ['n', 'h']
  start, negation, step, sine = work.kernels(module)
  assert start.kind == 'collective'
  # The step's own work is a product; what it passes on of the gather is not moved.
  assert (step.kind, step.flops) == ('product', 2 * 1024 * 768 * 768)
  assert step.bytes == 2 * (2 * 1024 * 768 + 768 * 768)
  assert negation.bytes == sine.bytes == 2 * 2 * 1024 * 768
