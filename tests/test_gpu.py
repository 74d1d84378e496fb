"""A GPU computes what a CPU does: run by `benchmarks/gpu.sh`, where there is one.

  GPT_JAX_GPU=1 python -m pytest -m gpu tests/test_gpu.py
  GPT_JAX_GPU_REHEARSAL=1 python -m pytest -m gpu tests/test_gpu.py

The second has a second device of the CPU in the GPU's place, so that the tests can be
seen to run, and to fail. The reference is always the CPU in float32. `apart` is |x - y|
over |y|, and LIMITS what rounding may make of it: float32 proper is near 1e-6, NVIDIA's
TF32, to which products in float32 default, near 3e-4, bfloat16 between 1e-3 and 1e-2;
a gradient has passed through twice as many products as logits have.
"""

import dataclasses
import os
from functools import partial

import jax
import numpy as np
import pytest

from gpt_jax import config
from gpt_jax.data.windows import Batch
from gpt_jax.evaluation import likelihood
from gpt_jax.inference.language_model import LanguageModel
from gpt_jax.model.gpt import GPT, init_params, unembed
from gpt_jax.model.gpt_config import Execution, GPTConfig, attention_kernel
from gpt_jax.tokenizers import Numbers
from gpt_jax.training import members, sharding, step
from gpt_jax.training.objective import LanguageModeling

REHEARSED = os.environ.get('GPT_JAX_GPU_REHEARSAL') == '1'
pytestmark = [
  pytest.mark.gpu,
  pytest.mark.skipif(
    not REHEARSED and os.environ.get('GPT_JAX_GPU') != '1',
    reason='no GPU is used; GPT_JAX_GPU=1 uses one',
  ),
]
VOCAB, ROWS, T = 1000, 4, 128
PROMPT, NEW = 24, 32


@dataclasses.dataclass(frozen=True)
class Form:
  """A way to compute: fields of the model, and the precision of float32 products."""

  dtype: str
  precision: str | None = None
  flash: str = 'plain'
  remat: str = 'none'
  scan: bool = False

  @property
  def fields(self):
    return {k: v for k, v in vars(self).items() if k != 'precision'}


FORMS = {
  'float32': Form('float32', 'highest'),
  'TF32': Form('float32'),
  'bfloat16': Form('bfloat16'),
  'flash': Form('bfloat16', flash='auto'),
  'flash, remat, scan': Form('bfloat16', flash='auto', remat='block', scan=True),
}
EXACT = FORMS['float32']
# Of logits; of gradients; of log p of single tokens [nats].
LIMITS = {
  'float32': (2e-5, 1e-4, 1e-3),
  'TF32': (3e-3, 2e-2, 0.05),
  'bfloat16': (3e-2, 8e-2, 0.3),
}
LIMITS |= {name: LIMITS['bfloat16'] for name in FORMS if 'flash' in name}
forms = pytest.mark.parametrize('name', FORMS)


def model_of(form, **fields):
  """Returns a small model with the heads of GPT-2, of 64 features."""
  shape = {'L': 2, 'D': 128, 'N': 2, 'T': T, 'vocab': VOCAB}
  return config.Model(**shape | form.fields | fields)


@pytest.fixture(scope='module')
def devices():
  """The reference, and what is judged by it."""
  cpu = jax.devices('cpu')
  return cpu[0], cpu[1] if REHEARSED else jax.devices('gpu')[0]


@pytest.fixture(scope='module')
def params(devices):
  """Weights larger than at the start, so that every part matters."""
  with jax.default_device(devices[0]):
    drawn = jax.jit(init_params, static_argnums=(0, 1))(
      GPTConfig.of(model_of(EXACT), 0), 0
    )
  draw = np.random.default_rng(1).normal
  return jax.tree.map(
    lambda p: np.asarray(p) + np.float32(0.02) * draw(size=p.shape).astype('f'), drawn
  )


def ids_of(seed=0, rows=ROWS, length=T):
  return np.random.default_rng(seed).integers(0, VOCAB, (rows, length), np.int32)


def apart(x, y):
  x, y = (np.asarray(a, np.float64) for a in (x, y))
  assert np.isfinite(x).all()
  return np.linalg.norm(x - y) / np.linalg.norm(y)


# What a rehearsal sets of `Execution` where a GPU's kernels would be chosen: forms that
# run on any device. A kernel of NVIDIA's own has none.
INTERPRETED = {'kernel': 'interpret', 'decode': 'interpreted'}


def gpt_on(device, form, **fields):
  model = model_of(form, **fields)
  how = Execution.of(model, [device])
  if REHEARSED and form.flash == 'auto':
    how = dataclasses.replace(how, **INTERPRETED)
  return GPT(GPTConfig.of(model, 0), how)


def logits_on(device, form, params, ids, **fields):
  gpt = gpt_on(device, form, **fields)

  @jax.jit
  def forward(params, ids):
    x_BTD, _ = gpt.apply({'params': params}, ids)
    return unembed(gpt, params, x_BTD)

  with jax.default_matmul_precision(form.precision):
    return np.asarray(forward(*jax.device_put((params, ids), device)))[..., :VOCAB]


