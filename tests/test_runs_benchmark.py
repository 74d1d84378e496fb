"""Evaluation of a workdir: as by hand, kept, repeated, in training, by launch.py."""

import dataclasses
import json
import math
import shutil
import zlib

import numpy as np
import prompt_files
import pytest
from absl import flags
from fakes import random_bytes_model
from scripts import launch

import gpt_jax
from gpt_jax import config
from gpt_jax.cli import VERBS
from gpt_jax.config import UserError
from gpt_jax.data.curation.shards import Document, write_shard
from gpt_jax.evaluation import likelihood
from gpt_jax.evaluation.benchmark import Benchmark, plan, run_benchmark
from gpt_jax.evaluation.contamination import text_of
from gpt_jax.evaluation.scoring_rules import Request
from gpt_jax.inference.language_model import LanguageModel
from gpt_jax.inference.task_model import task_model
from gpt_jax.runs import benchmark, train
from gpt_jax.tasks import prompted_files
from gpt_jax.tasks.prompted import TASKS
from gpt_jax.tasks.prompts import Question
from gpt_jax.training import checksums

ROOT = prompt_files.GOLDEN.parents[2]
ASKED = ['hellaswag', 'winogrande', 'lambada', 'two_digit_addition', 'wikitext2']


@pytest.fixture(scope='module')
def data(tmp_path_factory):
  folder = prompt_files.write(tmp_path_factory.mktemp('tasks'))
  (folder / 'wikitext-2').mkdir()
  page = ' = Tea = \n \n Tea is , it is said , a " hot @-@ drink " . \n'
  (folder / 'wikitext-2/wiki.test.tokens').write_text(page)
  return folder


@pytest.fixture(scope='module')
def run(tmp_path_factory, data):
  """A workdir of a tiny model of bytes, with benchmarks while it was trained."""
  place = tmp_path_factory.mktemp('place')
  (place / 'text.txt').write_text('Q: What is 1 plus 1?\n\nA: 2. A step up. ' * 400)
  wanted = config.Run(
    steps=6,
    batch=8,
    eval_every=3,
    eval_tokens=500,
    sample_tokens=0,
    data=config.Data(source=str(place / 'text.txt'), tokenizer='bytes'),
    model=config.Model(L=1, D=16, N=2, T=96),
    optim=config.Optim(lr=1e-2, warmup=2),
    exams=config.Exams(
      tasks='hellaswag,lambada', data=str(data), shots='0,1', every=3, limit=2
    ),
  )
  train.train(wanted, place / 'run', report=lambda text: None)
  return place / 'run'


def quiet(*args, **kwargs):
  return benchmark.evaluate(*args, report=lambda text: None, **kwargs)


@pytest.fixture(scope='module')
def found(run, data):
  results = quiet(run, plan(ASKED, data, shots=[0, 1], seeds=2))
  return {(one['task'], one['shots'], one['seed']): one for one in results}


def test_every_exam_has_a_result(found):
  assert found.keys() == {
    (name, shots, seed)
    for name in ASKED
    for shots, seed in [(0, 0), (1, 0), (1, 1)]
    if name != 'wikitext2' or not shots
  }


def test_scores_are_those_of_the_model_by_hand(run, data, found):
  model = gpt_jax.load(run)
  questions = prompted_files.read(TASKS['hellaswag'], data)
  by_sum, by_token, alone = [], [], []
  for question in questions:
    scores = [model.score(question.context, answer) for answer in question.answers]
    less = [model.score('Answer:', answer).logp for answer in question.answers]
    logp = np.array([one.logp for one in scores])
    lengths = [len(one.token_logp) for one in scores]
    by_sum.append(logp.argmax() in question.gold)
    by_token.append((logp / lengths).argmax() in question.gold)
    alone.append((logp - less).argmax() in question.gold)
  rules = found['hellaswag', 0, 0]['metrics']['accuracy']
  assert rules['sum']['value'] == np.mean(by_sum)
  assert rules['per_token']['value'] == np.mean(by_token)
  assert rules['unconditional']['value'] == np.mean(alone)

  logp = [
    model.score(q.zero_shot, q.answers[0])
    for q in prompted_files.read(TASKS['lambada'], data)
  ]
  perplexity = found['lambada', 0, 0]['metrics']['perplexity']
  expected = math.exp(-np.mean([one.logp for one in logp]))
  assert perplexity['last_word']['value'] == pytest.approx(expected, rel=1e-4)
  expected = math.exp(-np.mean([one.token_logp[-1] for one in logp]))
  assert perplexity['last_token']['value'] == pytest.approx(expected, rel=1e-4)


