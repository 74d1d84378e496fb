"""The throughput line: where time goes, utilisation, memory."""

import types

import jax
import pytest

from gpt_jax.training import metrics_log, throughput

A100 = 'NVIDIA A100-SXM4-80GB'


class Clock:
  """Shows the seconds that the test has let pass."""

  now = 100.0

  def __call__(self):
    return self.now

  def wait(self, seconds):
    self.now += seconds


def device(kind, platform='gpu', **stats):
  return types.SimpleNamespace(
    device_kind=kind,
    platform=platform,
    process_index=0,
    memory_stats=lambda: stats or None,
  )


def new(clock, devices=None, dtype='bfloat16'):
  return throughput.Throughput(
    flops_per_token=7.8e9,
    devices=devices or jax.devices()[:1],
    dtype=dtype,
    clock=clock,
  )


def late_batches(clock, number, seconds):
  for step in range(number):
    clock.wait(seconds)
    yield step


def run(m, clock, updates=2):
  """Updates of 1 s: 0.1 waiting for input, 0.6 computing, 0.3 of Python."""
  for _ in m.inputs(late_batches(clock, updates, 0.1)):
    clock.wait(0.2)
    with m.computing():
      clock.wait(0.6)
    m.count(1000)
    clock.wait(0.1)


def split(fields):
  return [fields[f'{part}_ms'] for part in ('input', 'compute', 'other')]


def test_the_split_adds_up_to_the_time_of_an_update():
  clock = Clock()
  m = new(clock)
  for updates in (2, 5):  # a window begins where the last one ended
    run(m, clock, updates)
    fields = m.window()
    assert split(fields) == pytest.approx([100, 600, 300])
    assert fields['tokens_per_s'] == 1000
  assert fields['seconds'] == 7


def test_pauses_are_left_out_of_all_but_the_seconds():
  clock = Clock()
  m = new(clock)
  run(m, clock)
  with m.paused():
    clock.wait(50)
  run(m, clock)
  fields = m.window()
  assert split(fields) == pytest.approx([100, 600, 300])
  assert fields['tokens_per_s'] == 1000
  assert fields['seconds'] == 54


def test_utilisation_is_that_of_all_devices():
  clock = Clock()
  m = new(clock, [device(A100)] * 4)
  run(m, clock)
  # 7.8 GFLOP a token, 1000 tokens/s, 4 devices of 312 TFLOP/s
  assert m.window()['mfu'] == pytest.approx(7.8e12 / (4 * 312e12), abs=5e-5)
  assert 'utilisation 0.6 %' in m.summary()


@pytest.mark.parametrize(
  'devices', [[device('cpu', 'cpu')], [device(A100), device('')]]
)
def test_utilisation_is_unknown_where_any_device_is(devices):
  clock = Clock()
  m = new(clock, devices)
  run(m, clock)
  assert 'mfu' not in m.window()
  kind = devices[0].device_kind
  assert f'utilisation unknown (no peak known for {kind} in bfloat16)' in m.summary()


@pytest.mark.parametrize(
  ('kind', 'dtype', 'precision', 'peak'),
  [
    (A100, 'bfloat16', None, 312e12),
    (A100, 'bfloat16', 'highest', 312e12),
    (A100, 'float32', None, None),
    (A100, 'float32', 'tensorfloat32', 156e12),
    (A100, 'float32', 'highest', None),
    (A100 + ' MIG 1g.10gb', 'bfloat16', None, None),
    ('Tesla T4', 'bfloat16', None, None),
    ('Tesla T4', 'float32', None, 8.1e12),
    ('TPU v3', 'float32', None, 61.5e12),  # a core, half a chip
    ('TPU v3', 'float32', 'highest', None),
    ('cpu', 'float32', None, None),
  ],
)
def test_a_peak_is_that_of_the_arithmetic_that_is_done(kind, dtype, precision, peak):
  with jax.default_matmul_precision(precision):
    assert throughput.peak_flops(kind, dtype) == peak


def test_memory_is_the_fullest_devices_or_this_processes():
  devices = [device(A100, peak_bytes_in_use=n * 2**20) for n in (3, 5)]
  assert throughput.peak_memory_mib(devices) == 5
  assert throughput.peak_memory_mib([device(A100)]) is None
  assert 50 < throughput.peak_memory_mib(jax.devices()) < 2**20


def test_every_field_is_a_clock_field():
  clock = Clock()
  m = new(clock, [device(A100, peak_bytes_in_use=2**30)])
  run(m, clock)
  assert set(m.window()) == set(metrics_log.CLOCK_FIELDS)


def test_the_summary_is_of_the_median_window_without_the_first():
  clock = Clock()
  m = new(clock, [device(A100, peak_bytes_in_use=2**30)])
  for seconds in (90, 0, 2, 4, 8):  # of Python besides, in two updates
    run(m, clock)
    clock.wait(seconds)
    m.window()
    if seconds == 90:
      assert m.summary().startswith('speed     22 tokens/s with compilation')
  assert m.summary() == (
    'speed     500 tokens/s, 2000.0 ms an update (input 100.0, compute 600.0, '
    'other 1300.0), utilisation 1.2 %, peak memory 1,024 MiB of a device'
  )


def test_a_long_run_takes_no_more_memory():
  clock = Clock()
  m = new(clock, [device(A100)])
  for number in range(2500):
    run(m, clock)
    clock.wait(2 if number >= 1500 else 4)
    m.window()
  assert len(m.windows) == 1000
  assert m.summary().startswith('speed     500 tokens/s')  # of the last 1,000
