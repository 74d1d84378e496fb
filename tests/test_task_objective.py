"""The head, the two losses and updates of fine-tuning, against numpy."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt_jax import config
from gpt_jax.model.gpt import GPT, init_params
from gpt_jax.model.gpt_config import GPTConfig
from gpt_jax.model.heads import task_logits
from gpt_jax.tasks import inputs as task_inputs
from gpt_jax.tasks.labelled import Example
from gpt_jax.tasks.labelled_table import TASKS
from gpt_jax.training import optim, transfer
from gpt_jax.training.objective import LabelledTask, dropout, lm_targets
from gpt_jax.training.step import init_state, train_step

VOCAB = 40
MODEL = config.Model(L=2, D=16, N=2, T=32, norm='post', scaled_init=False)
SHAPE = GPTConfig.of(MODEL, VOCAB)
SOURCE = jax.jit(partial(init_params, SHAPE))(5)


def example(task, rng):
  text = lambda: ' '.join(map(str, rng.integers(0, VOCAB, rng.integers(1, 9))))  # noqa: E731
  number = {'classification': 1}.get(task.kind, 2)
  if task.kind == 'multiple_choice':
    label = rng.integers(len(task.labels))
    return Example((text(),), tuple(text() for _ in task.labels), int(label))
  high = task.scores[1] if task.scores else len(task.labels) - 1
  return Example(tuple(text() for _ in range(number)), (), int(rng.integers(high + 1)))


def inputs(task, examples):
  encode = lambda text: [int(word) for word in text.split()]  # noqa: E731
  return task_inputs.inputs(task, examples, encode, VOCAB, SHAPE.T)


def batch_of(name, examples=None, rows=4, T=24):
  task = TASKS[name]
  rng = np.random.default_rng(1)
  data = inputs(task, examples or [example(task, rng) for _ in range(rows)])
  return task, task_inputs.batch(data, np.arange(len(data.sequences)), rows, T)


def made(name, **fields):
  """Returns a run of a task, and its trees."""
  fields = {'name': name, 'dropout': 0.0} | fields
  run = config.Run(batch=4, task=config.Task(**fields))
  run.model = dataclasses.replace(MODEL)
  run.optim = config.Optim(lr=1e-2, schedule='constant', warmup=0)
  return run, (
    transfer.init(run, SHAPE, TASKS[name], SOURCE, 3),
    transfer.fixed(run, SOURCE),
  )


def objective_of(run, name):
  return LabelledTask.of(run, GPT(transfer.grown(SHAPE)), TASKS[name])


def logits_of(name, tree, batch):
  return np.asarray(jax.jit(objective_of(made(name)[0], name).logits)(tree, batch))


KINDS = ['sst2', 'mnli', 'mrpc', 'stsb', 'storycloze', 'race']


@pytest.mark.parametrize('name', KINDS)
def test_padding_and_batch_mates_move_no_logit(name):
  rng = np.random.default_rng(2)
  first = example(TASKS[name], rng)
  others = [example(TASKS[name], rng) for _ in range(6)]
  tree = made(name)[1][0]
  alone = logits_of(name, tree, batch_of(name, [first], 1, 24)[1])[0]
  for mates, T in ((others[:3], 24), (others[3:], 24), (others[:3], 32)):
    _, batch = batch_of(name, [first, *mates], 4, T)
    np.testing.assert_allclose(logits_of(name, tree, batch)[0], alone, atol=1e-6)


def test_what_lies_behind_the_extract_token_moves_no_logit():
  tree = made('sst2')[1][0]
  _, batch = batch_of('sst2')
  behind = np.arange(24) >= batch.length_BC[..., None]
  other = batch.replace(ids_BCT=np.where(behind, 7, batch.ids_BCT))
  same = logits_of('sst2', tree, batch) == logits_of('sst2', tree, other)
  assert behind.any() and same.all()


def test_the_second_choice_does_not_move_the_first():
  tree = made('storycloze')[1][0]
  one = Example(('1 2 3',), ('4 5', '6'), 0)
  other = one._replace(choices=('4 5', '9 8 7'))
  a, b = (
    logits_of('storycloze', tree, batch_of('storycloze', [e], 1)[1])[0]
    for e in (one, other)
  )
  assert a[0] == b[0] and a[1] != b[1]


@pytest.mark.parametrize('name', ['mrpc', 'stsb'])
def test_similarity_is_symmetric_to_the_bit(name):
  tree = made(name)[1][0]
  a, b = '1 2 3 4 5', '9 8'
  _, batch = batch_of(name, [Example((a, b), (), 0), Example((b, a), (), 0)], 2)
  logits = logits_of(name, tree, batch)
  assert (logits[0] == logits[1]).all()
  _, different = batch_of(name, [Example((a, '9 7'), (), 0)], 1)
  assert not np.allclose(logits[0], logits_of(name, tree, different)[0])


def by_hand(tree, task, examples, aux):
  """L2 and L1 as the release sums them, a sequence at a time, in float64."""
  start, _, extract = range(VOCAB, VOCAB + 3)
  large = transfer.grown(SHAPE)
  params, clf = transfer.merged(tree, made(task.name)[0].task, large).values()
  hidden_states = jax.jit(lambda p, ids: GPT(large).apply({'params': p}, ids)[0])
  head = np.asarray(params['wte'], np.float64)
  data = inputs(task, examples)
  nll, lm, count = 0.0, [], 0
  for sequences, target in zip(data.sequences, data.targets, strict=True):
    hidden = []
    for ids in sequences:
      assert ids[0] == start and ids[-1] == extract
      padded = np.pad(ids, (0, SHAPE.T - len(ids)))[None]
      x = np.asarray(hidden_states(params, padded), np.float64)[0, : len(ids)]
      hidden.append(x[-1])
      logits = (x @ head.T)[:, : large.vocab]
      logp = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
      lm.append(-np.mean([logp[t, ids[t + 1]] for t in range(len(ids) - 1)]))
      count += len(ids) - 1
    kernel, bias = (np.asarray(clf[n], np.float64) for n in ('kernel', 'bias'))
    if task.kind == 'multiple_choice':
      logits = np.array([(h @ kernel + bias)[0] for h in hidden])
    else:
      logits = sum(hidden) @ kernel + bias
    nll -= target @ (logits - np.logaddexp.reduce(logits))
  return nll / len(examples) + aux * np.mean(lm), count


@pytest.mark.parametrize('name', KINDS)
def test_the_loss_is_that_of_the_paper(name):
  task = TASKS[name]
  run, (trained, fixed) = made(name)
  rng = np.random.default_rng(1)
  examples = [example(task, rng) for _ in range(3)]
  _, batch = batch_of(name, examples, 4)  # a row that only fills the batch
  wanted, count = by_hand(trained, task, examples, 0.5)
  nll, lm = jax.jit(objective_of(run, name).losses)(trained | fixed, batch)
  assert float(nll + 0.5 * lm) / 3 == pytest.approx(wanted, rel=1e-5)
  _, w = lm_targets(batch)
  C = batch.ids_BCT.shape[1]
  # The tokens that the release counts: all but the first of each sequence.
  assert int((w > 0).sum()) == count
  np.testing.assert_allclose(w.sum(-1), np.repeat([1, 1, 1, 0], C), rtol=1e-6)


def test_delimiter_and_extract_are_targets_and_start_is_none():
  _, batch = batch_of('mnli')
  y, w = lm_targets(batch)
  seen = set(np.asarray(y)[np.asarray(w) > 0].tolist())
  assert {VOCAB + 1, VOCAB + 2} <= seen and VOCAB not in seen


def step_of(run, name):
  objective = objective_of(run, name)
  return jax.jit(partial(train_step, objective=objective, choices=run.optim))


def updated(run, trees, name, batch, updates=3, accumulate=1, fixed=None):
  trained, fixed = trees
  hp = optim.Hyper.of(run)
  state = init_state(run, trained, SHAPE.width)
  micro = jax.tree.map(lambda a: a.reshape(accumulate, -1, *a.shape[1:]), batch)
  step, losses = step_of(run, name), []
  for _ in range(updates):
    state, metrics = step(state, fixed, micro, hp)
    losses.append(float(metrics['loss']))
  return state.params, losses


def test_micro_batches_change_nothing_with_dropout_on():
  run, trees = made('storycloze', dropout=0.3)
  run.model.dropout = 0.2
  run.optim.name, run.optim.lr = 'sgd', 0.5  # Adam would blow up rounding
  _, batch = batch_of('storycloze', rows=4)
  batch = batch.replace(w_B=np.array([1, 1, 1, 0], 'f'))
  whole, losses = updated(run, trees, 'storycloze', batch)
  parts, others = updated(run, trees, 'storycloze', batch, accumulate=2)
  np.testing.assert_allclose(losses, others, rtol=1e-5)
  jax.tree.map(partial(np.testing.assert_allclose, atol=1e-4), whole, parts)
  assert losses[-1] < losses[0]


def test_the_choices_of_an_example_share_the_head_s_dropout():
  run, (trained, _) = made('storycloze', dropout=0.5, aux=0.0)
  same = Example(('1 2',), ('3 4', '3 4'), 0)
  _, batch = batch_of('storycloze', [same] * 4)
  hp = optim.Hyper.of(run)
  objective = objective_of(run, 'storycloze')
  nll, _ = objective.sums(trained, {}, batch, hp, jnp.int32(0))
  # Equal choices stay equal under a shared mask, so each example costs ln 2.
  assert float(nll) == pytest.approx(4 * np.log(2), rel=1e-6)


def test_a_frozen_body_trains_the_head_and_the_new_embeddings():
  run, (trained, fixed) = made('mnli', train='frozen')
  assert set(trained) == {'special', 'clf'} and set(fixed) == {'gpt'}
  _, batch = batch_of('mnli')
  new, losses = updated(run, (trained, fixed), 'mnli', batch, updates=10)
  assert losses[-1] < losses[0]
  for name in ('special', 'clf'):
    assert not jax.tree.all(jax.tree.map(np.allclose, new[name], trained[name]))


def test_lora_begins_at_the_model_and_merges_into_it():
  run, (trained, fixed) = made('mnli', train='lora', rank=2)
  assert set(trained) == {'special', 'clf', 'lora'}
  _, batch = batch_of('mnli')
  plain = {**trained, **fixed}
  del plain['lora']
  predict = objective_of(run, 'mnli').logits
  np.testing.assert_array_equal(predict(trained | fixed, batch), predict(plain, batch))
  new, losses = updated(run, (trained, fixed), 'mnli', batch, updates=10)
  assert losses[-1] < losses[0]
  large = transfer.grown(SHAPE)
  params, clf = transfer.merged(new | fixed, run.task, large).values()
  ids = batch.ids_BCT.reshape(-1, batch.ids_BCT.shape[-1])
  x, _ = GPT(large).apply({'params': params}, ids)
  beside = predict(new | fixed, batch)
  merged = task_logits(clf, x, batch, TASKS['mnli'])
  np.testing.assert_allclose(merged, beside, atol=1e-5)
  assert not np.allclose(beside, predict(plain, batch), atol=1e-3)


@pytest.mark.parametrize(
  ('transfer', 'same'),
  [('0', []), ('1', ['h_0']), ('2', ['h_0', 'h_1']), ('none', [])],
)
def test_layers_that_are_not_transferred_are_new(transfer, same):
  _, (trained, _) = made('sst2', transfer=transfer)
  for name in ('h_0', 'h_1', 'wte', 'wpe'):
    kept = name in same or (name in ('wte', 'wpe') and transfer != 'none')
    equal = jax.tree.all(
      jax.tree.map(
        lambda a, b: bool((a == b).all()), trained['gpt'][name], SOURCE[name]
      )
    )
    # Biases and LayerNorms are alike in every new layer; kernels are not.
    assert equal == kept, name


def test_new_tokens_and_the_head_are_drawn_from_n_0_0_02():
  big = dataclasses.replace(SHAPE, D=4096, N=2)
  run = made('mnli')[0]
  task = TASKS['mnli']
  trained = transfer.init(run, big, task, {'wte': None}, 0)
  for rows in (trained['special']['wte'], trained['clf']['kernel']):
    assert np.std(rows) == pytest.approx(0.02, rel=0.03)
    assert abs(np.mean(rows)) < 0.001
  other = transfer.init(run, big, task, {'wte': None}, 1)
  assert not np.allclose(other['special']['wte'], trained['special']['wte'])


@pytest.mark.parametrize('aux', [0.25, 0.0])
def test_an_update_follows_the_gradient_of_both_losses(aux):
  run, (trained, fixed) = made('mnli', aux=aux, warmup=0.0)
  run.optim.name, run.optim.clip = 'sgd', 0.0
  _, batch = batch_of('mnli')
  batch = batch.replace(w_B=np.array([1, 1, 1, 0], 'f'))
  both = objective_of(made('mnli', aux=1.0)[0], 'mnli').losses

  def minimised(tree):
    nll, lm = both(tree, batch)
    return (nll + aux * lm) / 3

  value, gradient = jax.jit(jax.value_and_grad(minimised))(trained)
  new, (loss,) = updated(run, (trained, fixed), 'mnli', batch, updates=1)
  jax.tree.map(
    lambda p, g, q: np.testing.assert_allclose(q, p - 1e-2 * g, atol=1e-7),
    trained,
    gradient,
    new,
  )
  nll, lm = both(trained, batch)
  total, parts = objective_of(run, 'mnli').sums(
    trained, fixed, batch, optim.Hyper.of(run), jnp.int32(0)
  )
  assert float(total) / 3 == pytest.approx(float(value), rel=1e-6)
  assert loss == pytest.approx(float(nll) / 3, rel=1e-6)
  assert float(parts['lm_loss']) == pytest.approx(float(lm) if aux else 0, rel=1e-6)


def test_dropout_before_the_head_has_a_rate_and_a_draw_of_its_own():
  task, batch = batch_of('sst2')
  D = 2000
  clf = {'kernel': jnp.ones((D, 2)).at[D // 2 :, 0].set(0), 'bias': jnp.zeros(2)}
  hp = optim.Hyper.of(made('sst2', dropout=0.25)[0])
  draw = dropout(hp, jnp.int32(0), batch.row_B).replace(rate=hp.clf_dropout)
  found = task_logits(clf, jnp.ones((4, 24, D)), batch, task, draw)
  # Of 2000 ones 1500 +- 20 are left, each 4 / 3; no two examples lose the same.
  np.testing.assert_allclose(found[:, 1], D, rtol=0.05)
  assert len(set(map(tuple, found.tolist()))) == 4 and D not in found[:, 1]
  seen = set()
  for rate, seed, step in ((0.0, 0, 0), (0.5, 0, 0), (0.25, 0, 0), (0.5, 1, 0)):
    run, (trained, fixed) = made('sst2', dropout=rate, aux=0.0)
    run.seed, hp = seed, optim.Hyper.of(dataclasses.replace(run, seed=seed))
    sums = objective_of(run, 'sst2').sums
    seen.add(float(sums(trained, fixed, batch, hp, jnp.int32(step))[0]))
  assert len(seen) == 4


def test_a_low_rank_change_is_scaled_by_alpha_over_rank():
  run, (trained, fixed) = made('mnli', train='lora', rank=4, alpha=6.0)
  draw = np.random.default_rng(0).normal
  lora = jax.tree.map(lambda x: jnp.float32(draw(size=x.shape)), trained['lora'])
  large = transfer.grown(SHAPE)
  merged = transfer.merged({**trained, **fixed, 'lora': lora}, run.task, large)
  for name, own in (('q', ('attn', 'q')), ('down', ('mlp', 'down'))):
    kernel = fixed['gpt']['h_1'][own[0]][own[1]]['kernel']
    change = lora['h_1'][own[0]][own[1]]
    assert change['a'].shape[1] == 4
    wanted = kernel + 6 / 4 * np.asarray(change['a']) @ np.asarray(change['b'])
    found = merged['gpt']['h_1'][own[0]][own[1]]['kernel']
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5, err_msg=name)
