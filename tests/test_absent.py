"""Programs compiled for H100s and TPU slices that are not here.

`make absent-test` has the compilers. A row more is a line more.
"""

import dataclasses
import importlib.util
import json
import pathlib
import re

import jax
import pytest
from absent_programs import (
  TARGETS,
  Row,
  Update,
  counted,
  devices,
  facts,
  huge,
  model_of,
  square,
  update,
)
from scripts import launch
from updates import make_run, ragged_batch

from benchmarks import layouts, slices
from gpt_jax.config import UserError
from gpt_jax.model.decode_form import decode_form
from gpt_jax.programs import absent
from gpt_jax.runs import cost, on_paper
from gpt_jax.training.sharding import Layout

ROOT = pathlib.Path(__file__).resolve().parent.parent
BANDED = {'attention': 'banded', 'band': 64}
SCANNED = {'scan': True, 'L': 4}
LAYERS = {'scan': True, 'remat': 'block', 'L': 6, 'D': 512, 'N': 4}
CHUNKED = {'scan': True, 'remat': 'block', 'L': 4, 'D': 256}
ROWS = {
  'h100': Row('h100', 'cudnn'),
  'h100 banded': Row('h100', 'cudnn', model=BANDED),
  'h100 plain': Row('h100', 'plain', model={'flash': 'plain'}),
  'h100 heads of 128': Row('h100', 'cudnn', model={'N': 1}),
  'h100 float32': Row('h100', 'triton', model={'dtype': 'float32'}),
  'h100 dropout': Row('h100', 'triton', model={'dropout': 0.1}),
  'h100 documents': Row('h100', 'triton', model={'documents': 'apart'}),
  'h100 scan': Row('h100', 'cudnn', model=SCANNED),
  'h100 remat': Row('h100', 'cudnn', model=SCANNED | {'remat': 'block'}),
  'h100 accumulate': Row('h100', 'cudnn', fields={'accumulate': 4, 'loss_chunk': 64}),
  'h100 pmap': Row('h100:4', 'cudnn'),
  'h100 data': Row('h100:4', 'cudnn', 'data'),
  'h100 fsdp': Row('h100:4', 'cudnn', 'fsdp'),
  'h100 tensor': Row('h100:4', 'cudnn', 'fsdp=2,tensor=2'),
  'h100 layers': Row('h100:4', 'cudnn', 'fsdp', LAYERS, {'accumulate': 2}),
  'h100 once': Row('h100:4', 'cudnn', 'fsdp=2,tensor=2', whole=True),
  'h100 hosts': Row('h100:16', 'cudnn', 'data=4,fsdp=2,tensor=2'),
  'v5e': Row('v5e:1x1', 'splash', model={'N': 2}),
  'v5e banded': Row('v5e:1x1', 'splash', model=BANDED),
  'v5e dropout': Row('v5e:1x1', 'mosaic', model={'N': 2, 'dropout': 0.1}),
  'v5e remat': Row('v5e:1x1', 'splash', model=SCANNED | {'remat': 'block'}),
  'v5e data': Row('v5e:2x2', 'splash', 'data'),
  'v5p fsdp': Row('v5p:2x2x1', 'splash', 'fsdp'),
  'v5p tensor': Row('v5p:2x2x1', 'splash', 'data=2,tensor=2'),
  'v5p chunks': Row('v5p:2x2x1', 'splash', 'fsdp', CHUNKED, {'loss_chunk': 64}),
  'v5p planes': Row(
    'v5p:2x2x2', 'splash', 'data=2,fsdp=4', CHUNKED, {'loss_chunk': 64}, True
  ),
}
# Where what texts are continued on, and by which settings.
DECODED = {
  'h100 greedy': ('h100', {'temperature': 0}),
  'h100 top-p': ('h100', {'top_p': 0.9, 'num_return': 4}),
  'h100 beams': ('h100', {'beams': 4}),
  'h100 int8': ('h100', {'temperature': 0, 'weights': 'int8'}),
  'h100 int4': ('h100', {'beams': 4, 'weights': 'int4'}),
  'v5e greedy': ('v5e:1x1', {'temperature': 0}),
  'v5e beams': ('v5e:1x1', {'beams': 4}),
  'v5e int8': ('v5e:1x1', {'temperature': 0, 'weights': 'int8'}),
  'v5e int4': ('v5e:1x1', {'temperature': 0, 'weights': 'int4'}),
}
COMPILERS = {'h': 'jax_plugins.xla_cuda13', 'v': 'libtpu'}


