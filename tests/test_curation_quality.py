"""The quality filter: Spark's features, the classifier, and how many are kept."""

import json
import pathlib
import random

import numpy as np
import pytest
import scipy.optimize
import scipy.sparse
import scipy.special

from benchmarks import curation_texts as texts
from gpt_jax.config import UserError
from gpt_jax.data import sources
from gpt_jax.data.curation import engine, features, logistic, quality, shards
from gpt_jax.data.curation.quality import Quality
from gpt_jax.data.curation.shards import Document, read_shard, write_shard

pytest.importorskip('zstandard')
GOLDENS = pathlib.Path(__file__).parent / 'goldens'
ROWS = json.loads((GOLDENS / 'spark_features.json').read_text())['rows']


@pytest.mark.parametrize('row', ROWS, ids=range(len(ROWS)))
def test_features_are_those_of_spark(row):
  assert features.words(row['text']) == row['words']
  buckets, counts = features.counts(row['text'])
  assert buckets.tolist() == row['buckets'] and counts.tolist() == row['counts']


def test_the_hash_is_murmur3_of_any_bytes():
  mmh3 = pytest.importorskip('mmh3')
  rng = random.Random(0)
  for _ in range(3000):
    letters = rng.choice(['abcdefgh', 'éжΩ漢', '\U0001f600a\u0301'])
    word = ''.join(rng.choices(letters, k=rng.randrange(12)))
    assert features.bucket(word) == mmh3.hash(word, 42) % 2**18, word


def test_terms_are_words_and_words_in_a_row():
  assert [*features.terms('A b  a')] == ['a', 'b', '', 'a']
  assert [*features.terms('a b c', 3)] == ['a', 'b', 'c', 'a b', 'b c', 'a b c']


def counts_and_kinds(seed: int, documents: int = 200, size: int = 30):
  rng = np.random.default_rng(seed)
  y = rng.random(documents) < 0.3
  rates = np.where(y[:, None], rng.random(size), rng.random(size))
  return scipy.sparse.csr_array(rng.poisson(rates).astype(np.float32)), y


def mean_loss(parameters, x, y, l2):
  margins = np.where(y, 1, -1) * (x @ parameters[:-1] + parameters[-1])
  losses = np.log1p(np.exp(-margins))
  both = losses[y].mean() / 2 + losses[~y].mean() / 2
  return both + l2 / 2 * (parameters[:-1] ** 2).sum()


@pytest.mark.parametrize('l2', [1e-1, 1e-2])
def test_the_classifier_has_the_least_loss(l2):
  x, y = counts_and_kinds(0)
  got = logistic.fit(x, y, l2)
  # Another method, on the loss as it is written, with slopes by differences.
  other = scipy.optimize.minimize(
    mean_loss, np.zeros(x.shape[1] + 1), (x.toarray(), y, l2), 'BFGS', tol=1e-8
  )
  np.testing.assert_allclose([*got.weights, got.bias], other.x, atol=1e-4)
  buckets = np.array([3, 3, 7], np.int32)
  logit = 2 * other.x[3] + other.x[7] + other.x[-1]
  assert got.score(buckets) == pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-4)


def test_a_term_of_no_document_weighs_nothing():
  x, y = counts_and_kinds(1)
  wide = scipy.sparse.csr_array((x.data, x.indices * 2, x.indptr), (x.shape[0], 99))
  got, narrow = logistic.fit(wide, y, 0.1), logistic.fit(x, y, 0.1)
  np.testing.assert_array_equal(got.weights[0:60:2], narrow.weights)
  assert not got.weights[1::2].any()
  with pytest.raises(UserError, match='needs documents of both classes'):
    logistic.fit(x, np.ones(x.shape[0], bool), 0.1)


def test_the_area_is_how_often_a_true_one_is_above():
  rng = np.random.default_rng(0)
  scores, y = rng.integers(0, 9, 80), rng.random(80) < 0.4
  pairs = [(a > b) + (a == b) / 2 for a in scores[y] for b in scores[~y]]
  assert logistic.area(scores, y) == pytest.approx(np.mean(pairs))


def test_a_draw_is_numpys_pareto():
  draws = [
    quality.pareto(quality.uniform(5, 'keep', f'x#{i}'), 9) for i in range(20_000)
  ]
  numpys = np.random.default_rng(0).pareto(9, 20_000)
  # Kolmogorov & Smirnov: they differ at 1 in 1,000 above 1.95 * sqrt(2 / n).
  at = np.sort(np.concatenate([draws, numpys]))
  shares = [np.searchsorted(np.sort(each), at, 'right') for each in (draws, numpys)]
  assert np.abs(shares[0] - shares[1]).max() / 20_000 < 1.95 * np.sqrt(2 / 20_000)


class Fixed:
  """A classifier of one score."""

  def __init__(self, value: float):
    self.value = value

  def score(self, buckets: np.ndarray) -> float:
    return self.value


@pytest.mark.parametrize('score', [0.0, 0.25, 0.5, 0.75, 0.9, 1.0])
def test_a_score_is_kept_as_often_as_the_paper_says(score, monkeypatch):
  monkeypatch.setattr(quality, 'load', lambda weights: Fixed(score))
  number, expected = 20_000, (2 - score) ** -9
  kept = [
    quality._judge(Quality(('books',)), '', Document(f'f#{i}', 'raw', 'a', {}))
    for i in range(number)
  ]
  share = sum(isinstance(each, Document) for each in kept) / number
  error = np.sqrt(expected * (1 - expected) / number)
  assert abs(share - expected) <= 4 * error
  passed = [each for each in kept if isinstance(each, Document)]
  assert all(each.meta == {'quality': score} for each in passed)


