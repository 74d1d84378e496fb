"""Two runs side by side: what their curves are worth at equal cost, and in pairs."""

import json
import random
import re
import shutil

import numpy as np
import pytest
import scipy.stats
import tiny_task

from gpt_jax import config
from gpt_jax.config import UserError
from gpt_jax.evaluation import statistics
from gpt_jax.model.gpt_config import GPTConfig
from gpt_jax.reports import compare
from gpt_jax.reports.compare import Curve
from gpt_jax.runs import cost, evaluate, train
from gpt_jax.training import metrics_log


def tiny(text, **fields):
  run = config.Run(
    steps=12,
    batch=8,
    log_every=2,
    eval_every=4,
    eval_batch=4,
    sample_tokens=0,
    devices=1,
    data=config.Data(source=str(text), tokenizer='bytes', holdout=0.5),
    model=config.Model(L=1, D=16, N=2, T=16),
    optim=config.Optim(lr=1e-2, final_lr=1e-3, warmup=2),
  )
  for name, value in fields.items():
    if '__' in name:
      part, name = name.split('__')
      setattr(getattr(run, part), name, value)
    else:
      setattr(run, name, value)
  return run


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
  """Two runs that differ in seed, batch and tokenizer, on 24 documents."""
  folder = tmp_path_factory.mktemp('place')
  (folder / 'text').mkdir()
  rng = random.Random(0)
  for i in range(24):
    text = ' '.join(rng.choice(['é', 'cat', 'dog', 'sees']) for _ in range(20 + 5 * i))
    (folder / f'text/{i:02}.txt').write_text(text)
  train.train(tiny(folder / 'text'), folder / 'a', report=lambda text: None)
  other = tiny(folder / 'text', seed=1, batch=4, steps=16, data__tokenizer='chars')
  train.train(other, folder / 'b', report=lambda text: None)
  return folder / 'a', folder / 'b'


def test_a_curve_counts_tokens_flops_and_seconds(folders):
  found = compare.curve(folders[0])
  np.testing.assert_array_equal(found.steps, [4, 8, 12])
  np.testing.assert_array_equal(found.tokens, np.array([4, 8, 12]) * 8 * 16)
  cfg = GPTConfig.of(tiny('').model, 257)
  each = sum(cost.flops_per_token(cfg).values())
  np.testing.assert_array_equal(found.flops, found.tokens * each)
  lines = metrics_log.read_metrics(folders[0])
  took = [2 * 8 * 16 / line['tokens_per_s'] for line in lines if 'loss' in line]
  np.testing.assert_allclose(found.seconds, np.cumsum(took)[[1, 3, 5]])
  np.testing.assert_array_equal(
    found.bpb, [line['valid_bpb'] for line in lines if 'valid_bpb' in line]
  )


def made(tokens, bpb):
  tokens = np.array(tokens, float)
  return Curve(tokens, tokens, 3 * tokens, tokens / 10, tokens, np.array(bpb, float))


def test_points_at_equal_cost_lie_on_straight_lines():
  a, b = made([0, 100, 200], [5, 3, 2]), made([100, 300], [4, 0])
  assert compare.at_equal((a, b), 'tokens') == [
    (100, 3, 4),
    (125, 2.75, 3.5),
    (150, 2.5, 3),
    (175, 2.25, 2.5),
    (200, 2, 2),
  ]
  assert [row[0] for row in compare.at_equal((a, b), 'flops')][0] == 300
  assert compare.at_equal((a, made([300, 400], [1, 1])), 'tokens') == []
  assert compare.at_equal((a, made([200, 400], [1, 1])), 'tokens') == [(200, 2, 1)]