def needed(on: str) -> None:
  """Skips a test whose compiler is not installed."""
  module = COMPILERS[on[0]]
  try:
    there = importlib.util.find_spec(module)
  except ModuleNotFoundError:
    there = None
  if not there:
    pytest.skip(f'no compiler of absent devices: {module}')


def made(name: str) -> Update:
  needed(ROWS[name].on)
  return update(ROWS[name])


@pytest.mark.parametrize('name', ROWS)
def test_an_update_compiles_with_the_kernel_that_was_chosen(name):
  found, row = made(name), ROWS[name]
  execution = found.layout.execution(found.run.model)
  kernel = execution.kernel
  assert kernel == row.kernel
  called = {TARGETS.get(kernel)}
  if execution.update != 'plain' and row.layout in ('', 'data'):
    called.add(TARGETS['triton'])  # an update's own, where no axis cuts arrays
  for target in set(TARGETS.values()):
    calls = [call for call in found.facts['targets'] if target in call]
    assert bool(calls) == (target in called), found.facts['targets']
  # Flash kernels never write the weights; blocks of a band are none of the context's.
  assert bool(square(found.facts['shapes'], found.cfg.T)) == (kernel == 'plain')
  counted(found)


@pytest.mark.parametrize('name', ROWS)
def test_a_device_holds_its_part_of_state_and_batch(name):
  found = made(name)
  held = found.program.held
  # A TPU pads vectors, and small parts of matrices, to tiles.
  most = 1.05 if ROWS[name].on[0] == 'h' else 1.15
  assert 0.95 < found.facts['arguments'] / sum(held.values()) < most
  state = cost.state_bytes(found.run, found.cfg, found.layout)
  assert held['parameters'] == state['parameters']
  assert held['optimizer'] == pytest.approx(state['optimizer'], abs=8)


@pytest.mark.parametrize('name', [n for n, row in ROWS.items() if row.layout])
def test_a_layout_sends_no_more_than_its_formula_says(name):
  found = made(name)
  foretold = sum(cost.communication_bytes(found.run, found.cfg, found.layout).values())
  # Gathers of what XLA found no better way for: vectors, the batch's numbers.
  assert sum(found.facts['sent'].values()) < 1.5 * foretold


def test_pmap_and_data_reduce_gradients_once():
  for name in ('h100 pmap', 'h100 data'):
    found = made(name)
    # Of few operations, whose bytes are those of all gradients; over a mesh they are
    # scattered, and the new parameters gathered, which is as much.
    gradients = 4 * cost.parameter_count(found.cfg)
    sent = sum(found.facts['sent'].values())
    assert sent == pytest.approx(2 * 3 / 4 * gradients, rel=0.3)
    assert sum(found.facts['operations'].values()) < 60


def test_layers_are_gathered_twice_a_micro_batch():
  found = made('h100 layers')
  L, D, V, T = found.cfg.L, found.cfg.D, found.cfg.V, found.cfg.T
  # Kernels in bfloat16, forward and backward; embeddings in float32, once.
  gathered = 3 / 4 * 2 * (2 * 2 * L * 12 * D * D + 4 * (V + T) * D)
  scattered = 3 / 4 * 2 * 4 * (L * 12 * D * D + (V + T) * D)
  sent = found.facts['sent']
  assert sent['all-gather'] == pytest.approx(gathered, rel=0.03)
  assert sent['reduce-scatter'] == pytest.approx(scattered, rel=0.03)
  assert sent.get('all-reduce', 0) < 0.01 * scattered


def test_a_tpu_scatters_within_planes_and_sums_a_loss_in_chunks_once():
  for name, most in ('v5p planes', 1.05), ('v5p chunks', 1.1):
    found = made(name)
    ideal = cost.communication_bytes(found.run, found.cfg, found.layout)
    # By layer the gradient of the embeddings is gathered once, which no one asked for.
    assert sum(found.facts['sent'].values()) < most * sum(ideal.values()), name


