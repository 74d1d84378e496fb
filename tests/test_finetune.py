"""Fine-tuned workdirs, from a pre-trained one to predictions."""

import contextlib
import hashlib
import json
import os
import pathlib
import shutil
import signal
from functools import partial

import jax
import numpy as np
import pytest
import tiny_task
from tiny_task import make

import gpt_jax
from gpt_jax.config import UserError
from gpt_jax.evaluation import metrics
from gpt_jax.model.heads import task_logits
from gpt_jax.reports import run as run_report
from gpt_jax.runs import (
  finetune,
  finetune_job,
  finetune_results,
  import_export,
  load,
  reproduce,
)
from gpt_jax.runs.train import train as train_run
from gpt_jax.runs.workdir import best_line, updates_done
from gpt_jax.tasks import inputs, labelled
from gpt_jax.tasks.labelled_table import TASKS
from gpt_jax.training import checkpoint, checksums, loop, metrics_log, saved, sharding


@pytest.fixture(scope='module')
def place(tmp_path_factory):
  """A folder with a pre-trained workdir and files of two tasks."""
  return tiny_task.write(tmp_path_factory.mktemp('finetune'))


def train(run, workdir):
  said = []
  train_run(run, workdir, report=said.append)
  return '\n'.join(said)


def lines_of(folder):
  return [
    {k: v for k, v in line.items() if k not in metrics_log.CLOCK_FIELDS}
    for line in metrics_log.read_metrics(folder)
  ]


@pytest.fixture(scope='module')
def finished(place):
  """A finished run of two seeds, and what it said."""
  return place / 'done', train(make(place), place / 'done')


def test_two_seeds_train_at_once_and_are_told_with_their_intervals(finished, tmp_path):
  workdir, said = finished
  assert 'training  10 updates of 8 examples, 2 epochs, 2 seeds' in said
  assert 'seeds 0, 1, together' in said
  found = json.loads((workdir / 'results.json').read_text())
  assert set(found['seeds']) == {'0', '1'} and found['examples'] == 20
  values = [seed['accuracy'] for seed in found['seeds'].values()]
  over = found['over_seeds']['accuracy']
  assert over['mean'] == pytest.approx(np.mean(values))
  assert over['low'] <= over['mean'] <= over['high']
  for seed in found['seeds'].values():
    low, high = seed['intervals']['accuracy']
    assert low <= seed['accuracy'] <= high
  assert 'sst2 accuracy mean' in said and 'over 2 seeds' in said
  text = run_report.write(workdir, tmp_path)[0].read_text()
  assert f'| accuracy | **mean of seeds** | - | {over["mean"]:.4f} [' in text
  assert 'finished' in text and 'not finished' not in text


def test_dev_is_judged_each_epoch_and_the_best_is_kept(finished):
  workdir, _ = finished
  task = TASKS['sst2']
  for seed in ('seed_0', 'seed_1'):
    folder = workdir / seed
    lines = lines_of(folder)
    assert [line['step'] for line in lines if 'accuracy' in line] == [5, 10]
    assert [line['step'] for line in lines if 'loss' in line] == list(range(1, 11))
    best = best_line(folder, task)
    model = gpt_jax.load(folder)
    assert model.step == best['step']
    examples = labelled.read('sst2', workdir.parent / 'sst2', 'dev')
    said = inputs.answers(task, model.task_logits(examples))
    labels = [example.label for example in examples]
    assert metrics.accuracy(said, labels) == best['accuracy']
    table = np.loadtxt(folder / 'dev_predictions.tsv', skiprows=1)
    assert table.T.tolist() == [said.tolist(), labels]


def test_the_same_command_again_says_that_it_is_finished(place, finished):
  workdir, _ = finished
  before = (workdir / 'results.json').read_text()
  assert 'finished: 10 updates are done' in train(make(place), workdir)
  assert (workdir / 'results.json').read_text() == before


