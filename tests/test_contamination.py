"""What a corpus has of benchmarks, beside brute force; scores on clean and dirty."""

import itertools
import json
import random

import numpy as np
import pytest
from absl import flags

from gpt_jax.cli import VERBS
from gpt_jax.config import UserError
from gpt_jax.data.curation import engine, shards
from gpt_jax.data.curation.shards import Document, write_shard
from gpt_jax.evaluation import contamination, scoring_rules
from gpt_jax.tasks.prompted import TASKS
from gpt_jax.tasks.prompts import Question

pytest.importorskip('zstandard')


def corpus(folder, texts, number=7):
  for i in range(0, len(texts), number):
    some = [Document(f'd#{i}', 's', text, {}) for text in texts[i : i + number]]
    write_shard(folder / f'{i // number:05d}{shards.SUFFIX}', some)
  return shards.list_shards(folder)


def plain(text: str, kind: str) -> list[str]:
  """Returns the words of a text, by GPT-3's or by GPT-2's definition."""
  if kind == contamination.BARE:
    words = (''.join(c for c in word if c.isalnum()) for word in text.lower().split())
    return [word for word in words if word]
  spaced = ''.join(c if c.isalnum() else ' ' for c in text.lower())
  return spaced.split()


@pytest.mark.parametrize('kind', [contamination.BARE, contamination.RUNS])
def test_overlaps_are_those_of_brute_force(tmp_path, kind):
  rng = random.Random(0)
  words = ['a', 'B', 'c.', 'd-e', '—', "h's\n"]

  def text():
    return ' '.join(rng.choices(words, k=rng.randint(0, 12)))

  documents = [text() for _ in range(60)]
  texts = {'one': [text() for _ in range(40)], 'two': [text() for _ in range(30)]}
  lengths = {'one': 4, 'two': 5}
  runs = engine.local(1, tmp_path / 'state')
  found = contamination.overlaps(
    runs, corpus(tmp_path / 'in', documents), texts, lengths, kind
  )
  for task, n in lengths.items():

    def grams(text, n=n):
      some = plain(text, kind)
      return [tuple(some[i : i + n]) for i in range(len(some) - n + 1)]

    there = {*itertools.chain.from_iterable(map(grams, documents))}
    hits = [[each in there for each in grams(text)] for text in texts[task]]
    assert found[task].dirty.tolist() == [any(each) for each in hits]
    assert 0 < found[task].dirty.sum() < len(hits)
    assert found[task].found == sum(map(sum, hits))
    assert found[task].grams == sum(map(len, hits))
    assert found[task].short == sum(len(plain(t, kind)) < n for t in texts[task])


def test_n_is_the_fifth_percentile_from_8_to_13():
  def of(lengths, task='piqa'):
    return contamination.gram_length(task, [' '.join('x' * n) for n in lengths])

  assert of([3] * 10 + [50] * 90) == 8
  assert of([11] * 6 + [50] * 94) == 11
  assert of([11] * 4 + [50] * 96) == 13
  assert of([20], 'mid_word_1_anagrams') == 2
  assert of([20], 'random_insertion_in_word') == 7
  # Punctuation is no word.
  assert contamination.gram_length('piqa', ['a b c d e f g h i , . - ! ? "']) == 9


def test_an_example_is_its_question_and_right_answer():
  assert contamination.text_of(Question('2 + 2 =', (' 3', ' 4'), (1,))) == '2 + 2 = 4'
  assert contamination.text_of(Question('a', (' b',), (), ' c')) == 'a b c'


def test_scores_are_of_all_clean_and_dirty_questions():
  task = TASKS['hellaswag']
  questions = [Question(f'q{i}', (' a', ' b'), (i % 2,)) for i in range(40)]
  # The model knows what it has seen, and guesses ' a' elsewhere.
  dirty = np.arange(40) < 10
  records = [
    {
      'logp': [-2.0, -1.0] if dirty[i] and i % 2 else [-1.0, -2.0],
      'other_logp': [0.0, 0.0],
      'tokens': [1, 1],
    }
    for i in range(40)
  ]
  found = contamination.scores(task, questions, records, dirty)
  assert found['dirty'] == scoring_rules.share(10, 10) | {'questions': 10}
  assert found['clean'] == scoring_rules.share(15, 30) | {'questions': 30}
  assert found['all'] == scoring_rules.share(25, 40) | {'questions': 40}
  cells = contamination._cells(found)
  assert cells[0].startswith('0.6250 [') and cells[3] == '-20.0%'
  none = contamination.scores(task, questions, records, np.zeros(40, bool))
  assert none['dirty'] is None and none['clean'] == none['all']
  with pytest.raises(UserError, match='40 answers to 40 questions of hellaswag, of wh'):
    contamination.scores(task, questions, records, dirty[:9])


def test_a_corpus_in_a_store_and_a_report_there(s3, tmp_path):
  page = 'Tea is , it is said , a hot drink of leaves . \n'
  (tmp_path / 'wikitext-2').mkdir()
  (tmp_path / 'wikitext-2/wiki.test.tokens').write_text(f' = Tea = \n \n {page}')
  folders = {'folder': str(tmp_path), 'store': 's3://bucket'}
  results = {}
  for name, folder in folders.items():
    some = [Document('a#0', 's', text, {}) for text in ('nothing of it', page)]
    write_shard(f'{folder}/corpus/00000{shards.SUFFIX}', some)
    values = flags.FlagValues()
    VERBS['contamination'][0](values)
    given = {'corpus': f'{folder}/corpus', 'target': f'{folder}/target'}
    given |= {'data': tmp_path, 'tasks': 'wikitext2', 'workers': 1}
    values(['contamination', *(f'--{name}={value}' for name, value in given.items())])
    VERBS['contamination'][1](values)
    with shards.opened(f'{folder}/target/contamination.json') as stream:
      results[name] = json.load(stream)
  assert results['store'] == results['folder']
  assert results['store']['texts']['wikitext2']['grams_found'] > 0