def test_over_tensor_only_activations_are_summed_whole():
  found = made('h100 once')
  L, D, V, T = found.cfg.L, found.cfg.D, found.cfg.V, found.cfg.T
  sent = found.facts['sent']
  # Of the half that a device has by `tensor`: `wte` too, whose rows both axes divide.
  weights = (L * 12 * D * D + V * D) / 2 + T * D
  assert sent['reduce-scatter'] == pytest.approx(4 * weights / 2, rel=0.03)
  # After each branch, both ways, of 4 rows in bfloat16; and for both ends in float32.
  summed = (4 * L + 2 * 2) * 4 * T * D * 2
  assert sent['all-reduce'] == pytest.approx(summed, rel=0.02)


def test_remat_works_with_less_memory():
  for device in ('h100', 'v5e'):
    scanned = ROWS[f'{device} remat']
    needed(scanned.on)
    kept = scanned._replace(model=SCANNED)
    less, more = update(scanned).facts, update(kept).facts
    assert less['working'] < 0.9 * more['working']
    assert less['flops'] > more['flops']


def decoded(on, *, weights='', **settings):
  """Returns a model, its layout and the programs that continue two prompts."""
  needed(on)
  layout = Layout((devices(on)[0],))
  model = model_of(layout)
  small = jax.eval_shape(
    lambda params: dataclasses.replace(model, params=params).quantized(weights).params,
    model.params,
  )
  model = dataclasses.replace(model, params=layout.placed(small))
  ids = [[1, 2, 3], [4, 5, 6, 7, 8]]
  of = {'max_new_tokens': 16, **settings}
  return model, layout, model.lowered(ids, layout.whole_shapes, **of)


@pytest.mark.parametrize(
  ('weights', 'settings'), [('int8', {'temperature': 0}), ('int4', {'beams': 4})]
)
def test_few_bits_take_the_kernels_of_bfloat16_and_less_time(weights, settings):
  program = 'search' if 'beams' in settings else 'tokens'
  found = []
  for bits in ('', weights):
    *_, programs = decoded('h100', weights=bits, **settings)
    found.append(facts(programs[program][0], 'h100', turn=True))
  bfloat16, small = found
  assert small['kernels'] == bfloat16['kernels']
  assert small['seconds'] < bfloat16['seconds']


@pytest.mark.parametrize('name', DECODED)
def test_decoding_compiles_and_a_token_reads_all_weights(name):
  on, settings = DECODED[name]
  model, layout, programs = decoded(on, **settings)
  beams = settings.get('beams', 1)
  assert set(programs) == ({'search'} if beams > 1 else {'prompt', 'tokens'})
  T_D = model.config.T * model.config.D
  form = jax.eval_shape(lambda params: decode_form(params, model.gpt), model.params)
  weights = layout.bytes_each(layout.placed(form))
  numbers = cost.parameter_count(model.config)
  for program, (lowered, _) in programs.items():
    found = facts(lowered, on, turn=program != 'prompt')
    assert found['arguments'] >= weights
    if on[0] == 'h':  # a TPU keeps so few weights in the memory of its core
      # Embeddings of positions and of most tokens are not read; the output matrix is.
      read = weights - 2 * T_D
      assert 0.9 * read < found['bytes'] < 30 * read
    rows = 2 * beams * settings.get('num_return', 1)
    if program != 'prompt':
      multiplied = 2 * rows * (numbers - 2 * T_D)
      assert found['flops'] >= 0.8 * multiplied


def test_what_is_too_large_for_a_tpu_is_no_crash():
  needed('v5e:1x1')
  layout = Layout((devices('v5e:1x1')[0],))
  with pytest.raises(on_paper.TooLarge) as error:
    on_paper.compiled(huge(layout))
  assert error.value.needed >= 2**35


@pytest.mark.parametrize(
  'name, number, processes',
  [
    ('h100', 1, 1),
    ('a100:8', 8, 1),
    ('h200:16', 16, 2),
    ('v5e:1x1', 1, 1),
    ('v5e:2x4', 8, 1),
    ('v6e:4x4', 16, 4),
    ('v4:2x2x1', 4, 1),
    ('v5p:2x2x2', 8, 2),
  ],
)
def test_a_name_gives_its_devices(name, number, processes):
  needed(name.replace('a', 'h', 1))
  found = devices(name)
  assert len(found) == number == len({device.id for device in found})
  assert len({device.process_index for device in found}) == processes