def test_curated_sources_stay_whole_and_seeds_differ(monkeypatch):
  monkeypatch.setattr(quality, 'load', lambda weights: Fixed(0.5))
  book = Document('b#1', 'books', 'a', {})
  assert quality._judge(Quality(('books',)), '', book) == book
  documents = [Document(f'f#{i}', 'raw', 'a', {}) for i in range(2000)]
  kept = [
    {
      i
      for i, each in enumerate(documents)
      if quality._judge(Quality(('books',), seed=seed), '', each) != 'quality'
    }
    for seed in (0, 0, 1)
  ]
  assert kept[0] == kept[1] != kept[2]


def paragraphs() -> list[str]:
  texts = [d.text for d in sources.python_docs() if d.name.startswith('topics/')]
  return [each for text in texts for each in text.split('\n\n') if len(each) > 80]


english = texts.prose(paragraphs())  # of Python's help
shuffled_characters = texts.shuffled_characters(english)
shuffled_words = texts.shuffled_words(english)


def auc(raw, ngrams: int = 1, number: int = 60) -> float:
  """Returns the area of held-out documents, of which none is trained on.

  A raw document is not made of the paragraphs of a good one that stands beside it: then
  all weights would be 0.
  """
  train, test = (
    [
      features.counts(kind(2 * (first + i) + odd), ngrams)
      for kind, first in ((english, 0), (raw, number))
      for i in range(number)
    ]
    for odd in (0, 1)
  )
  y = np.repeat([True, False], number)
  got = logistic.fit(logistic.rows(train, features.BUCKETS), y, 1e-3)
  assert got.weights.any()
  x = logistic.rows(test, features.BUCKETS)
  return logistic.area(x @ got.weights, y)


@pytest.mark.parametrize(
  'raw', [texts.code_like, texts.boilerplate, shuffled_characters]
)
def test_the_classifier_tells_prose_from_what_is_none(raw):
  assert auc(raw) > 0.99


def test_a_bag_of_words_does_not_see_their_order():
  # Shuffled text has the same counts, so that its score is the same, and the area of
  # other documents is that of chance.
  for seed in range(20):
    same = features.counts(english(seed)), features.counts(shuffled_words(seed))
    assert all(np.array_equal(a, b) for a, b in zip(*same, strict=True))
  number = 60
  area = auc(shuffled_words, number=number)
  error = np.sqrt((2 * number + 1) / (12 * number**2))  # of the area, by chance
  assert abs(area - 0.5) < 2.6 * error
  assert auc(shuffled_words, ngrams=2, number=number) > 0.95


def corpus(folder: pathlib.Path, number: int = 40) -> list[str]:
  """Writes shards of good and raw documents, and returns their paths."""
  paths = [str(folder / f'{shard:05d}.jsonl.zst') for shard in range(4)]
  kinds = english, texts.code_like, english, texts.boilerplate
  for shard, path in enumerate(paths):
    documents = []
    for i in range(number):
      source = 'raw' if i % 4 else 'books'
      text = kinds[i % 4](99 * shard + i)
      documents.append(Document(f'{shard}#{i}', source, text, {}))
    write_shard(path, documents)
  return paths


def test_the_stage_keeps_what_is_like_the_curated(tmp_path):
  paths = corpus(tmp_path / 'in')
  settings = Quality(('books',))
  report = quality.run(
    engine.local(1, tmp_path / 's1'), paths, str(tmp_path / 'out'), settings, 'quality'
  )
  kept = [d for p in shards.list_shards(tmp_path / 'out') for d in read_shard(p)]
  assert sum(d.source == 'books' for d in kept) == 40
  raw = [d for d in kept if d.source == 'raw']
  assert report['documents'] == 160 and report['kept'] == len(kept)
  assert report['dropped'] == {'quality': 160 - len(kept)}
  assert report['trained']['curated'] + report['trained']['raw'] < 160
  prose = [d for d in raw if int(d.id.partition('#')[2]) % 4 == 2]
  assert len(raw) - len(prose) <= 3  # of 80, of a score near 0
  scores = {kind: [] for kind in range(1, 4)}
  classifier = quality.load(str(tmp_path / 's1/quality/weights.npz'))
  for path in paths:
    for i, document in enumerate(read_shard(path)):
      if i % 4:
        scores[i % 4].append(classifier.score(features.buckets(document.text)))
  # They are few, and so each is known as raw; yet less so than what is no prose.
  assert np.mean(scores[2]) > 5 * np.mean(scores[1] + scores[3])
  again = quality.run(
    engine.local(2, tmp_path / 's2'), paths, str(tmp_path / 'out2'), settings, 'quality'
  )
  assert again == report
  for path in sorted((tmp_path / 'out').iterdir()):
    assert path.read_bytes() == (tmp_path / 'out2' / path.name).read_bytes()


def test_sources_that_are_not_there_are_refused(tmp_path):
  paths = corpus(tmp_path / 'in', 4)
  run = engine.local(1, tmp_path / 'state')
  for curated, words in (
    (('book',), r'must name sources .* Did you mean books\?'),
    ((), 'must name sources'),
    (('books', 'raw'), 'names all sources'),
  ):
    with pytest.raises(UserError, match=words):
      quality.run(run, paths, str(tmp_path / 'out'), Quality(curated), 'quality')
  with pytest.raises(UserError, match='ngrams=0 of Quality must be >= 1'):
    Quality(('books',), ngrams=0)
