"""Benchmarks: models that know all or guess, rules by hand, resuming, bad input."""

import json
import math

import numpy as np
import prompt_files
import pytest

from gpt_jax.config import UserError
from gpt_jax.evaluation import scoring_rules, text_metrics
from gpt_jax.evaluation.benchmark import Benchmark, TaskModel, plan, run_benchmark
from gpt_jax.evaluation.likelihood import TokenScores
from gpt_jax.tasks import prompted_files
from gpt_jax.tasks.prompted import TASKS, TEXTS
from gpt_jax.tasks.prompts import Question

LONG = 10**9


@pytest.fixture(scope='module')
def data(tmp_path_factory):
  """A folder with a small file of every task."""
  return prompt_files.write(tmp_path_factory.mktemp('tasks'))


def scores_of(logp, best=True, tokens=2):
  return TokenScores([logp / tokens] * tokens, [best] * tokens, [best] * tokens)


def encode(text):
  return list(text.encode()) or [0]


def oracle(benchmark):
  """Returns a model that knows the right continuation of every prompt."""
  right, written = set(), {}
  for question, text in zip(benchmark.questions, benchmark.prompts, strict=True):
    asked = scoring_rules.requests(benchmark.task, question, text)
    half = asked if benchmark.form == 'last_word' else asked[: len(asked) // 2]
    right |= {half[i] for i in question.gold if half}
    if benchmark.form == 'partial':
      right |= {asked[len(asked) // 2 + i] for i in question.gold}
    said = question.answers[question.gold[0]] if question.gold else ' something else'
    written[text] = said

  def score(task, requests):
    for i, request in reversed(list(enumerate(requests))):
      alone = request.context == task.unconditional
      known = request in right
      yield i, scores_of(-1.0 if alone else -0.01 if known else -50.0, best=known)

  def write(task, prompts):
    yield from enumerate(written[text] for text in prompts)

  return TaskModel(score, write, None, encode, LONG)


def guesser(seed):
  """Returns a model whose likelihoods are drawn from a seed."""
  rng = np.random.default_rng(seed)

  def score(task, requests):
    for i in range(len(requests)):
      yield i, scores_of(-20 * rng.random(), best=False)

  def write(task, prompts):
    yield from enumerate('' for _ in prompts)

  return TaskModel(score, write, None, encode, LONG)


def only(name, data, **settings):
  (benchmark,) = plan([name], data, **settings)
  return benchmark


@pytest.mark.parametrize('name', sorted(TASKS))
def test_one_who_knows_all_has_full_marks_by_every_rule(name, data):
  if name.startswith('wmt'):
    pytest.importorskip('sacrebleu')
  if name == 'cnn_dm':
    pytest.importorskip('rouge_score')
  for shots in (0, 1):
    benchmark = only(name, data, shots=[shots])
    results, cut = run_benchmark(benchmark, oracle(benchmark))
    assert cut == 0 and results.keys() >= set(TASKS[name].metrics)
    for metric, rules in results.items():
      assert benchmark.rule in rules
      for rule, found in rules.items():
        assert found['low'] <= found['value'] <= found['high']
        if metric == 'perplexity':
          assert found['value'] < 1.1
          continue
        if metric == 'coqa_f1':  # answers that differ leave nobody full marks
          asked = benchmark.questions
          best = [text_metrics.coqa_f1(q.answers[0], q.answers) for q in asked]
          full = pytest.approx(np.mean(best))
        else:
          full = pytest.approx(100 if metric == 'bleu' else 1)
        assert found['value'] == full, (metric, rule)


@pytest.mark.parametrize('name', sorted(TASKS))
def test_one_who_knows_all_has_full_marks_on_real_files(name, shared_data):
  task = TASKS[name]
  if name in ('coqa', 'cnn_dm') or 'bleu' in task.metrics:
    pytest.skip('no answer has full marks, or it needs another package')
  place = shared_data / 'tasks'
  splits = [split for split in task.files if prompted_files._there(task, place, split)]
  if not splits:
    pytest.skip(f'no file of {name} there')
  split = task.split if task.split in splits else splits[-1]
  settings = {'split': split, 'examples': 'itself', 'limit': 100, 'shots': [0, 3]}
  for benchmark in plan([name], place, **settings):
    assert len(benchmark.questions) >= 50
    results, _ = run_benchmark(benchmark, oracle(benchmark))
    for metric, rules in results.items():
      for rule, found in rules.items():
        assert found['value'] == 1 or metric == 'perplexity', (metric, rule)


def many(form_of, options, n=400):
  """Returns a benchmark of so many made-up questions of a task."""
  task = TASKS[form_of]
  questions = [
    Question(f'q{i}', tuple(f' {j} of {i}' for j in range(options)), (i % options,))
    for i in range(n)
  ]
  if task.form == 'partial':
    questions = [q._replace(completion=' end') for q in questions]
  prompts = [question.context for question in questions]
  return Benchmark(task, 'dev', 0, 0, 0, '', 0, questions, prompts, [])


@pytest.mark.parametrize(
  ('name', 'options'),
  [
    ('hellaswag', 4),
    ('storycloze', 2),
    ('arc_easy', 4),
    ('anli_r1', 3),
    ('winogrande', 2),
  ],
)
def test_one_who_guesses_is_at_chance_within_the_interval(name, options):
  benchmark = many(name, options)
  chance = scoring_rules.chance(benchmark.task, benchmark.questions)
  assert chance == pytest.approx(1 / options)
  inside = []
  for seed in range(20):
    results, _ = run_benchmark(benchmark, guesser(seed))
    for found in results['accuracy'].values():
      inside.append(found['low'] <= chance <= found['high'])
  assert np.mean(inside) > 0.85  # of 95 %


def test_rules_are_what_they_say():
  question = Question('q', (' a', ' \u00e9\u00e9'), (1,))
  record = scoring_rules.record(
    TASKS['hellaswag'],
    [
      TokenScores([-2.0], [True], [True]),
      TokenScores([-1.0, -1.0, -1.5], [True] * 3, [True] * 3),
      TokenScores([-1.0], [True], [True]),
      TokenScores([-3.0, -3.0, -3.0], [True] * 3, [True] * 3),
    ],
  )
  expected = {
    'sum': [-2, -3.5],
    'per_token': [-2, -3.5 / 3],
    'per_byte': [-1, -3.5 / 5],
    'per_character': [-1, -3.5 / 3],
    'unconditional': [-1, 5.5],
  }
  for rule in scoring_rules.CHOICES:
    found = scoring_rules.option_scores(rule, record, question)
    np.testing.assert_allclose(found, expected[rule])
  results = scoring_rules.results(TASKS['hellaswag'], [question], [record])
  right = {rule: found['value'] for rule, found in results['accuracy'].items()}
  assert right == {
    rule: float(rule not in ('sum', 'per_character')) for rule in expected
  }


def test_what_is_scored_of_each_form():
  question = Question('once', (' a', ' b'), (0,), completion=' end')
  ask = scoring_rules.requests
  assert ask(TASKS['hellaswag'], question, 'x once') == [
    ('x once', ' a'),
    ('x once', ' b'),
    ('Answer:', ' a'),
    ('Answer:', ' b'),
  ]
  assert ask(TASKS['winogrande'], question, 'x once') == [
    ('x once a', ' end'),
    ('x once b', ' end'),
    ('x once', ' a end'),
    ('x once', ' b end'),
  ]
  assert ask(TASKS['lambada'], question, 'x once') == [('x once', ' a')]
  assert ask(TASKS['triviaqa'], question, 'x once') == []


def test_rules_of_the_last_word():
  task, question = TASKS['lambada'], Question('once', (' upon',), (0,))
  found = [
    scoring_rules.record(task, [TokenScores(*each)])
    for each in (
      ([-1.0, -2.0], [True, True], [True, True]),
      ([-1.0, -2.0], [False, True], [True, True]),
      ([-1.0, -2.0], [False, True], [False, True]),
      ([-1.0, -2.0], [True, False], [True, True]),
    )
  ]
  results = scoring_rules.results(task, [question] * 4, found)
  right = {rule: one['value'] for rule, one in results['accuracy'].items()}
  assert right == {
    'last_word': 0.25,
    'last_word_filtered': 0.5,
    'last_token': 0.75,
    'last_token_filtered': 0.75,  # of several tokens the last is no word
  }
  one = scoring_rules.record(task, [TokenScores([-1.0], [False], [True])])
  assert one['last_token_filtered'] and one['last_word_filtered']
  assert not one['last_token'] and not one['last_word']
  assert results['perplexity']['last_word']['value'] == pytest.approx(math.exp(3))
  assert results['perplexity']['last_token']['value'] == pytest.approx(math.exp(2))


def test_an_interrupted_benchmark_resumes(data, tmp_path):
  benchmark = many('hellaswag', 3, 50)
  whole, _ = run_benchmark(benchmark, oracle(benchmark), tmp_path / 'whole.jsonl')
  path, real = tmp_path / 'part.jsonl', oracle(benchmark)

  class Broken(Exception):
    pass

  def breaks(task, requests):
    for n, found in enumerate(real.score(task, requests)):
      if n == 200:
        raise Broken
      yield found

  with pytest.raises(Broken):
    run_benchmark(benchmark, real._replace(score=breaks), path)
  kept = [json.loads(line)['number'] for line in path.read_text().splitlines()]
  assert 0 < len(kept) < 50
  with open(path, 'a') as file:
    file.write('{"number": 7, "lo')  # killed while writing
  asked = []

  def watched(task, requests):
    asked.extend(requests)
    yield from real.score(task, requests)

  again, _ = run_benchmark(benchmark, real._replace(score=watched), path)
  assert again == whole
  contexts = {request.context for request in asked} - {'Answer:'}
  assert contexts == {f'q{i}' for i in range(50) if i not in kept}
  assert len(path.read_text().splitlines()) == 50


def test_perplexity_counts_every_token_once_and_divides_by_units(tmp_path):
  page = ' = Tea = \n \n He said , " It \'s 5 @.@ 5 degrés . " \n'
  (tmp_path / 'wiki.test.tokens').write_text(page + page.replace('Tea', 'Milk'))
  benchmark = only('wikitext2', tmp_path)
  assert len(benchmark.documents) == 2
  seen = []

  def window(pairs):
    for i, (context, ids) in enumerate(pairs):
      seen.append((context, ids))
      yield i, 0.5 * len(ids)

  for stride, T in ((0, 16), (4, 16), (0, LONG)):
    seen.clear()
    model = TaskModel(None, None, window, encode, T)
    results, cut = run_benchmark(benchmark._replace(stride=stride), model)
    text = [b for document in benchmark.documents for b in document.text.encode()]
    assert [i for _, ids in seen for i in ids] == text and cut == 0
    assert all(1 <= len(context) <= T for context, _ in seen)
    words = sum(document.words for document in benchmark.documents)
    found = results['word_perplexity']['windows']['value']
    assert found == pytest.approx(math.exp(0.5 * len(text) / words))
    size = sum(document.bytes for document in benchmark.documents)
    found = results['bits_per_byte']['windows']['value']
    assert found == pytest.approx(0.5 * len(text) / math.log(2) / size)
    characters = sum(document.characters for document in benchmark.documents)
    assert words < characters < size and len(text) < size
    found = results['bits_per_character']['windows']['value']
    assert found == pytest.approx(0.5 * len(text) / math.log(2) / characters)
    found = results['token_perplexity']['windows']['value']
    assert found == pytest.approx(math.exp(0.5))
    lines = sum(document.lines for document in benchmark.documents)
    found = results['word_and_line_perplexity']['windows']['value']
    assert found == pytest.approx(math.exp(0.5 * len(text) / (words + lines)))
    if stride:
      assert all(len(ids) <= 4 for _, ids in seen)
      assert any(len(context) == 16 for context, _ in seen)


def test_prompts_that_are_too_long_are_counted():
  benchmark = many('hellaswag', 2, 6)
  benchmark = benchmark._replace(prompts=['x' * (10 * n + 5) for n in range(6)])
  model = guesser(0)._replace(T=39)
  _, cut = run_benchmark(benchmark, model)
  # 6 bytes of an answer, 40 ids with the last, which is not read
  assert cut == sum(10 * n + 5 + len(' 0 of 0') > 40 for n in range(6))


def test_a_prompt_that_leaves_no_room_for_an_answer_to_be_written_is_counted():
  benchmark = many('triviaqa', 1, 6)
  benchmark = benchmark._replace(prompts=['x' * n for n in (1, 7, 8, 9, 10, 90)])
  model = TaskModel(None, lambda _, p: enumerate('' for _ in p), None, encode, 0)
  model = model._replace(T=benchmark.task.limit + 8)
  assert run_benchmark(benchmark, model)[1] == 3


def test_a_limit_counts_questions_where_several_rows_are_about_one(tmp_path):
  questions = [
    {
      'question': f'q{i}?',
      'answers': [{'text': f'a{j}', 'label': j % 2} for j in range(3)],
    }
    for i in range(5)
  ]
  row = {'idx': 0, 'passage': {'text': 'Tea.', 'questions': questions}}
  (tmp_path / 'multirc').mkdir()
  (tmp_path / 'multirc/val.jsonl').write_text(json.dumps(row) + '\n')
  benchmark = only('multirc', tmp_path, limit=2)
  assert len(benchmark.questions) == 6 and benchmark.limit == 2
  assert len({question.group for question in benchmark.questions}) == 2
  assert only('multirc', tmp_path, limit=9).limit == 0


def test_one_file_has_no_examples_of_another_split(data):
  with pytest.raises(UserError, match='is one file.*split dev'):
    plan(['reversed_words'], _file(data, 'reversed_words'), shots=[1], examples='dev')


def _file(data, name):
  return prompted_files.find(TASKS[name], data, TASKS[name].split)


def test_benchmarks_are_drawn_by_seed_and_have_names_of_their_own(data):
  found = plan(['reversed_words'], data, shots=[0, 1, 2], seeds=2, examples='itself')
  names = [benchmark.name for benchmark in found]
  assert names == [
    'reversed_words-0shot',
    'reversed_words-1shot-seed0',
    'reversed_words-1shot-seed1',
    'reversed_words-2shot-seed0',
    'reversed_words-2shot-seed1',
  ]
  assert len({benchmark.digest() for benchmark in found}) >= 4
  again = plan(['reversed_words'], data, shots=[0, 1, 2], seeds=2, examples='itself')
  assert [a.digest() for a in again] == [a.digest() for a in found]
  few = only('reversed_words', data, limit=2)
  assert len(few.questions) == 2 and few.digest() != found[0].digest()


@pytest.mark.parametrize(
  ('names', 'settings', 'message'),
  [
    (['hellasvag'], {}, 'no task .hellasvag.*hellaswag'),
    ([], {}, 'names no task'),
    (['piqa'], {'shots': [-1]}, 'shots=-1'),
    (['piqa'], {'shots': []}, 'shots= is empty'),
    (['piqa'], {'seeds': 0}, 'seeds=0'),
    (['piqa'], {'limit': -1}, 'limit=-1'),
    (['wikitext2'], {'stride': -1}, 'stride=-1'),
    (['reversed_words'], {'shots': [500]}, 'shots=500 of reversed_words'),
    (['piqa'], {'split': 'nowhere'}, 'no split'),
  ],
)
def test_what_cannot_be_asked_is_refused(data, names, settings, message):
  with pytest.raises(UserError, match=message):
    plan(names, data, **settings)


def test_a_missing_file_says_where_to_get_it(tmp_path):
  for name in [*TASKS, *TEXTS]:
    with pytest.raises(UserError, match='[Gg]et it from'):
      plan([name], tmp_path)


def test_damaged_answers_are_named(tmp_path):
  benchmark = many('piqa', 2, 3)
  path = tmp_path / 'x.jsonl'
  path.write_text('{"number": 0}\nrubbish\n')
  with pytest.raises(UserError, match='x.jsonl: line 2 is damaged: not JSON'):
    run_benchmark(benchmark, oracle(benchmark), path)
  for line, says in (
    ('{"number": 0}', "answer 0 is damaged: it lacks 'logp'"),
    ('{"number": 99}', 'answer 99 is of no question'),
    ('{"logp": []}', "line 1 is damaged: it lacks 'number'"),
  ):
    path.write_text(line + '\n')
    with pytest.raises(UserError, match=says):
      run_benchmark(benchmark, oracle(benchmark), path)