def test_documents_of_two_tokenizers_add_up_to_the_whole_loss(folders):
  found = compare.texts(*folders)
  assert found.unit == 'documents' and found.bits.shape == (2, 12)
  texts = [p.read_bytes() for p in (folders[0].parent / 'text').iterdir()]
  assert set(found.bytes) < set(map(len, texts))
  for bits, folder in zip(found.bits, folders, strict=True):
    whole = evaluate.held_out_metrics(folder, report=lambda text: None)['valid_bpb']
    assert bits.sum() / found.bytes.sum() == pytest.approx(whole, rel=1e-5)


def test_few_documents_are_paired_by_window(folders):
  one = folders[0].parent / 'one'
  run = tiny(folders[0].parent / 'text/23.txt', steps=1, optim__warmup=0)
  train.train(run, one, report=lambda text: None)
  found = compare.texts(one, one)
  assert found.unit == 'windows of 16 tokens'
  whole = evaluate.held_out_metrics(one, report=lambda text: None)['valid_bpb']
  assert found.bits.sum(1) / found.bytes.sum() == pytest.approx([whole] * 2, rel=1e-5)
  assert compare.texts(folders[0], one) == 'their held-out texts are not the same'


def test_two_runs_are_told_and_drawn(folders, tmp_path):
  found = compare.compare(*folders)
  assert {name for name, _, _ in found.fields} == {
    *('seed', 'batch', 'steps', 'data.tokenizer')
  }
  assert not [
    text for text in found.environment if text.startswith(('package', 'source'))
  ]
  assert any(text.startswith('tokenizer: changed') for text in found.environment)
  *_, tested = compare.tables(found)
  bits, size = found.test.difference, found.test.count
  assert size == 12 and f'b - a = {bits:+.4f} bits/byte' in tested
  losses = compare.texts(*folders)
  second_less_first = (losses.bits[1] - losses.bits[0]).sum() / losses.bytes.sum()
  assert bits == pytest.approx(second_less_first) and abs(bits) > 1e-3
  assert re.search(r'12 held-out documents, in pairs', tested)
  compare.plot(found, tmp_path / 'curves.png')
  assert (tmp_path / 'curves.png').read_bytes()[:4] == b'\x89PNG'


def test_a_tokenizer_that_changes_text_is_not_compared_with_another(folders, tmp_path):
  """What it did is read from run.json, and of older runs known by its kind."""
  copy = tmp_path / 'c'
  shutil.copytree(folders[1], copy)
  about = json.loads((copy / 'run.json').read_text())
  record = about['data']['fidelity']
  assert record['changed'] == 0 and record['pieces'] == 12
  record |= {'changed': 3, 'how': ['blanks', 'letter case']}
  (copy / 'run.json').write_text(json.dumps(about))
  found = compare.compare(folders[0], copy)
  assert found.test is None
  assert found.changed == (
    'bits/byte of several tokenizers are compared only where each gives its text back; '
    'c: its tokenizer changes blanks, letter case'
  )
  *_, reason, held, tested = compare.tables(found)
  assert reason == found.changed and set(held.columns[3].cells) == {'-'}
  assert tested == f'no paired test: {found.changed}'
  with pytest.raises(
    UserError, match='draws bits/byte, but .*changes blanks, letter c'
  ):
    compare.plot(found, tmp_path / 'curves.png')
  # The same tokens of one tokenizer are as good as any.
  assert compare.compare(copy, copy).test.count == 12
  del about['data']['fidelity']
  (copy / 'run.json').write_text(json.dumps(about))
  assert compare.compare(folders[0], copy).changed == ''
  (copy / 'tokenizer/kind.json').write_text('{"kind": "gpt1"}')
  assert 'c: its tokenizer changes' in compare.changed_text([folders[0], copy])


def test_equal_sizes_give_the_paired_t_test():
  rng = np.random.default_rng(0)
  a, b = rng.normal(50, 9, 31), rng.normal(51, 9, 31)
  found = statistics.paired(a, b, np.full(31, 8.0))
  wanted = scipy.stats.ttest_rel(b / 8, a / 8)
  low, high = wanted.confidence_interval(0.95)
  assert found == pytest.approx((np.mean(b - a) / 8, low, high, wanted.pvalue, 31))