def test_what_is_written_is_the_best_of_four_beams_up_to_the_stop(run, data, found):
  model = gpt_jax.load(run)
  (path,) = run.glob('eval/two_digit_addition-0shot-*.jsonl')
  lines = [json.loads(line) for line in path.read_text().splitlines()]
  written = {line['number']: line['text'] for line in lines}
  for number, question in enumerate(
    prompted_files.read(TASKS['two_digit_addition'], data)
  ):
    (one,) = model.generate(
      question.context, beams=4, length_penalty=0.6, max_new_tokens=16, stop='\n'
    )
    assert written[number] == one.text and '\n' not in one.text


def test_a_result_says_what_it_takes_to_repeat_it(run, found):
  model = gpt_jax.load(run)
  digest = checksums.digest(model.params)
  for (task, shots, seed), one in found.items():
    assert one['step'] == model.step and one['parameters_sha256'] == digest
    assert one['split'] and one['questions'] and one['tokenizer']
    assert len(one['prompts_sha256']) == 64
    assert (one['shots'], one['seed'], one['task']) == (shots, seed, task)
  hashes = {key: one['prompts_sha256'] for key, one in found.items() if not key[2]}
  assert len(set(hashes.values())) == len(hashes)
  # Prompts of one example are longer than the context here.
  assert (
    found['hellaswag', 1, 0]['truncated'] > 0 == found['wikitext2', 0, 0]['truncated']
  )


def test_what_is_known_is_not_computed_again(run, data, found, monkeypatch):
  def never(*args, **kwargs):
    raise AssertionError('computed again')

  monkeypatch.setattr(likelihood, 'scores', never)
  again = quiet(run, plan(['hellaswag', 'wikitext2'], data, shots=[0]))
  assert again == [found['hellaswag', 0, 0], found['wikitext2', 0, 0]]
  with pytest.raises(AssertionError, match='again'):
    quiet(run, plan(['hellaswag'], data), checkpoint_step=3)


def made_up(name, prompts, answers, **fields):
  """Returns a benchmark of a task with these prompts, all with the same answers."""
  question = Question('', tuple(answers), (0,), **fields)
  questions = [question] * len(prompts)
  return Benchmark(TASKS[name], 'dev', 0, 0, 0, '', 0, questions, prompts, [])


def test_answers_longer_than_the_context_and_empty_ones_are_scored(run):
  model = gpt_jax.load(run)
  long, end = ' step' * 60, (' step' * 60)[-96:]
  asked = made_up('piqa', ['A'], [long, ' up'])
  adapter = task_model(model)
  results, cut = run_benchmark(asked, adapter)
  assert cut == 1 and 'sum' in results['accuracy']
  found = dict(adapter.score(asked.task, [Request('A', long), Request('A', end)]))
  assert found[0] == found[1] and len(found[0].logp) == 96
  assert dict(adapter.score(asked.task, [Request('A', '')])) == {0: ([], [], [])}
  asked = made_up('cbt_cn', ['A'], [' cat', ' dog'], completion='')
  results, _ = run_benchmark(asked, adapter)
  cat, dog = (model.score('A', answer).logp for answer in asked.questions[0].answers)
  assert results['accuracy']['full']['value'] == float(cat > dog)


def test_examples_that_all_share_are_read_once(run, monkeypatch):
  seen, real = [], likelihood._read
  monkeypatch.setattr(
    likelihood, '_read', lambda *a, **k: seen.append(a) or real(*a, **k)
  )
  prompts = ['A step up. ' * 6 + f'{i} is' for i in range(20)]
  asked = made_up('multirc', prompts, [' no', ' yes'])
  adapter = task_model(gpt_jax.load(run))
  run_benchmark(asked, adapter)
  assert len(seen) == 1


def test_contamination_divides_the_scores_of_a_workdir(run, data, found, tmp_path):
  pytest.importorskip('zstandard')
  asked = plan(['hellaswag'], data)[0].questions
  seen = f'Before. {text_of(asked[0])} And after.'
  write_shard(
    tmp_path / 'corpus/00000.jsonl.zst',
    [Document('a#0', 's', text, {}) for text in ('nothing of it', seen)],
  )
  values = flags.FlagValues()
  VERBS['contamination'][0](values)
  given = {
    'corpus': tmp_path / 'corpus',
    'data': data,
    'tasks': 'hellaswag,wikitext2',
    'workdir': run,
    'target': tmp_path / 'target',
    'workers': 1,
  }
  values(['contamination', *(f'--{name}={value}' for name, value in given.items())])
  VERBS['contamination'][1](values)
  result = json.loads((tmp_path / 'target/contamination.json').read_text())
  assert result['tasks']['hellaswag']['dirty_examples'] == [0]
  assert result['texts']['wikitext2']['grams_found'] == 0
  scores = result['tasks']['hellaswag']['scores']
  assert {each['shots'] for each in scores} == {0, 1}
  (own,) = (each for each in scores if each['shots'] == 0)
  whole = found['hellaswag', 0, 0]['metrics']['accuracy']['per_token']
  assert own['all'] == whole | {'questions': len(asked)}
  # The one question is in the corpus.
  assert own['dirty'] == own['all'] and own['clean'] is None and len(asked) == 1