def test_load_opens_the_best_seed_and_classifies(finished):
  workdir, _ = finished
  found = json.loads((workdir / 'results.json').read_text())['seeds']
  best = max(found, key=lambda seed: found[seed]['accuracy'])
  model = gpt_jax.load(workdir)
  texts = ['good fine', 'bad', 'dull and cold and cold']
  answers = model.classify(texts)
  assert answers == gpt_jax.load(workdir / f'seed_{best}').classify(texts)
  for answer in answers:
    assert sum(answer.probabilities.values()) == pytest.approx(1)
    assert answer.probabilities[answer.label] == max(answer.probabilities.values())
  together = [model.classify([text])[0].probabilities['1'] for text in texts]
  assert together == pytest.approx([a.probabilities['1'] for a in answers], abs=1e-6)
  assert model.classify([]) == []
  assert model.generate('good', max_new_tokens=3)[0].text is not None


def test_a_classifier_reads_with_the_tokens_that_are_new_to_its_source(place, finished):
  model, base = gpt_jax.load(finished[0]), gpt_jax.load(place / 'base')
  examples = labelled.read('sst2', place / 'sst2', 'dev')
  data = inputs.inputs(
    TASKS['sst2'], examples, base.tokenizer.encode, base.config.vocab, base.config.T
  )
  (_, batch), *_ = inputs.all_batches(data, len(examples), base.config.T)
  assert set(batch.ids_BCT[:, 0, 0]) == {base.config.vocab}
  x, _ = model.gpt.apply({'params': model.params}, batch.ids_BCT[:, 0])
  wanted = task_logits(model.clf, x, batch, TASKS['sst2'])
  order = np.argsort(data.lengths, kind='stable')
  found = model.task_logits(examples)[order]
  np.testing.assert_allclose(found, wanted, atol=1e-5)
  assert np.ptp(found[:, 0]) > 1e-4


@pytest.mark.parametrize('given', ['good', [('a', 'b')], [''], [7]])
def test_classify_names_an_example_of_another_form(finished, given):
  with pytest.raises(UserError, match='example 0 is|into a list'):
    gpt_jax.load(finished[0]).classify(given)


def test_a_test_file_is_answered_as_glue_wants_it(place, finished):
  workdir, _ = finished
  path = place / 'test.tsv'
  path.write_text('index\tsentence\n7\tgood\n9\tbad dull\n')
  made = finetune_results.evaluate(workdir, str(path), 'test')
  labels = [a.label for a in gpt_jax.load(workdir).classify(['good', 'bad dull'])]
  assert made.read_text().splitlines() == [
    'index\tprediction',
    f'7\t{labels[0]}',
    f'9\t{labels[1]}',
  ]


def test_eval_of_dev_says_what_training_said(finished):
  workdir, _ = finished
  found = json.loads((workdir / 'results.json').read_text())
  assert json.loads(json.dumps(finetune_results.evaluate(workdir))) == found


def parameters(folder):
  model = gpt_jax.load(folder)
  return jax.tree.map(np.asarray, (model.params, model.clf))


def assert_same(a, b, atol):
  """Says that two runs of seeds 0 and 1 are the same to a tolerance."""
  for seed in ('seed_0', 'seed_1'):
    jax.tree.map(
      lambda x, y: np.testing.assert_allclose(x, y, atol=atol),
      parameters(a / seed),
      parameters(b / seed),
    )
    for one, other in zip(lines_of(a / seed), lines_of(b / seed), strict=True):
      assert one == pytest.approx(other, abs=max(atol, 1e-12))


def test_seeds_together_are_seeds_apart(place, finished):
  """Within 1e-4 after 10 updates of Adam; losses within 1e-4."""
  workdir = place / 'apart'
  said = train(make(place, task__together=1), workdir)
  assert 'seeds 0, together' in said and 'seeds 1, together' in said
  assert_same(finished[0], workdir, 1e-4)