@pytest.mark.parametrize(
  'name, rule',
  [
    ('h100:12', 'another multiple of 8'),
    ('h100:0', 'another multiple of 8'),
    ('h100:2x4', 'another multiple of 8'),
    ('v5e:4', '2 edges, such as v5e:2x4'),
    ('v5p:2x2', '3 edges, such as v5p:2x2x1'),
    ('v5e:0x4', '2 edges'),
    ('h10:8', 'no device to compile for. Did you mean h100'),
    ('', 'no device to compile for'),
  ],
)
def test_a_name_of_no_devices_says_what_there_are(name, rule):
  with pytest.raises(UserError, match=rule):
    absent.devices(name)


def test_without_its_compiler_the_way_to_it_is_said(monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  for name in ('h100', 'v5e:2x2'):
    with pytest.raises(UserError, match='is not installed; `make absent-env`'):
      absent.devices(name)


def test_shapes_for_absent_devices_are_those_that_are_put_on_present_ones():
  for fields in (
    {'devices': 1},
    {'devices': 4},
    {'layout': 'data=2,fsdp=2', 'accumulate': 2},
  ):
    run = make_run(**fields)
    layout = Layout.of(run)
    for accumulate in (run.accumulate, None):
      put = layout.put(ragged_batch(), accumulate)
      shapes = layout.batch_shapes(ragged_batch(), accumulate)
      for array, shape in zip(*map(jax.tree.leaves, (put, shapes)), strict=True):
        assert (array.shape, array.dtype) == (shape.shape, shape.dtype)
        assert array.sharding.is_equivalent_to(shape.sharding, array.ndim)
  number = layout.whole_shapes(2.5)
  assert (number.shape, number.dtype) == ((), jax.numpy.float32)
  assert number.sharding.is_fully_replicated


def test_the_dry_run_of_each_verb_says_what_it_takes(tmp_path, task_place):
  needed('h100')
  devices('h100')  # by compilers without the flags of the tests
  tiny = [f'--config.model.{x}' for x in ('L=1', 'D=64', 'N=1', 'dtype=bfloat16')]
  quickstart = ROOT / 'experiments/quickstart.py'
  run = [f'--config={quickstart}', *tiny, '--config.model.dropout=0.0']
  for verb, place in ('train', ['--workdir=none', '--dry_run']), ('describe', []):
    said = launch(tmp_path, verb, *run, *place, '--on=h100:2').stdout
    assert 'compiled for 2 x NVIDIA H100 80GB HBM3, pmap; not run\n' in said
    assert 'attention cudnn: bfloat16 on gpu' in said
    parts = r'parameters, .* optimizer, .* batch, .* gradients and temporaries\n'
    assert re.search(rf'memory +[\d.]+ MiB each: .* {parts}', said)
    assert re.search(r'sends +[\d.]+ [KM]iB each; .* by \d+ all-reduce\n', said)
    assert re.search(r'time +[\d.]+ ms at least', said)
    assert re.search(r'speed +[\d,]+ tokens/s at most', said)
    assert re.search(r'fits +in 55.88 GiB, the part of 74.51 GiB', said)
  assert not list(tmp_path.iterdir())
  workdir = f'--workdir={task_place}/base'
  said = launch(tmp_path, 'eval', workdir, '--on=h100').stdout
  assert said.count('tokens/s at most') == 3 and 'fits      in' in said
  said = launch(tmp_path, 'sample', workdir, '--prompt=a', '--on=h100').stdout
  assert 'one token of each of 1 rows:' in said and said.count('at most') == 2
  assert re.search(r'attention \w+: .*, for the prompts\na token   \w+: ', said)
  refused = launch(tmp_path, 'sample', workdir, '--on=h100:2')
  assert 'texts are continued on one' in refused.stderr


def test_the_table_of_layouts_is_that_of_its_file():
  kept = json.loads(layouts.KEPT.read_text())
  keys = {layouts.key(name, *how) for name, _, *how in layouts.ROWS}
  assert kept.keys() == keys
  assert layouts.table(kept) in (ROOT / 'docs/scaling.md').read_text(encoding='utf-8')


def test_the_table_of_slices_is_that_of_its_file():
  kept = json.loads((slices.RESULTS / 'slices.json').read_text())
  assert kept.keys() <= {str(row) for row in slices.ROWS}
  assert slices.page(kept) == (slices.RESULTS / 'slices.md').read_text()
  for name, row in kept.items():
    # A program that fits the formula fits the compiler too.
    if 'seconds' in row:
      memory = next(each.memory for each in slices.ROWS if str(each) == name)
      assert row['fits'] and row['memory'] <= memory
