"""The least time of programs by hand, and the guard against FLOPs that hide."""

import numpy as np
import pytest
from test_collectives import GPU
from updates import VOCAB, make_run, program_of

from benchmarks import roofline as script
from gpt_jax.data.windows import Batch
from gpt_jax.model.gpt_config import GPTConfig
from gpt_jax.programs import hlo, roofline
from gpt_jax.runs import cost
from gpt_jax.training import throughput

# Lines as XLA writes them.
# ruff: noqa: E501

PROGRAM = """HloModule jit_f, is_scheduled=true

%body (t: (s32[], bf16[4096,4096])) -> (s32[], bf16[4096,4096]) {
  %t = (s32[], bf16[4096,4096]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%t), index=0
  %x = bf16[4096,4096]{1,0} get-tuple-element(%t), index=1
  %d = bf16[4096,4096]{1,0} dot(%x, %x), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  ROOT %o = (s32[], bf16[4096,4096]{1,0}) tuple(%i, %d)
}

%ends (t: (s32[], bf16[4096,4096])) -> pred[] {
  %t = (s32[], bf16[4096,4096]{1,0}) parameter(0)
  ROOT %e = pred[] constant(true)
}

%command_buffer (x: bf16[4096,4096]) -> bf16[4096,4096] {
  %x = bf16[4096,4096]{1,0} parameter(0)
  ROOT %n = bf16[4096,4096]{1,0} negate(%x)
}

ENTRY %main (x: bf16[4096,4096]) -> bf16[4096,4096] {
  %x = bf16[4096,4096]{1,0} parameter(0)
  %zero = s32[] constant(0)
  %y = bf16[4096,4096]{1,0} call(%x), to_apply=%command_buffer
  %t.1 = (s32[], bf16[4096,4096]{1,0}) tuple(%zero, %y)
  %w = (s32[], bf16[4096,4096]{1,0}) while(%t.1), condition=%ends, body=%body, backend_config={"known_trip_count":{"n":"3"}}
  ROOT %z = bf16[4096,4096]{1,0} get-tuple-element(%w), index=1
}
"""
SIZE = 4096 * 4096 * 2


def test_a_kernel_takes_the_longest_of_what_it_does():
  of = roofline.estimate(hlo.read(PROGRAM), 'h100')
  # Three products, bound by their peak, and a negation, bound by memory.
  product = 2 * 4096**3 / (989.5e12 * 0.75)
  negation = 2 * SIZE / (3.35e12 * 0.85)
  assert of.seconds == pytest.approx(3 * product + negation)
  assert of.product_seconds == pytest.approx(3 * product)
  assert (of.kernels, of.graphed) == (4, 1)
  assert of.launch_seconds == pytest.approx(4 * 2e-6)
  assert of.total_seconds == pytest.approx(of.seconds + of.launch_seconds)
  assert (of.flops, of.vector) == (3 * 2 * 4096**3, 4096**2)
  assert of.bytes == 3 * 3 * SIZE + 2 * SIZE
  turn = roofline.estimate(hlo.read(PROGRAM), 'v5e', turn=True)
  assert (turn.kernels, turn.launch_seconds) == (1, 0)
  assert turn.seconds == pytest.approx(2 * 4096**3 / (197e12 * 0.75))


def test_float32_takes_the_peak_of_its_precision():
  text = PROGRAM.replace('bf16', 'f32')
  tf32 = roofline.estimate(hlo.read(text), 'h100').product_seconds
  assert tf32 == pytest.approx(3 * 2 * 4096**3 / (494.5e12 * 0.75))
  whole = text.replace('}, rhs', '}, operand_precision={highest,highest}, rhs')
  exact = roofline.estimate(hlo.read(whole), 'h100').product_seconds
  assert exact == pytest.approx(tf32 * 494.5 / 67)


def test_a_collective_costs_what_nothing_hides():
  text = GPU
  for small, large in (('[64]', '[67108864]'), ('[16]', '[16777216]')):
    text = text.replace(small, large)
  of = roofline.estimate(hlo.read(text), 'h100')
  size = 4 * 67108864
  sent = {'all-gather': 3 / 4, 'reduce-scatter': 3 / 4, 'all-reduce': 2 * 3 / 4}
  needed = {kind: size * share / (450e9 * 0.8) for kind, share in sent.items()}
  beside = 2 * size / (3.35e12 * 0.85)  # of one operation on all elements
  exposed = needed['all-gather'] - beside + needed['reduce-scatter'] - 2 * beside
  exposed += needed['all-reduce']
  assert of.collective_seconds == pytest.approx(sum(needed.values()))
  assert of.exposed_seconds == pytest.approx(exposed)
  assert of.sent == pytest.approx(size * sum(sent.values()))
  # A group that no NVLink joins goes by the network.
  far = hlo.read(text.replace('[1,4]<=[4]', '{{0,8,16,24}}'))
  slow = roofline.estimate(far, 'h100')
  assert slow.collective_seconds == pytest.approx(9 * of.collective_seconds)