def test_devices_share_seeds_and_rows_and_change_nothing(place, finished):
  workdir = place / 'devices'
  train(make(place, devices=4), workdir)
  assert_same(finished[0], workdir, 1e-4)


def test_a_stopped_run_goes_on_to_the_same_bits(place, finished, monkeypatch):
  workdir = place / 'stopped'
  real, calls = inputs.batch, []

  def batch(*args):
    calls.append(args)
    if len(calls) == 12:  # of two seeds: in the second epoch
      os.kill(os.getpid(), signal.SIGTERM)
    return real(*args)

  monkeypatch.setattr(inputs, 'batch', batch)
  with pytest.raises(loop.Interrupted):
    train(make(place), workdir)
  assert not (workdir / 'results.json').exists()
  assert 'going on from the checkpoint of update' in train(make(place), workdir)
  assert_same(finished[0], workdir, 0)


def test_seeds_that_do_not_fit_train_in_smaller_groups():
  said = []
  most = partial(
    finetune.most_together, 5, lambda seeds: 10 * seeds, report=said.append
  )
  assert most(30) == 2
  assert [text.split(' need')[0] for text in said] == [
    '5 seeds together',
    '3 seeds together',
  ]
  assert most(10**9) == 5 and most(1) == 1


def test_groups_are_as_asked_for(place, tmp_path):
  job = finetune_job.read_job(make(place, seeds=5, task__together=2), print)
  assert finetune.groups(job, tmp_path, print) == [[0, 1], [2, 3], [4]]
  for fields in ({'optim__guard': 'rollback'}, {'layout': 'fsdp=2'}):
    apart = finetune_job.read_job(make(place, devices=0, **fields), print)
    assert finetune.groups(apart, tmp_path, print) == [[0], [1]]


def test_a_run_goes_on_in_the_groups_in_which_it_began(place, finished):
  job = finetune_job.read_job(make(place), print)
  assert finetune.groups(job, finished[0], print) == [[0, 1]]


def test_more_seeds_need_more_memory(place):
  job = finetune_job.read_job(make(place), print)
  one, two = (finetune.bytes_needed(job, number) for number in (1, 2))
  assert 1.7 * one < two < 2.1 * one


def test_a_frozen_body_and_a_subset(place):
  run = make(place, steps=2, seeds=1, task__train='frozen', task__examples=16)
  said = train(run, place / 'frozen')
  assert '16 training and 20 dev examples' in said
  base, tuned = gpt_jax.load(place / 'base'), gpt_jax.load(place / 'frozen')
  vocab = base.config.vocab
  assert tuned.config.vocab == vocab + 3
  same = jax.tree.map(
    lambda a, b: bool((a == b).all()),
    base.params | {'wte': base.params['wte'][:vocab]},
    tuned.params | {'wte': tuned.params['wte'][:vocab]},
  )
  assert jax.tree.all(same)


def test_texts_that_are_cut_are_told(place):
  folder = place / 'long'
  shutil.copytree(place / 'sst2', folder)
  (folder / 'train.tsv').open('a').write('good ' * 30 + '\t1\n')
  said = []
  finetune_job.read_job(make(place, task__data=str(folder)), said.append)
  assert said == [
    'train: a text of 1 of 38 examples is cut to fit into the context of 48 tokens'
  ]


@pytest.mark.parametrize(
  ('fields', 'text'),
  [
    ({'task__data': ''}, "task.data='' must name"),
    ({'task__name': 'sst'}, "task 'sst' must be one of"),
    ({'task__data': __file__}, 'is a file; give the folder'),
    ({'task__data': 'nowhere'}, 'nowhere.*no train split of sst2'),
    ({'init_from': 'nowhere'}, 'nowhere is no workdir'),
    ({'task__name': 'cola'}, 'of cola|not of cola'),
    ({'batch': 7, 'accumulate': 2}, 'batch=7 must be a multiple'),
    ({'devices': 9}, '9 devices are asked for but there are 8'),
    ({'optim__warmup': 5}, 'optim.warmup=5 must be 0 with a task'),
    ({'task__examples': 1}, 'leaves no example of class'),
    ({'task__transfer': '3'}, "task.transfer='3' must be"),
  ],
)
def test_a_run_that_can_not_be_is_refused_before_it_writes(place, fields, text):
  workdir = place / 'refused'
  with pytest.raises(UserError, match=text):
    train(make(place, **fields), workdir)
  assert not workdir.exists()


