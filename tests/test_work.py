"""What kernels compute and move, against counts by hand and XLA's own analysis."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt_jax.programs import custom_calls, hlo, work

# Lines as XLA writes them.
# ruff: noqa: E501


def shape(*dims, dtype=jnp.float32):
  return jax.ShapeDtypeStruct(dims, dtype)


def compiled(f, *args, **options):
  return jax.jit(f, **options).lower(*args).compile()


def counted(f, *args, **options):
  return work.kernels(hlo.read(compiled(f, *args, **options).as_text()))


def total(kernels, number):
  return sum(each.times * getattr(each, number) for each in kernels)


def test_a_product_is_counted_as_by_xla():
  program = compiled(jnp.dot, shape(8, 16), shape(16, 32))
  (kernel,) = work.kernels(hlo.read(program.as_text()))
  said = program.cost_analysis()
  assert kernel.flops == 2 * 8 * 16 * 32 == said['flops']
  assert kernel.bytes == 4 * (8 * 16 + 16 * 32 + 8 * 32) == said['bytes accessed']
  assert (kernel.kind, kernel.arithmetic, kernel.vector) == ('product', 'tf32', 0)


def test_products_of_a_batch_contract_what_they_say():
  def f(q, k):
    return jnp.einsum('bnth,bnsh->bnts', q, k)

  kernels = counted(f, shape(2, 3, 8, 4), shape(2, 3, 16, 4))
  assert total(kernels, 'flops') == 2 * 2 * 3 * 8 * 16 * 4


def test_elements_and_sums_are_counted_as_by_xla():
  program = compiled(lambda x: (x * 2 + 1).sum(), shape(64, 32))
  kernels = work.kernels(hlo.read(program.as_text()))
  assert total(kernels, 'vector') >= 3 * 64 * 32
  assert total(kernels, 'vector') == pytest.approx(
    program.cost_analysis()['flops'], rel=0.05
  )


def test_a_gather_moves_what_it_takes():
  def f(table, ids):
    return table[ids] * 2

  kernels = counted(f, shape(1000, 8), shape(4, dtype=jnp.int32))
  rows = 4 * 8 * 4
  # The rows are read and written; besides, there are the ids.
  assert 2 * rows <= total(kernels, 'bytes') <= 6 * rows


def test_a_slice_moves_what_it_takes():
  def f(x, i):
    return jax.lax.dynamic_slice_in_dim(x, i, 2) + 1

  kernels = counted(f, shape(1000, 8), shape(dtype=jnp.int32))
  assert total(kernels, 'bytes') == 2 * 2 * 8 * 4 + 4


@pytest.mark.parametrize('donated', [True, False])
def test_a_cache_is_updated_in_place_where_it_may(donated):
  def f(cache, row, i):
    return jax.lax.dynamic_update_slice(cache, row * 2, (i, 0))

  kernels = counted(
    f,
    shape(1000, 8),
    shape(1, 8),
    shape(dtype=jnp.int32),
    donate_argnums=(0,) if donated else (),
  )
  whole, row = 1000 * 8 * 4, 8 * 4
  if donated:
    assert total(kernels, 'bytes') <= 4 * row
  else:
    assert total(kernels, 'bytes') >= 2 * whole


def test_loops_count_as_often_as_they_turn():
  def f(x):
    return jax.lax.fori_loop(0, 5, lambda i, x: jnp.sin(x @ x), x)

  program = compiled(f, shape(16, 16))
  module = hlo.read(program.as_text())
  assert total(work.kernels(module), 'flops') == 5 * 2 * 16**3
  (body, condition) = work.turn(module)
  assert total(work.kernels(module, body), 'flops') == 2 * 16**3
  assert total(work.kernels(module, condition), 'flops') == 0


def test_a_loop_that_may_end_early_asks_for_its_turns():
  def f(x):
    return jax.lax.while_loop(lambda x: x.sum() < 9, lambda x: x @ x, x)

  module = hlo.read(compiled(f, shape(16, 16)).as_text())
  with pytest.raises(hlo.Unreadable, match='how often %while.* turns is not known'):
    work.kernels(module)
  assert total(work.kernels(module, turns=3), 'flops') == 3 * 2 * 16**3
  parts = work.turn(module)
  assert sum(total(work.kernels(module, part), 'flops') for part in parts) == 2 * 16**3


def test_of_branches_the_dearest_counts():
  def f(i, x):
    branches = [jnp.sin, lambda x: x @ x, lambda x: x @ x @ x]
    return jax.lax.switch(i, branches, x)

  kernels = counted(f, shape(dtype=jnp.int32), shape(64, 64))
  assert total(kernels, 'flops') == 2 * 2 * 64**3


def call(lines):
  """Returns the kernels of a program of lines, its arrays parameters p0, p1, .."""
  text = '\n'.join(['HloModule jit_f, is_scheduled=true', '', lines])
  return work.kernels(hlo.read(text))


GEMM = """ENTRY %main (a: bf16[64,32], b: bf16[32,16]) -> bf16[64,16] {
  %a = bf16[64,32]{1,0} parameter(0)
  %b = bf16[32,16]{1,0} parameter(1)
  %c = (bf16[64,16]{1,0}, s8[4194304]{0}) custom-call(%a, %b), custom_call_target="__cublas$gemm", backend_config={"operation_queue_id":"0","gemm_backend_config":{"alpha_real":1,"beta":0,"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"],"rhs_contracting_dimensions":["0"],"lhs_batch_dimensions":[],"rhs_batch_dimensions":[]},"epilogue":"DEFAULT"}}
  ROOT %r = bf16[64,16]{1,0} get-tuple-element(%c), index=0
}"""


def test_cublas_by_its_shapes():
  (kernel,) = call(GEMM)
  assert kernel.flops == 2 * 64 * 32 * 16
  assert kernel.bytes == 2 * (64 * 32 + 32 * 16 + 64 * 16)  # without room to work in
  assert (kernel.kind, kernel.arithmetic) == ('__cublas$gemm', 'bf16')
  eighth = GEMM.replace('__cublas$gemm', '__cublas$lt$matmul$f8')
  eighth = eighth.replace('bf16[64,32]', 'f8e4m3fn[64,32]').replace(
    'bf16[32,16]', 'f8e4m3fn[32,16]'
  )
  (kernel,) = call(eighth.replace('"DEFAULT"', '"BIAS"'))
  assert kernel.bytes == 64 * 32 + 32 * 16 + 2 * 64 * 16
  assert (kernel.flops, kernel.arithmetic, kernel.vector) == (65536, 'f8', 64 * 16)


@pytest.mark.parametrize(
  'precision, dtype, arithmetic',
  [
    ('', 'f32', 'tf32'),
    (', operand_precision={highest,highest}', 'f32', 'f32'),
    ('', 'bf16', 'bf16'),
    ('', 's8', 's8'),
    ('', 'f8e5m2', 'f8'),
  ],
)
def test_the_units_that_compute_a_product(precision, dtype, arithmetic):
  (kernel,) = call(f"""ENTRY %main (a: {dtype}[4,8]) -> f32[4,4] {{
  %a = {dtype}[4,8]{{1,0}} parameter(0)
  ROOT %d = f32[4,4]{{1,0}} dot(%a, %a), lhs_contracting_dims={{1}}, rhs_contracting_dims={{1}}{precision}
}}""")
  assert (kernel.arithmetic, kernel.flops) == (arithmetic, 2 * 4 * 4 * 8)
  assert kernel.bytes == 2 * 4 * 8 * hlo.type_of(f'{dtype}[]').bytes + 4 * 16


ATTENTION = """ENTRY %main (q: bf16[2,16,4,8], k: bf16[2,16,4,8], v: bf16[2,16,4,8]) -> bf16[2,4,16,8] {
  %q = bf16[2,16,4,8]{3,2,1,0} parameter(0)
  %k = bf16[2,16,4,8]{3,2,1,0} parameter(1)
  %v = bf16[2,16,4,8]{3,2,1,0} parameter(2)
  %f = (bf16[2,4,16,8]{3,1,2,0}, f32[2,4,16]{2,1,0}, u8[1024]{0}) custom-call(%q, %k, %v), custom_call_target="__cudnn$fmhaSoftmax", backend_config={"cudnn_fmha_backend_config":{"fmha_scale":0.125,"intermediate_tensor_shape":{"element_type":"BF16","dimensions":["2","4","16","16"]},"mask_type":"CAUSAL","sliding_window_length":0}}
  ROOT %o = bf16[2,4,16,8]{3,1,2,0} get-tuple-element(%f), index=0
}"""


@pytest.mark.parametrize(
  'mask, window, pairs',
  [('CAUSAL', 0, 16 * 17 // 2), ('NO_MASK', 0, 256), ('CAUSAL', 3, 1 + 2 + 14 * 3)],
)
def test_cudnn_attention_by_its_mask(mask, window, pairs):
  text = ATTENTION.replace('CAUSAL', mask)
  text = text.replace('"sliding_window_length":0', f'"sliding_window_length":{window}')
  (kernel,) = call(text)
  assert kernel.flops == 2 * 2 * 8 * (2 * 4 * pairs)  # two products of H = 8
  assert kernel.bytes == 4 * (2 * 16 * 4 * 8) * 2 + 4 * 2 * 4 * 16
  (kernel,) = call(text.replace('fmhaSoftmax', 'fmhaSoftmaxBackward'))
  assert kernel.flops == 2 * 5 * 8 * (2 * 4 * pairs)


def test_pairs_of_a_mask_are_those_of_a_matrix():
  for T, S, causal, window in [(5, 5, True, 0), (3, 7, True, 0), (6, 6, True, 2)]:
    q, k = np.arange(T)[:, None] + S - T, np.arange(S)[None]
    seen = (k <= q) & ((q - k < window) if window else True)
    assert custom_calls.pairs(T, S, causal, window) == seen.sum()


def test_a_call_that_is_not_known_is_named():
  with pytest.raises(hlo.Unreadable, match=r"line 6: %c calls '__mystery'.* not known"):
    call(GEMM.replace('__cublas$gemm', '__mystery'))


PALLAS = """ENTRY %main (a: bf16[64,32]) -> bf16[64,16] {
  %a = bf16[64,32]{1,0} parameter(0)
  ROOT %c = bf16[64,16]{1,0} custom-call(%a), custom_call_target="TARGET", ATTRIBUTES
}"""


@pytest.mark.parametrize(
  'target, attributes',
  [
    (
      'tpu_custom_call',
      'backend_config={"custom_call_config":{"body":"AAA","cost_estimate":{"flops":"100","transcendentals":"7","bytes_accessed":"5000"}}}',
    ),
    (
      '__gpu$xla.gpu.triton',
      r'backend_config={debug = false, grid_x = 4 : i32, ir = "ML\EFR", serialized_metadata = "{\22flops\22: \22100\22, \22bytes_accessed\22: \225000\22, \22transcendentals\22: \227\22}"}',
    ),
    (
      'mosaic_gpu_v2',
      'frontend_attributes={cost_estimate={"flops": 100, "bytes_accessed": 5000, "transcendentals": 7}}, backend_config={module = "x"}',
    ),
  ],
)
def test_a_written_kernel_says_what_it_does(target, attributes):
  text = PALLAS.replace('TARGET', target)
  (kernel,) = call(text.replace('ATTRIBUTES', attributes))
  assert (kernel.flops, kernel.bytes, kernel.vector) == (100, 5000, 7)
  with pytest.raises(hlo.Unreadable, match=rf'%c calls .*{target[-6:]}.*cost_estimate'):
    call(text.replace('ATTRIBUTES', 'backend_config={}'))


def test_sorts():
  text = """ENTRY %main (a: u32[1000], v: s32[1000]) -> u32[1000] {
  %a = u32[1000]{0} parameter(0)
  %v = s32[1000]{0} parameter(1)
  %c = (u32[1000]{0}, s32[1000]{0}, u8[5000]{0}) custom-call(%a, %v), custom_call_target="__cub$DeviceRadixSort"
  ROOT %r = u32[1000]{0} get-tuple-element(%c), index=0
}"""
  (kernel,) = call(text)
  # The keys once, then in four passes of 8 bits all is read and written.
  assert kernel.bytes == 4000 + 4 * 2 * 8000
  kernels = counted(lambda x: jnp.sort(x), shape(1024))
  assert total(kernels, 'vector') >= 1024 * 10


CONVOLUTION = """ENTRY %main (q: bf16[2,12,64,32], k: bf16[2,12,128,32]) -> f32[2,12,64,128] {
  %q = bf16[2,12,64,32]{3,2,1,0} parameter(0)
  %k = bf16[2,12,128,32]{3,2,1,0} parameter(1)
  ROOT %c = f32[2,12,64,128]{3,2,1,0} convolution(%q, %k), window={size=2x12 stride=1x11 lhs_dilate=2x12}, dim_labels=01bf_01oi->01bf
}"""


def test_a_tpu_writes_products_as_convolutions():
  (kernel,) = call(CONVOLUTION)
  assert kernel.flops == 2 * 2 * 12 * 64 * 128 * 32
  plain = """ENTRY %main (x: bf16[2,1024,768], w: bf16[768,3072]) -> f32[2,1024,3072] {
  %x = bf16[2,1024,768]{2,1,0} parameter(0)
  %w = bf16[768,3072]{1,0} parameter(1)
  %w.1 = bf16[768,3072,1]{1,0,2} reshape(%w)
  ROOT %c = f32[2,1024,3072]{2,1,0} convolution(%x, %w.1), window={size=1}, dim_labels=0bf_io0->0bf
}"""
  assert total(call(plain), 'flops') == 2 * 2 * 1024 * 768 * 3072


def test_a_convolution_is_counted_as_by_xla():
  def f(x, w):
    return jax.lax.conv_general_dilated(x, w, (2,), [(1, 2)], rhs_dilation=(2,))

  program = compiled(f, shape(2, 3, 17), shape(5, 3, 4))
  kernels = work.kernels(hlo.read(program.as_text()))
  assert total(kernels, 'flops') == program.cost_analysis()['flops']


def test_an_operation_that_is_not_known_is_named():
  with pytest.raises(hlo.Unreadable, match=r"line 6: 'fft' of %c is not known"):
    call(CONVOLUTION.replace('convolution(', 'fft('))


UPDATE = """HloModule jit_f, is_scheduled=true DONATED

