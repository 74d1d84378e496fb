"""experiments/gpt1/zero_shot.py, layers.py and their plots: GPT-1's figure 2."""

import json
import pathlib

import jax
import numpy as np
import pytest
from scripts import opened

from gpt_jax import config, tokenizers
from gpt_jax.config import UserError
from gpt_jax.evaluation import metrics, statistics
from gpt_jax.inference.language_model import LanguageModel
from gpt_jax.model.gpt import GPT, init_params
from gpt_jax.model.gpt_config import GPTConfig
from gpt_jax.reports import figures
from gpt_jax.runs import workdir
from gpt_jax.tasks.labelled import Example
from gpt_jax.training import checkpoint
from gpt_jax.training.step import State

ROOT = pathlib.Path(__file__).resolve().parent.parent
T = 32
LETTERS = 'abcdefghijklmnopqrstuvwxyz '


zero_shot = opened('gpt1/zero_shot.py')
TOKENIZER = tokenizers.Characters(''.join(sorted(LETTERS)))
RUN = config.Run(batch=8, batch_start=4, batch_ramp=256)
RUN.model = config.Model(L=1, D=16, N=2, T=T)
SHAPE = GPTConfig.of(RUN.model, TOKENIZER.vocab)


def params(seed):
  """Weights with which some characters are likelier than others."""
  draw = np.random.default_rng(seed).standard_normal
  like = jax.eval_shape(lambda: init_params(SHAPE, 0))
  return jax.tree.map(lambda x: 0.5 * draw(x.shape, np.float32), like)


MODEL = LanguageModel(params(2), GPT(SHAPE), TOKENIZER)


def texts(number, seed, longest=14):
  draw = np.random.default_rng(seed)
  letters = list('abcde ')
  return [
    ''.join(draw.choice(letters, draw.integers(2, longest))) for _ in range(number)
  ]


def sentences(number, seed):
  return [Example((text,), (), i % 2) for i, text in enumerate(texts(number, seed))]


def choices(number, seed):
  """Examples of two texts, together often longer than the context, and 4 answers."""
  every = iter(texts(6 * number, seed, longest=24))
  return [
    Example((next(every), next(every)), tuple(next(every) for _ in range(4)), i % 4)
    for i in range(number)
  ]


def items(dev, train=()):
  return zero_shot.Items(list(dev), list(train))


def best(scores):
  return max(range(len(scores)), key=scores.__getitem__)


def test_a_sentence_is_acceptable_from_the_training_splits_threshold_on():
  train, dev = sentences(30, 0), sentences(20, 1)

  def mean(example):
    (text,) = example.texts
    return np.mean(MODEL.score(text[0], text[1:]).token_logp)

  at = zero_shot.threshold(
    np.array([mean(each) for each in train]), np.array([each.label for each in train])
  )
  expected = [mean(each) >= at - 1e-5 for each in dev]
  assert 0 < sum(expected) < len(expected)
  found = zero_shot.acceptable(MODEL, items(dev, train))
  assert found.tolist() == expected


def test_the_threshold_is_the_one_that_correlates_best():
  draw = np.random.default_rng(0)
  labels = draw.integers(2, size=40)
  scores = np.round(draw.normal(size=40) + labels, 1)  # some are equal
  at = zero_shot.threshold(scores, labels)
  assert at in scores
  every = [np.corrcoef(scores >= s, labels)[0, 1] for s in scores if s > scores.min()]
  assert np.corrcoef(scores >= at, labels)[0, 1] == pytest.approx(max(every))


def test_sentiment_is_the_likelier_word_after_very():
  dev = sentences(40, 2)
  expected = [
    MODEL.score(f'{text} very', ' positive').logp
    > MODEL.score(f'{text} very', ' negative').logp
    for ((text,), *_) in dev
  ]
  assert 0 < sum(expected) < len(expected)
  assert zero_shot.positive(MODEL, items(dev)).tolist() == expected