@pytest.fixture(scope='module')
def wanted(devices, params):
  return partial(logits_on, devices[0], EXACT, params)


def test_a_gpu_that_can_takes_the_flash_kernel(devices):
  chosen = attention_kernel(model_of(FORMS['flash']), devices[1:])
  if REHEARSED:
    assert chosen.kernel == 'plain'
  elif float(devices[1].compute_capability) >= 8:
    assert chosen.kernel == 'cudnn', chosen.reason


@forms
def test_forward(devices, params, wanted, name):
  found = logits_on(devices[1], FORMS[name], params, ids_of())
  assert apart(found, wanted(ids_of())) < LIMITS[name][0]


@pytest.mark.parametrize('name', ['float32', 'flash'])
def test_forward_of_bands(devices, params, wanted, name):
  banded = {'attention': 'dense,banded', 'band': 48}
  found = logits_on(devices[1], FORMS[name], params, ids_of(), **banded)
  assert apart(found, wanted(ids_of(), **banded)) < LIMITS[name][0]
  assert apart(wanted(ids_of()), wanted(ids_of(), **banded)) > 2 * LIMITS[name][0]


def batch_of(seed):
  """Returns rows of very different numbers of targets."""
  ids = ids_of(seed, ROWS, T + 1)
  w_BT = (np.arange(T) < np.array([T, 5, 0, T // 2])[:, None]).astype('f')
  return Batch(ids[:, :-1], ids[:, 1:], w_BT, np.arange(ROWS, dtype=np.int32))


def run_of(form, optim, micro=(1, 0), **fields):
  schedule = config.Optim(schedule='constant', warmup=0, weight_decay=0.1)
  return config.Run(
    batch=ROWS,
    accumulate=micro[0],
    loss_chunk=micro[1],
    model=model_of(form, **fields),
    optim=dataclasses.replace(schedule, **optim),
  )


def trained(device, form, params, optim, updates, micro=(1, 0), **fields):
  """Returns how much some updates changed each parameter, and their losses."""
  run, losses = run_of(form, optim, micro, **fields), []
  layout, gpt = sharding.Layout((device,)), gpt_on(device, form, **fields)
  make = partial(step.init_state, run, params, gpt.config.width)
  objective = LanguageModeling.of(run, gpt)
  with jax.default_matmul_precision(form.precision):
    program = members.Alone(run, objective, layout, layout.state_shapes(make))
    state = layout.place(make())
    for i in range(updates):
      state, metrics = program.update(state, program.put([batch_of(i)]))
      losses.append(float(metrics['loss']))
  after = program.weights(state, 0)
  return jax.tree.map(lambda a, b: np.asarray(a) - b, after, params), losses


# Of rate 1 and not clipped, an update is the gradient with its sign changed.
GRADIENT = {'name': 'sgd', 'lr': 1.0, 'clip': 0.0, 'weight_decay': 0.0}


def check_changes(found, wanted, limit):
  """Compares trees leaf by leaf.

  A leaf's error is also taken relative to a thousandth of the whole: the gradient of
  the keys' biases is 0 but for rounding.
  """
  whole = np.linalg.norm([np.linalg.norm(leaf) for leaf in jax.tree.leaves(wanted)])
  for (path, y), x in zip(
    jax.tree_util.tree_leaves_with_path(wanted), jax.tree.leaves(found), strict=True
  ):
    assert np.isfinite(x).all()
    error = np.linalg.norm(x - y) / max(np.linalg.norm(y), 1e-3 * whole)
    assert error < limit, (jax.tree_util.keystr(path), error)


@pytest.mark.parametrize('dropout', [0.0, 0.1], ids=['', 'dropout'])
@forms
def test_gradient(devices, params, name, dropout):
  """Dropout is drawn by row and update, the same on every device."""
  given = params, GRADIENT, 1
  micro = (2, 64) if 'remat' in name else (1, 0)
  found, losses = trained(devices[1], FORMS[name], *given, micro, dropout=dropout)
  wanted, one_loss = trained(devices[0], EXACT, *given, dropout=dropout)
  check_changes(found, wanted, LIMITS[name][1])
  assert losses == pytest.approx(one_loss, rel=LIMITS[name][0])


# A larger eps, so that a gradient that is 0 but for rounding makes no step of size lr.
@pytest.mark.parametrize('optimizer', ['adamw', 'muon'])
@pytest.mark.parametrize('name', ['float32', 'flash'])
def test_updates(devices, params, name, optimizer):
  optim = {'name': optimizer, 'lr': 1e-3, 'eps': 1e-5}
  found, losses = trained(devices[1], FORMS[name], params, optim, 5)
  wanted, ours = trained(devices[0], EXACT, params, optim, 5)
  assert losses == pytest.approx(ours, rel=LIMITS[name][0])
  assert len(set(losses)) == 5
  if name == 'float32':
    check_changes(found, wanted, 0.02)


def together(device, form, params):
  """Returns the losses of two seeds over three updates in one program."""
  runs = [run_of(form, {'name': 'adamw'}, dropout=0.1) for _ in range(2)]
  runs[1].seed = 1
  gpt = gpt_on(device, form, dropout=0.1)
  objective = LanguageModeling.of(runs[0], gpt)
  in_turn, losses = device.platform == 'cpu', []
  with jax.default_matmul_precision(form.precision):
    group = members.Together(runs, objective, [device], in_turn=in_turn)
    states = [step.init_state(run, params, 1.0) for run in runs]
    state = group.stack(states)
    for i in range(3):
      state, metrics = group.update(state, group.put([batch_of(i), batch_of(i + 9)]))
      losses.append([each['loss'] for each in group.split(metrics)])
  return np.array(losses)


def test_seeds_under_vmap(devices, params):
  found, wanted = (together(device, EXACT, params) for device in devices[::-1])
  np.testing.assert_allclose(found, wanted, rtol=LIMITS['float32'][0])
  assert len(np.unique(wanted.round(4))) == 6


def language_model(device, form, params):
  gpt = gpt_on(device, form)
  return LanguageModel(jax.device_put(params, device), gpt, Numbers(VOCAB, VOCAB - 1))


def generated(device, form, params, **settings):
  model = language_model(device, form, params)
  with jax.default_device(device), jax.default_matmul_precision(form.precision):
    return model.generate_ids(
      ids_of(3, 2, PROMPT).tolist(),
      max_new_tokens=NEW,
      min_new_tokens=NEW,
      **settings,
    )


def logp_of(wanted, generation):
  """Returns the reference's log p of all tokens [new, vocab], of what was generated."""
  text = np.array([generation.prompt + generation.ids], np.int32)
  logits = wanted(text)[0, PROMPT - 1 : -1].astype(np.float64)
  return logits - np.logaddexp.reduce(logits, -1, keepdims=True)


SETTINGS = {
  'greedy': {'temperature': 0},
  'top-k': {'top_k': 40, 'seed': 5},
  'beams': {'beams': 4, 'num_return': 2},
}


@pytest.mark.parametrize('way', SETTINGS)
def test_decoding_in_float32_gives_the_same_ids(devices, params, way):
  found, wanted = (
    generated(device, EXACT, params, **SETTINGS[way]) for device in devices[::-1]
  )
  assert [one.ids for one in found] == [one.ids for one in wanted]
  for one, two in zip(found, wanted, strict=True):
    np.testing.assert_allclose(one.token_logp, two.token_logp, atol=1e-3)
    assert one.score == pytest.approx(two.score, abs=1e-2)


@pytest.mark.parametrize('way', SETTINGS)
@pytest.mark.parametrize('name', ['bfloat16', 'flash'])
def test_decoding_in_bfloat16_takes_likely_tokens(devices, params, wanted, name, way):
  limit = LIMITS[name][2]
  for one in generated(devices[1], FORMS[name], params, **SETTINGS[way]):
    logp = logp_of(wanted, one)
    chosen = logp[np.arange(NEW), one.ids]
    np.testing.assert_allclose(one.token_logp, chosen, atol=limit)
    if way == 'greedy':
      assert (chosen > logp.max(-1) - 2 * limit).all()


def test_beams_in_bfloat16_are_as_good(devices, params):
  """Beams of other rounding are others, with scores about as high."""
  best = [
    max(one.score for one in generated(device, form, params, **SETTINGS['beams']))
    for device, form in zip(devices, (EXACT, FORMS['flash']), strict=True)
  ]
  assert best[1] == pytest.approx(best[0], rel=0.05)


@pytest.mark.parametrize('name', ['float32', 'flash'])
def test_scores_of_continuations(devices, params, wanted, name):
  """Two share a context, and are read in one row."""
  context, form = ids_of(4, 1, 40)[0].tolist(), FORMS[name]
  pairs = [(context, ids_of(5 + i, 1, 7)[0].tolist()) for i in range(2)]
  model = language_model(devices[1], form, params)
  with jax.default_matmul_precision(form.precision):
    found = likelihood.score_continuations(model.params, model.gpt, pairs)
  for (before, after), scores in zip(pairs, found, strict=True):
    logits = wanted(np.array([before + after], np.int32))[0, 39:-1].astype(np.float64)
    logp = logits - np.logaddexp.reduce(logits, -1, keepdims=True)
    np.testing.assert_allclose(
      scores.logp, logp[np.arange(7), after], atol=LIMITS[name][2]
    )


def test_weights_in_8_bits(devices, params):
  reference, judged = (
    language_model(device, EXACT, params).int8() for device in devices
  )
  with jax.default_matmul_precision('highest'):
    found, wanted = (np.asarray(m.logits(ids_of(6))) for m in (judged, reference))
  assert apart(found, wanted) < LIMITS['float32'][0]


def test_the_limits_tell_another_model(params, wanted):
  """One kernel of many, a third larger, is beyond all of them."""
  kernel = params['h_1']['mlp']['down']['kernel']
  other = jax.tree.map(lambda p: p * np.float32(1.3) if p is kernel else p, params)
  found = logits_on(jax.devices('cpu')[0], EXACT, other, ids_of())
  assert apart(found, wanted(ids_of())) > max(limits[0] for limits in LIMITS.values())