%fused (c: f32[1000,8], r: f32[1,8], i: s32[]) -> f32[1000,8] {
  %c = f32[1000,8]{1,0} parameter(0)
  %r = f32[1,8]{1,0} parameter(1)
  %i = s32[] parameter(2)
  %zero = s32[] constant(0)
  %n = f32[1,8]{1,0} negate(%r)
  ROOT %u = f32[1000,8]{1,0} dynamic-update-slice(%c, %n, %i, %zero)
}

ENTRY %main (cache: f32[1000,8], row: f32[1,8], at: s32[]) -> (f32[1000,8], f32[1000,8]) {
  %cache = f32[1000,8]{1,0} parameter(0)
  %row = f32[1,8]{1,0} parameter(1)
  %at = s32[] parameter(2)
  %f = f32[1000,8]{1,0} fusion(%cache, %row, %at), kind=kLoop, calls=%fused
  ROOT %o = (f32[1000,8]{1,0}, f32[1000,8]{1,0}) tuple(%f, LATER)
}"""


@pytest.mark.parametrize(
  'donated, later, in_place',
  [
    (', input_output_alias={ {0}: (0, {}, may-alias) }', '%f', True),
    ('', '%f', False),  # the caller keeps it
    (', input_output_alias={ {0}: (0, {}, may-alias) }', '%cache', False),
  ],
)
def test_a_fused_update_is_in_place_where_nothing_needs_the_old(
  donated, later, in_place
):
  text = UPDATE.replace(' DONATED', donated).replace('LATER', later)
  (kernel,) = work.kernels(hlo.read(text))
  row, whole = 8 * 4, 1000 * 8 * 4
  moved = 2 * row if in_place else row + (whole - row) + whole
  assert kernel.bytes == moved + 4  # and the number of the row
  assert kernel.kind == 'cache update'


def test_a_product_of_one_row_is_counted_although_elements_are_multiplied():
  text = """ENTRY %main (x: f32[768], w: f32[768,64]) -> f32[64] {
  %x = f32[768]{0} parameter(0)
  %w = f32[768,64]{1,0} parameter(1)
  ROOT %f = f32[64]{0} fusion(%x, %w), kind=kInput, calls=%fused
}

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %s = f32[] add(%a, %b)
}