def test_an_answer_is_chosen_by_the_mean_of_its_tokens():
  dev, by_mean, by_sum = choices(12, 3), [], []
  for each in dev:
    found = [
      MODEL.score(' '.join(each.texts), f' {answer}').token_logp
      for answer in each.choices
    ]
    by_mean.append(best([np.mean(logp) for logp in found]))
    by_sum.append(best([np.sum(logp) for logp in found]))
  assert by_mean != by_sum
  assert zero_shot.likeliest_answer(MODEL, items(dev)).tolist() == by_mean


def test_an_option_is_chosen_by_what_follows_it():
  dev, by_rest, by_all = [], [], []
  for before, after, *options in zip(*[iter(texts(48, 4))] * 4, strict=True):
    dev.append(Example((before, after), tuple(options), 0))
    rest = [MODEL.score(before + each, after).token_logp for each in options]
    whole = [MODEL.score(before, each + after).token_logp for each in options]
    by_rest.append(best([np.mean(logp) for logp in rest]))
    by_all.append(best([np.mean(logp) for logp in whole]))
  assert by_rest != by_all
  assert zero_shot.likeliest_rest(MODEL, items(dev)).tolist() == by_rest


def test_winogrande_is_cut_at_its_blank(tmp_path):
  path = tmp_path / 'validation.jsonl'
  line = {'sentence': 'a _ was b', 'option1': 'c', 'option2': 'd', 'answer': '2'}
  path.write_text(json.dumps(line) + '\n')
  (found,) = zero_shot.examples('winogrande', tmp_path, 0).dev
  assert found == Example(('a', ' was b'), (' c', ' d'), 1, '1')
  for wrong, text in (
    ({'sentence': 'a b'}, 'the sentence has no _'),
    ({'sentence': 'a _'}, 'the sentence has no _'),
    ({'answer': ''}, "answer '' is none of 1, 2"),
  ):
    path.write_text(json.dumps(line) + '\n' + json.dumps(line | wrong) + '\n')
    with pytest.raises(UserError, match=f'line 2: {text}'):
      zero_shot.examples('winogrande', tmp_path, 0)


def test_a_limit_draws_the_same_examples_each_time(tmp_path):
  for split in ('train', 'dev'):
    lines = [f's\t{i % 2}\t\t{split} {i}\n' for i in range(40)]
    (tmp_path / f'{split}.tsv').write_text(''.join(lines))
  every = zero_shot.examples('cola', tmp_path, 0)
  assert (len(every.dev), len(every.train)) == (40, 40)
  some = zero_shot.examples('cola', tmp_path, 8)
  assert (len(some.dev), len(some.train)) == (8, 8)
  assert some == zero_shot.examples('cola', tmp_path, 8)
  assert set(some.dev) < set(every.dev)
  assert some.dev != every.dev[:8]


@pytest.fixture(scope='module')
def place(tmp_path_factory):
  """A workdir with checkpoints after 3 and 7 updates."""
  folder = tmp_path_factory.mktemp('run')
  workdir.write_run_json(
    RUN, folder, vocab=TOKENIZER.vocab, data={}, devices=[], argv=[]
  )
  TOKENIZER.save(folder / 'tokenizer')
  saved = checkpoint.Checkpoints(folder / 'checkpoints', keep=5)
  for step in (3, 7):
    saved.save(State(params(step), {}, np.int32(step)), 1.0)
    saved.wait()
  saved.close()
  return folder


DATA = {
  'cola': items(sentences(20, 1), sentences(30, 0)),
  'mctest': items(choices(8, 3)),
}