def test_draws_depend_on_the_prompt_alone(run):
  adapter = task_model(gpt_jax.load(run))
  prompts = ['A step', 'Q: What', 'up. A']
  task = dataclasses.replace(TASKS['cnn_dm'], limit=12)
  found = dict(adapter.write(task, prompts))
  assert dict(adapter.write(task, prompts[1:])) == {0: found[1], 1: found[2]}
  assert len(set(found.values())) == 3


def test_benchmarks_during_training_are_those_of_its_checkpoints(run, data):
  lines = [json.loads(x) for x in (run / 'metrics.jsonl').read_text().splitlines()]
  asked = [line for line in lines if 'hellaswag_0shot_accuracy' in line]
  assert [line['step'] for line in asked] == [3, 6]
  for line in asked:
    wanted = plan(['hellaswag', 'lambada'], data, shots=[0, 1], limit=2)
    for one in quiet(run, wanted, checkpoint_step=line['step']):
      name = f'{one["task"]}_{one["shots"]}shot_accuracy'
      assert line[name] == one['metrics']['accuracy'][one['rule']]['value']


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'data': ''}, "exams.data=''"),
    ({'shots': '0,x'}, "exams.shots='0,x'"),
    ({'every': 4}, 'exams.every=4 must be a multiple of eval_every=3: 3 or 6'),
    ({'limit': -1}, 'exams.limit=-1'),
  ],
)
def test_benchmarks_that_cannot_be_are_refused_before_training(change, message):
  given = {'tasks': 'piqa', 'data': 'x'} | change
  run = config.Run(eval_every=3, exams=config.Exams(**given))
  with pytest.raises(UserError, match=message):
    config.check(run)


def test_only_a_workdir_is_benchmarked(tmp_path, data):
  with pytest.raises(UserError, match='launch.py import'):
    benchmark.evaluate(tmp_path, plan(['piqa'], data))


def test_launch_evaluates_and_reports(run, data, found, tmp_path):
  done = launch(
    tmp_path,
    'eval',
    f'--workdir={run}',
    '--tasks=hellaswag,wikitext2',
    '--shots=0,1',
    '--seeds=2',
    f'--data={data}',
  )
  assert done.returncode == 0, done.stderr
  value = found['hellaswag', 0, 0]['metrics']['accuracy']['per_token']['value']
  assert (
    f'*accuracy                 per_token            {value:9.4f}  [' in done.stdout
  )
  assert 'over 2 draws of examples' in done.stdout
  assert done.stdout.count('*word_perplexity') == 1 and '*bits' not in done.stdout
  done = launch(tmp_path, 'report', f'--workdir={run}', '--target=report')
  assert done.returncode == 0, done.stderr
  text = (tmp_path / 'report/run.md').read_text()
  assert '## Prompted tasks' in text and '| hellaswag | accuracy |' in text


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    (['--tasks=piqa'], '--tasks needs --data'),
    (['--tasks=piqa', '--data={data}', '--shots=a'], '--shots=a must be numbers'),
    (['--tasks=piqa', '--data=/nowhere'], 'Get it from yonatanbisk.com/piqa'),
    (['--tasks=piqa', '--data={data}', '--baselines'], '--baselines says nothing'),
    (['--shots=3'], '--shots says nothing'),
  ],
)
def test_launch_says_what_is_wrong(run, data, tmp_path, flags, message):
  flags = [flag.format(data=data) for flag in flags]
  done = launch(tmp_path, 'eval', f'--workdir={run}', *flags)
  assert done.returncode and message in done.stderr


def test_what_can_not_be_kept_is_printed_first(run, data, tmp_path):
  workdir = tmp_path / 'own'
  shutil.copytree(run, workdir, ignore=shutil.ignore_patterns('eval', 'held_out.json'))
  (workdir / 'eval').write_text('a file is where a folder should be')
  (workdir / 'held_out.json').mkdir()
  done = launch(tmp_path, 'eval', '--workdir=own')
  assert done.returncode == 1 and 'bits/byte  this GPT' in done.stdout
  assert done.stderr == 'error: own/held_out.json can not be read: Is a directory\n'
  flags = '--tasks=winogrande', f'--data={data}', '--limit=2'
  done = launch(tmp_path, 'eval', '--workdir=own', *flags)
  assert done.returncode == 1 and '*accuracy' in done.stdout
  assert done.stderr == (
    'error: the results above are not kept: own/eval: File exists; a file is where a '
    'folder is needed; choose another path\n'
  )
  assert (workdir / 'eval').is_file()