def test_other_sizes_give_what_permutations_and_the_bootstrap_give():
  rng = np.random.default_rng(1)
  size = rng.integers(20, 400, 200).astype(float)
  a = size * 2 + rng.normal(0, 1, 200) * size**0.5
  b = a + 0.01 * size + rng.normal(0, 2, 200) * size**0.5
  found = statistics.paired(a, b, size)
  signs = rng.choice([-1, 1], (4000, 200))
  flipped = np.abs(signs @ (b - a)) >= abs(np.sum(b - a))
  assert found.p == pytest.approx(flipped.mean(), abs=0.03)
  drawn = rng.integers(200, size=(4000, 200))
  means = (b - a)[drawn].sum(1) / size[drawn].sum(1)
  low, high = np.quantile(means, [0.025, 0.975])
  width = high - low
  assert found.low == pytest.approx(low, abs=0.1 * width)
  assert found.high == pytest.approx(high, abs=0.1 * width)


def test_texts_that_do_not_differ_have_no_difference():
  a = np.array([1.0, 2.0, 4.0])
  assert statistics.paired(a, a, a) == (0, 0, 0, 1, 3)
  with pytest.raises(UserError, match='1 texts with 1 sizes cannot be compared'):
    statistics.paired(a[:1], a[:1], a[:1])


def test_what_has_no_curve_is_refused(tmp_path):

  (tmp_path / 'run.json').write_text(json.dumps({'config': {}, 'vocab': 9}))
  with pytest.raises(UserError, match='has no evaluation to compare yet'):
    compare.compare(tmp_path, tmp_path)


def test_two_fine_tunings_are_paired_over_dev_examples(task_place, tmp_path):
  """Against the answers in dev_predictions.tsv, by scipy's paired t test."""
  folders = [tmp_path / name for name in 'ab']
  for folder, lr in zip(folders, (3e-4, 3e-3), strict=True):
    run = tiny_task.make(task_place, optim__lr=lr, task__epochs=1)
    train.train(run, folder, report=lambda text: None)
  rng = np.random.default_rng(0)
  right = []
  for folder in folders:
    for seed in (0, 1):  # the tiny models are alike: answers of others in their place
      path = folder / f'seed_{seed}/dev_predictions.tsv'
      labels = np.loadtxt(path, skiprows=1)[:, 1]
      answers = rng.integers(2, size=20)
      text = ''.join(f'{p}\t{y:g}\n' for p, y in zip(answers, labels, strict=True))
      path.write_text('prediction\tlabel\n' + text)
      right.append(answers == labels)
  found = compare.compare(*folders)
  assert [name for name, _, _ in found.fields] == ['optim.lr']
  a, b = np.mean(right[:2], 0), np.mean(right[2:], 0)
  wanted = scipy.stats.ttest_rel(b, a)
  low, high = wanted.confidence_interval(0.95)
  assert found.test == pytest.approx((np.mean(b - a), low, high, wanted.pvalue, 20))
  for folder, best in zip(folders, found.dev, strict=True):
    results = json.loads((folder / 'results.json').read_text())['seeds']
    assert best == {int(seed): each['accuracy'] for seed, each in results.items()}
  *_, tested = compare.tables(found)
  difference = found.test.difference
  assert f'b - a = {difference:+.4f} right answers of one' in tested
  assert '20 held-out dev examples' in tested
  with pytest.raises(UserError, match='curves are in each run'):
    compare.plot(found, tmp_path / 'curves.png')
  with pytest.raises(UserError, match='is language modelling, which can not be'):
    compare.compare(folders[0], task_place / 'base')
  path = folders[1] / 'seed_0/dev_predictions.tsv'
  path.write_text(path.read_text().replace('\t1', '\t0'))
  with pytest.raises(UserError, match='judged on other dev examples'):
    compare.compare(*folders)