def test_a_kernel_hides_one_of_two_collectives():
  text = """HloModule jit_f, is_scheduled=true, num_partitions=4

ENTRY %main (x: f32[16777216]) -> (f32[67108864], f32[67108864], f32[16777216]) {
  %x = f32[16777216]{0} parameter(0)
  %a = (f32[16777216]{0}, f32[67108864]{0}) all-gather-start(%x), replica_groups=[1,4]<=[4], dimensions={0}
  %b = (f32[16777216]{0}, f32[67108864]{0}) all-gather-start(%x), replica_groups=[1,4]<=[4], dimensions={0}
  %n = f32[16777216]{0} negate(%x)
  %c = f32[67108864]{0} all-gather-done(%a)
  %d = f32[67108864]{0} all-gather-done(%b)
  ROOT %o = (f32[67108864]{0}, f32[67108864]{0}, f32[16777216]{0}) tuple(%c, %d, %n)
}
"""
  of = roofline.estimate(hlo.read(text), 'h100')
  assert of.exposed_seconds == pytest.approx(of.collective_seconds - of.seconds)


@pytest.mark.parametrize('attention', ['dense', 'dense,banded'])
def test_an_update_computes_what_its_formula_says(attention):
  run = make_run(model_D=64, model_T=16, model_dropout=0.0, model_attention=attention)
  if attention == 'dense,banded':
    run.model.band = 4
  run.devices = 1
  update = program_of(run)
  ids = np.zeros((8, 16), np.int32)
  rows = Batch(ids, ids, ids + np.float32(1), np.arange(8, dtype=np.int32))
  batch = update.put([rows])
  text = update.jitted.lower(update.like, {}, batch, update.hp).compile().as_text()
  of = roofline.estimate(hlo.read(text), 'h100')
  cfg = GPTConfig.of(run.model, VOCAB)
  formula, tokens = cost.flops_per_token(cfg), 8 * 16
  roofline.check_flops(of.flops, formula, tokens)
  # A product that is not counted is noticed, and so are devices that are not there.
  large = max(each.flops for each in of.parts)
  padded = 6 * (cfg.V - cfg.vocab) * cfg.D * tokens
  with pytest.raises(roofline.Impossible, match=r'are not counted'):
    roofline.check_flops(of.flops - padded - large, formula, tokens)
  with pytest.raises(roofline.Impossible, match=r'4\d.\d% are not counted'):
    roofline.check_flops(of.flops / 8, formula, tokens, devices=4)


@pytest.mark.parametrize(
  'kind, group, ring, rate',
  [
    ('h100', range(8), True, 450e9),
    ('h100', range(64), True, 8 * 50e9),  # by the cards of all GPUs of a host
    ('h100', range(0, 64, 8), True, 50e9),  # by one card of each
    ('h100', range(0, 64, 2), True, 4 * 50e9),
    ('h100', range(64), False, 50e9),
    ('h100', range(8), False, 450e9),
    ('v5p', range(1024), True, 200e9),
  ],
)
def test_a_ring_crosses_to_the_next_host_by_all_cards_of_its_gpus(
  kind, group, ring, rate
):
  device = roofline.DEVICES[kind]
  assert roofline.rate_sent(group, device, ring=ring) == pytest.approx(0.8 * rate)


def test_peaks_are_those_of_the_utilisation():
  for name, kind in [
    ('h100', 'NVIDIA H100 80GB HBM3'),
    ('h200', 'NVIDIA H200'),
    ('a100', 'NVIDIA A100-SXM4-80GB'),
    ('v4', 'TPU v4'),
    ('v5e', 'TPU v5e'),
    ('v5p', 'TPU v5p'),
    ('v6e', 'TPU v6e'),
  ]:
    peak = roofline.DEVICES[name].peaks['bf16']
    assert peak == throughput.peak_flops(kind, 'bfloat16')


def test_the_table_has_the_whole_the_kinds_and_the_dearest(
  tmp_path, monkeypatch, capsys
):
  file = tmp_path / 'program.txt'
  file.write_text(PROGRAM)
  monkeypatch.setattr('sys.argv', ['roofline', str(file), '--device=h100', '--top=1'])
  script.main()
  said = capsys.readouterr().out.splitlines()
  assert said[0] == '4 kernels (1 in command buffers), 0.369 GB, 0.4123 TFLOP'
  assert said[1].startswith('at least 0.587 ms: kernels 0.579, launches 0.008,')
  assert said[2].split() == '3 x 0.302 GB 0.4123 TFLOP 0.556 ms product'.split()
  assert said[-1].endswith('product d bf16[4096,4096] ')