@pytest.mark.parametrize(
  ('line', 'text'),
  [
    ('good\t2\n', "train.tsv: line 39: label '2' is none of the labels of sst2: 0, 1"),
    ('\t1\n', "train.tsv: line 39: 'sentence' is empty"),
    ('good\t1\tmore\n', 'train.tsv: line 39 has 3 columns, not 2'),
  ],
)
def test_a_bad_line_is_named_with_its_file(place, tmp_path, line, text):
  shutil.copytree(place / 'sst2', tmp_path / 'sst2')
  (tmp_path / 'sst2/train.tsv').open('a').write(line)
  with pytest.raises(UserError, match=text):
    train(make(place, task__data=str(tmp_path / 'sst2')), tmp_path / 'w')
  assert not (tmp_path / 'w').exists()


def test_a_workdir_of_another_run_is_refused(place, finished):
  with pytest.raises(UserError, match='task.aux: 0.5 there, 0.0 now'):
    train(make(place, task__aux=0.0), finished[0])


def test_an_unfinished_workdir_has_no_model_to_load(place, finished):
  workdir = place / 'empty'
  shutil.copytree(finished[0], workdir)
  for folder in pathlib.Path(workdir).glob('seed_*'):
    shutil.rmtree(folder)
  with pytest.raises(UserError, match='has no model yet'):
    gpt_jax.load(workdir)