def test_every_checkpoint_is_measured_once_and_what_is_missing_later(place, capsys):
  lines = zero_shot.measure(place, DATA)
  assert [(line['step'], line['task']) for line in lines] == [
    (step, task) for step in (3, 7) for task in ('cola', 'mctest')
  ]
  # 256 tokens, that is 2 updates, of 4 rows, then of 8.
  assert [line['tokens'] // T for line in lines[::2]] == [2 * 4 + 8, 2 * 4 + 5 * 8]
  path = place / 'zero_shot.jsonl'
  written = path.read_text().splitlines(keepends=True)
  assert [json.loads(line) for line in written] == lines
  assert len(capsys.readouterr().out.splitlines()) == 5
  model = LanguageModel(params(7), GPT(SHAPE), TOKENIZER)
  guesses = zero_shot.likeliest_answer(model, DATA['mctest'])
  labels = [each.label for each in DATA['mctest'].dev]
  assert lines[3]['value'] == metrics.accuracy(guesses, labels)
  assert lines[3]['alike'] == max(map(guesses.tolist().count, guesses)) / len(guesses)

  # Killed after the first line, which is not measured again.
  kept = json.loads(written[0]) | {'value': -0.5}
  path.write_text(json.dumps(kept) + '\n')
  assert zero_shot.measure(place, DATA) == [kept, *lines[1:]]
  assert '-0.5000' in capsys.readouterr().out
  before = path.stat().st_mtime_ns
  zero_shot.measure(place, {'mctest': DATA['mctest']})
  assert path.stat().st_mtime_ns == before


def test_values_on_other_examples_are_not_continued(place):
  zero_shot.measure(place, DATA)
  fewer = DATA | {'mctest': items(DATA['mctest'].dev[:5])}
  with pytest.raises(UserError, match='mctest on other examples, 8 of them, not on th'):
    zero_shot.measure(place, fewer)


def test_a_score_is_shown_between_chance_and_reference(tmp_path):
  line = {'chance': 0.5, 'reference': 0.9}
  shown = [figures.normalised(line, value) for value in (0.5, 0.9, 0.6, 0.4)]
  assert shown == pytest.approx([0, 1, 0.25, -0.25])
  line |= {'task': 'a', 'metric': 'accuracy', 'value': 0.6, 'low': 0.5, 'high': 0.7}
  lines = [line | {'step': step} for step in (100, 200)]
  figures.zero_shot_curves(lines, tmp_path / 'a.png')
  assert (tmp_path / 'a.png').read_bytes().startswith(b'\x89PNG')
  with pytest.raises(UserError, match='no zero-shot values'):
    figures.zero_shot_curves([], tmp_path / 'a.png')


def finished(folder, transfer, values, **changes):
  run = config.Run(seeds=len(values), steps=5, model=config.Model(L=2))
  run.task = config.Task(name='cola', transfer=transfer, **changes)
  folder.mkdir()
  workdir.write_run_json(run, folder, vocab=8, data={}, devices=[], argv=[])
  found = {
    'task': 'cola',
    'examples': 9,
    'seeds': {
      str(i): {'step': 5, 'matthews': value, 'intervals': {'matthews': [0.0, 1.0]}}
      for i, value in enumerate(values)
    },
    'over_seeds': {'matthews': statistics.spread(values)},
  }
  (folder / 'results.json').write_text(json.dumps(found))
  return folder


def test_transfers_are_in_order_and_all_is_every_layer(tmp_path):
  given = {'all': [0.4, 0.5], '1': [0.3], 'none': [0.1], '0': [0.2]}
  places = [finished(tmp_path / name, name, values) for name, values in given.items()]
  found = figures.transfers(places)
  assert [each.layers for each in found] == [None, 0, 1, 2]
  assert [each.over_seeds['mean'] for each in found] == pytest.approx(
    [0.1, 0.2, 0.3, 0.45]
  )
  assert found[3].values == [0.4, 0.5]
  figures.transfer_curve(found, tmp_path / 'a.png')
  assert (tmp_path / 'a.png').read_bytes().startswith(b'\x89PNG')


def test_runs_that_are_no_points_of_one_curve_are_refused(tmp_path):
  one = finished(tmp_path / 'one', 'all', [0.4])
  same = finished(tmp_path / 'same', '2', [0.4])
  other = finished(tmp_path / 'other', '1', [0.4], epochs=4)
  undone = finished(tmp_path / 'undone', '0', [0.4])
  (undone / 'results.json').unlink()
  for places, message in (
    ([one, same], 'one and .*same transfer as much to cola'),
    ([one, other], 'differ in more .*\ntask.epochs: 3 there, 4 here'),
    ([one, undone], 'undone has no results.json'),
    ([], 'no workdirs'),
  ):
    with pytest.raises(UserError, match=message):
      figures.transfers(places)