%fused (x.1: f32[768], w.1: f32[768,64]) -> f32[64] {
  %x.1 = f32[768]{0} parameter(0)
  %w.1 = f32[768,64]{1,0} parameter(1)
  %b.1 = f32[768,64]{1,0} broadcast(%x.1), dimensions={0}
  %m = f32[768,64]{1,0} multiply(%b.1, %w.1), metadata={op_name="jit(f)/q/dot_general"}
  %z = f32[] constant(0)
  ROOT %r = f32[64]{0} reduce(%m, %z), dimensions={0}, to_apply=%add, metadata={op_name="jit(f)/q/dot_general"}
}"""
  (kernel,) = call(text)
  assert (kernel.flops, kernel.by_elements) == (0, 2 * 768 * 64)
  assert kernel.vector == 2 * 768 * 64


def test_memory_of_a_tpu_s_core_is_not_the_device_s():
  text = """ENTRY %main (x: f32[1024]) -> f32[1024] {
  %x = f32[1024]{0:T(1024)} parameter(0)
  %s = (f32[1024]{0:T(1024)S(1)}, f32[1024]{0:T(1024)}, u32[]{:S(2)}) copy-start(%x)
  %d = f32[1024]{0:T(1024)S(1)} copy-done(%s)
  ROOT %n = f32[1024]{0:T(1024)} negate(%d)
}"""
  assert [each.bytes for each in call(text)] == [4096, 4096]  # read once, written once