def test_a_result_is_named_by_all_that_it_depends_on(run, data, found):
  known = {path.name for path in (run / 'eval').glob('wikitext2*.json')}
  (one,) = quiet(run, plan(['wikitext2'], data, stride=16))
  names = {path.name for path in (run / 'eval').glob('wikitext2*.json')}
  assert one['stride'] == 16 and len(known) == 1 and len(names) == 2


@pytest.mark.parametrize(
  ('every', 'due'), [(0, [12]), (4, [4, 8, 12]), (6, [6, 12]), (10, [10, 12])]
)
def test_benchmarks_are_due_every_so_many_updates_and_at_the_end(every, due):
  asked = config.Run(steps=12, eval_every=2)
  asked.exams = config.Exams(tasks='piqa', every=every)
  steps = range(2, 13, 2)  # those that are evaluated
  assert [step for step in steps if train._examines(asked, step)] == due
  asked.exams.tasks = ''
  assert not any(train._examines(asked, step) for step in steps)


def test_a_text_is_as_likely_as_its_windows(run):
  model = gpt_jax.load(run)
  adapter, text = task_model(model), 'Q: What is 1'
  start = adapter.encode('')
  assert start == [model.tokenizer.eot]
  whole = -model.score('', text).logp
  assert whole > 0
  ids = adapter.encode(text)
  (pair,) = adapter.window([(start, ids)])
  assert pair == (0, pytest.approx(whole, rel=1e-4))
  parts = dict(adapter.window([(start, ids[:5]), ([*start, *ids[:5]], ids[5:])]))
  assert sum(parts.values()) == pytest.approx(whole, rel=1e-4)


@pytest.fixture(scope='module')
def untrained():
  """A model of random bytes, which writes something else at every setting."""
  return random_bytes_model(T=48, seed=2)


def test_answers_are_written_with_the_papers_settings(untrained):
  seen = []

  class Watched(LanguageModel):
    def generate_ids(self, prompts, **settings):
      seen.append(settings)
      return super().generate_ids(prompts, **settings)

  prompts, stop = ['the', 'a cat', 'Q: 1?', 'and then', 'zz'], ('e', '\x1c')
  model = Watched(untrained.params, untrained.gpt, untrained.tokenizer)
  found = {}
  for name in ('two_digit_addition', 'cnn_dm'):
    task = dataclasses.replace(TASKS[name], limit=12, stop=stop)
    found[name] = dict(task_model(model).write(task, prompts))
  beams, drawn = seen
  seeds = [zlib.crc32(prompt.encode()) for prompt in prompts]
  for settings in seen:
    assert settings.pop('seed') == [seeds[i] for i in (3, 1, 2, 0, 4)]  # longest first
    assert settings.pop('stop') == stop and settings.pop('max_new_tokens') == 12
  # GPT-3, section 2.4, and GPT-2, section 3.6. A text hardly ever depends on a penalty.
  assert beams == {'beams': 4, 'length_penalty': 0.6, 'penalty_form': 'gnmt'}
  assert drawn == {'top_k': 2}
  for name, how in (('two_digit_addition', beams), ('cnn_dm', drawn)):
    how |= {'seed': seeds, 'stop': stop, 'max_new_tokens': 12}
    rows = untrained.generate(prompts, **how)
    assert found[name] == {row.number: row.text for row in rows}


def test_a_template_ends_its_answer(run, tmp_path):
  whole = gpt_jax.load(run).generate('A step', max_new_tokens=24, temperature=0)[0].text
  stop = whole[9:12]
  (tmp_path / 'asked.txt').write_text(f'A {{what}}{{answer}}{stop}')
  flags = '--template=asked.txt', '--fields=what=step', '--max_new_tokens=24'
  done = launch(tmp_path, 'sample', f'--workdir={run}', *flags, '--temperature=0')
  assert done.returncode == 0, done.stderr
  assert done.stdout.rstrip('\n') == f'A step{whole[: whole.index(stop)]}'


def test_benchmarks_in_training_give_the_first_metric_by_the_papers_rule(
  data, monkeypatch
):
  asked = config.Exams(tasks='hellaswag,lambada', data=str(data), shots='0', limit=2)

  def made_up_results(benchmark, model):
    rules = {'another': {'value': 0.1}, benchmark.rule: {'value': 0.3}}
    return {'accuracy': rules, 'other': {benchmark.rule: {'value': 0.9}}}, 0

  monkeypatch.setattr(benchmark, 'run_benchmark', made_up_results)
  monkeypatch.setattr(benchmark, 'task_model', lambda model: model)
  assert benchmark.during(asked)(None) == {
    'hellaswag_0shot_accuracy': 0.3,
    'lambada_0shot_accuracy': 0.3,
  }
  assert benchmark.during(config.Exams())(None) == {}