@pytest.mark.parametrize('number', [2, 4])
def test_a_kill_between_the_states_of_two_seeds_loses_nothing(
  place, finished, monkeypatch, number
):
  workdir, real, saves = place / f'killed_{number}', checkpoint.Checkpoints.save, []

  def save(self, state, nll, **more):
    if self.folder.name == 'training':
      saves.append(state)
      if len(saves) == number:
        raise KeyboardInterrupt
    real(self, state, nll, **more)

  with monkeypatch.context() as patched:
    patched.setattr(checkpoint.Checkpoints, 'save', save)
    with pytest.raises(KeyboardInterrupt):
      train(make(place), workdir)
  done = [saved.done(workdir / f'seed_{seed}', 'training') for seed in (0, 1)]
  assert done == [5 * (number // 2), 5 * (number // 2 - 1)]
  assert gpt_jax.load(workdir / 'seed_0').step in (5, 10)
  train(make(place), workdir)
  assert_same(finished[0], workdir, 0)
  assert (workdir / 'results.json').read_text() == (
    finished[0] / 'results.json'
  ).read_text()


def test_a_damaged_state_of_one_seed_is_passed_over_by_all(place, finished, tmp_path):
  workdir = tmp_path / 'damaged'
  shutil.copytree(finished[0], workdir)
  (path,) = (workdir / 'seed_1/training/10/params/d').iterdir()
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content)
  said = train(make(place), workdir)
  assert f'checkpoint 10 is damaged (params/d/{path.name}' in said
  assert 'going on from the checkpoint of update 5' in said
  assert (workdir / 'seed_1/training.damaged/10').exists()
  assert_same(finished[0], workdir, 0)


def test_a_workdir_whose_seeds_share_a_state_goes_on(place, finished, tmp_path):
  """As versions kept it that had groups.json: one stack of states in the workdir."""
  workdir = tmp_path / 'older'
  run = make(place)
  half = make(place, steps=5)
  train(half, workdir)
  job = finetune_job.read_job(run, print)
  program = finetune.program_of(job, [0, 1], {})
  like = sharding.Layout(job.layout.devices[:1]).placed(job.shapes())
  states = []
  for seed in (0, 1):
    folder = workdir / f'seed_{seed}'
    saved = checkpoint.Checkpoints(folder / 'training')
    states.append(saved.restore(5, like))
    saved.close()
    shutil.rmtree(folder / 'training')
    lines = [line for line in metrics_log.read_metrics(folder) if 'accuracy' in line]
    text = ''.join(json.dumps(line) + '\n' for line in lines)
    (folder / 'metrics.jsonl').write_text(text)
  shared = checkpoint.Checkpoints(workdir / 'checkpoints', best=False)
  shared.save(program.stack(states), None)
  shared.close()
  (workdir / 'groups.json').write_text('[[0, 1]]')
  assert gpt_jax.load(workdir).step == 5
  assert updates_done(workdir) == 5
  assert 'going on from the checkpoint of update 5' in train(run, workdir)
  assert not (workdir / 'groups.json').exists()
  for seed in ('seed_0', 'seed_1'):
    ours, theirs = (lines_of(w / seed)[-1] for w in (finished[0], workdir))
    assert ours.keys() == theirs.keys()
  # The schedule of 5 updates was another than that of 10, so only the forms agree.
  assert updates_done(workdir) == 10


def test_every_layout_trains_the_same(place, finished):
  """Within 2e-4 after 10 updates of Adam over 4 devices."""
  workdir = place / 'layout'
  said = train(make(place, devices=0, layout='data=2,fsdp=2'), workdir)
  assert 'seeds 0, together' in said and 'seeds 1, together' in said
  assert_same(finished[0], workdir, 2e-4)


def test_an_average_a_guard_and_growing_batches(place):
  fields = {'optim__ema': 0.9, 'optim__guard': 'skip', 'seeds': 1, 'task__epochs': 1}
  run = make(place, batch_start=4, batch_ramp=48 * 16, accumulate=2, **fields)
  workdir = place / 'averaged'
  assert 'batch_start' not in train(run, workdir)
  lines = lines_of(workdir / 'seed_0')
  assert all(line['spike'] == 0 for line in lines if 'spike' in line)
  job = finetune_job.read_job(run, print)
  rows = [len(job.batch(0, i).w_B) for i in range(job.run.steps)]
  assert rows[0] == 4 and rows[-1] == 8
  saved = checkpoint.Checkpoints(workdir / 'seed_0/training')
  like = sharding.Layout(job.layout.devices[:1]).placed(job.shapes())
  state = saved.restore(saved.latest(), like)
  saved.close()
  assert not np.allclose(state.params['clf']['kernel'], state.ema['clf']['kernel'])
  # What is kept and loaded is the average.
  model = gpt_jax.load(workdir)
  kept = np.asarray(state.ema['clf']['kernel'])
  if model.step == job.run.steps:
    np.testing.assert_array_equal(model.clf['kernel'], kept)


def test_a_fine_tuning_is_trained_again_from_its_run_json(finished, tmp_path):
  said = []
  assert reproduce.reproduce(finished[0], tmp_path / 'again', report=said.append)
  assert 'seed_1: 10 logged losses and all other metrics up to update 10' in said[-1]
  for seed in ('seed_0', 'seed_1'):
    ours, theirs = (
      f / seed / 'fingerprints.jsonl' for f in (finished[0], tmp_path / 'again')
    )
    assert ours.read_text() == theirs.read_text() != ''


def test_other_contents_of_source_or_data_are_noticed(place, finished, tmp_path):
  workdir = tmp_path / 'run'
  shutil.copytree(finished[0], workdir)
  shutil.copytree(place / 'sst2', tmp_path / 'sst2')
  path = tmp_path / 'sst2/train.tsv'
  path.write_text(path.read_text().replace('bad', 'sad'))
  about = json.loads((workdir / 'run.json').read_text())
  about['config']['task.data'] = str(tmp_path / 'sst2')
  (workdir / 'run.json').write_text(json.dumps(about))
  with pytest.raises(UserError, match='other contents of task.data=.*, train'):
    train(make(place, task__data=str(tmp_path / 'sst2')), workdir)


def test_a_run_with_the_older_hash_of_its_source_goes_on(place, finished, tmp_path):
  workdir = tmp_path / 'run'
  shutil.copytree(finished[0], workdir)
  path = workdir / 'run.json'
  about = json.loads(path.read_text())
  params = gpt_jax.load(about['config']['init_from']).params
  assert about['data']['source'] == checksums.digest(params)
  older = hashlib.sha256()
  for leaf in map(np.asarray, jax.tree.leaves(params)):
    older.update(f'{leaf.shape}'.encode() + leaf.tobytes())
  about['data']['source'] = older.hexdigest()
  path.write_text(json.dumps(about))
  assert 'finished' in train(make(place), workdir)
  job = finetune_job.read_job(make(place), lambda text: None)
  assert finetune_job.digests(job, about['data']) == about['data']
  about['data']['source'] = '0' * 64
  path.write_text(json.dumps(about))
  with pytest.raises(UserError, match='other contents of init_from='):
    train(make(place), workdir)


def test_a_run_that_has_begun_keeps_its_groups(place, finished):
  with pytest.raises(UserError, match='task.together=1 must stay 2'):
    train(make(place, task__together=1), finished[0])


def test_the_batch_must_divide_over_the_devices_of_the_smallest_group(place, tmp_path):
  run = make(place, seeds=3, task__together=2, devices=2, batch=7)
  with pytest.raises(UserError, match='batch=7 must be a multiple'):
    train(run, tmp_path / 'w')
  assert not (tmp_path / 'w/run.json').exists()


def test_a_seed_s_workdir_is_not_trained(place, finished):
  with pytest.raises(UserError, match='a single seed of one'):
    train(make(place, seeds=1), finished[0] / 'seed_0')


def test_an_exported_model_says_what_is_left_out(place, finished, tmp_path):
  said = import_export.export_model(finished[0], 'best', tmp_path / 'out')
  assert 'left out: the head for sst2' in said and 'the ids 257, 258 and 259' in said


def test_the_best_epoch_is_kept_where_a_later_one_is_worse(place, tmp_path):
  job = finetune_job.read_job(make(place), print)
  right = np.eye(2, dtype=np.float32)[job.labels.astype(int)]
  half = np.where(np.arange(len(right))[:, None] < 10, right, 1 - right)
  seed = finetune._Seed(job, tmp_path / 'seed_0', 0, print)
  with contextlib.closing(seed):
    for step, answers in ((5, half), (10, right), (15, half)):
      scores = seed.judged(step, 3 * answers, lambda step=step: {'x': np.ones(step)})
      assert scores['accuracy'] == answers[right > 0].mean()
      logp = np.log(np.exp([0, 3]) / (1 + np.exp(3)))
      wanted = -np.where(answers[right > 0] > 0, logp[1], logp[0]).mean()
      assert scores['dev_nll'] == pytest.approx(wanted, rel=1e-5)
    assert seed.models.best() == 10
  table = np.loadtxt(tmp_path / 'seed_0/dev_predictions.tsv', skiprows=1)
  np.testing.assert_array_equal(table[:, 0], job.labels)


def test_the_best_seed_is_opened(tmp_path):
  for seed, value in ((0, 0.5), (1, 0.75), (2, 0.75), (10, 0.25)):
    folder = tmp_path / f'seed_{seed}'
    folder.mkdir()
    line = json.dumps({'step': 5, 'dev_nll': 1.0, 'accuracy': value})
    (folder / 'metrics.jsonl').write_text(f'{line}\n')
  assert load._best_seed(tmp_path, TASKS['sst2']) == tmp_path / 'seed_1'
