"""Metrics of replies: the release's own numbers, other programs, and counts by hand."""

import itertools
import math
import random

import pytest

from gpt_jax.config import UserError
from gpt_jax.evaluation import dialogue_metrics

REPLIES = ['the cat sat on the mat', 'a dog', 'the mat the mat']
REFERENCES = [
  ['the cat sat on a mat', 'the the cat'],
  ['a dog ran', 'dogs run'],
  ['on the mat', 'the mat'],
]


def random_texts(n: int, seed: int, words: str = 'abcdefgh') -> list[str]:
  draw = random.Random(seed)
  return [' '.join(draw.choices(words, k=draw.randint(1, 9))) for _ in range(n)]


def test_human_replies_have_the_releases_numbers(shared_data):
  # facts that were computed from the release's file with its own definitions
  text = (shared_data / 'dialogue/human.ref.6k.txt').read_text(encoding='utf-8')
  values = dialogue_metrics.all_of(text.removesuffix('\n').split('\n'))
  assert list(values) == ['entropy4', 'dist1', 'dist2', 'length']
  assert round(values['dist1'], 5) == 0.14548
  assert round(values['dist2'], 5) == 0.62963
  assert round(values['entropy4'], 5) == 10.99510
  assert round(values['length'], 5) == 13.10017


def test_distinct_entropy_and_length_by_hand():
  texts = ['a b a', 'b', '']
  assert dialogue_metrics.distinct(texts, 1) == 2 / 4
  assert dialogue_metrics.distinct(texts, 2) == 2 / 2
  assert dialogue_metrics.distinct(texts, 4) == 0
  assert dialogue_metrics.entropy(texts, 1) == pytest.approx(math.log(2))
  assert dialogue_metrics.entropy(texts, 4) == 0
  assert dialogue_metrics.mean_length(texts) == 4 / 3


@pytest.mark.parametrize('order', [1, 2, 4])
def test_bleu_is_sacrebleus_without_its_tokens_and_smoothing(order):
  sacrebleu = pytest.importorskip('sacrebleu')
  replies = random_texts(40, 0)
  references = [random_texts(3, 100 + i) for i in range(40)]
  references[0] = [replies[0], 'a b']
  theirs = sacrebleu.BLEU(
    max_ngram_order=order, tokenize='none', smooth_method='none', force=True
  )
  columns = [
    [texts[i] if i < len(texts) else None for texts in references] for i in range(3)
  ]
  value = dialogue_metrics.bleu(replies, references, order)
  assert value == pytest.approx(theirs.corpus_score(replies, columns).score)
  assert value > 1


def test_bleu_takes_the_nearest_length_and_of_two_the_shorter():
  # 4 words; references of 3 and 5: as near, so 3, and nothing is taken off
  assert dialogue_metrics.bleu(['a b c d'], [['a b c d e', 'a b c']], 1) == 100
  assert dialogue_metrics.bleu(['a b'], [['a b c']], 1) == pytest.approx(
    100 * math.exp(1 - 3 / 2)
  )
  assert dialogue_metrics.bleu(['a b'], [['a c b']], 2) == 0  # no pair matches


@pytest.mark.parametrize('order', [1, 2, 4])
def test_nist_of_one_reference_is_nltks(order):
  nist_score = pytest.importorskip('nltk.translate.nist_score')
  replies, references = random_texts(40, 0, 'abcd'), random_texts(40, 1, 'abcd')
  theirs = nist_score.corpus_nist(
    [[text.split()] for text in references], [r.split() for r in replies], n=order
  )
  ours = dialogue_metrics.nist(replies, [[text] for text in references], order)
  assert ours == pytest.approx(theirs)
  assert ours > 0.5


def test_nist_of_several_references_by_hand():
  # All references: 'a b', 'a c', 'a a d': 7 words, a 4 times, b, c and d once.
  # Replies 'a a' and 'd': a matches twice (the third reference has two), d once.
  value = dialogue_metrics.nist(['a a', 'd'], [['a b', 'a a d'], ['a c', 'd a']], 1)
  words = 9
  information = {'a': math.log2(words / 5), 'd': math.log2(words / 2)}
  length = 3 / ((2 + 3) / 2 + 2)
  penalty = math.exp(math.log(0.5) / math.log(1.5) ** 2 * math.log(length) ** 2)
  wanted = penalty * (2 * information['a'] + information['d']) / 3
  assert value == pytest.approx(wanted)


def test_nist_halves_at_two_thirds_of_the_words():
  short = dialogue_metrics.nist(['a b'], [['a b c']], 1)
  assert short == pytest.approx(math.log2(3) / 2)


def test_meteor_by_hand():
  pytest.importorskip('nltk')
  meteor = dialogue_metrics.meteor
  # all 3 words in one chunk: 1 - 0.5 (1/3)^3
  assert meteor(['the cat sat'], [['the cat sat']]) == pytest.approx(1 - 0.5 / 27)
  # 'cats' by its stem: matches weigh 2.6 of 3 and 3
  mean = 2.6 / 3
  assert meteor(['The cats sat'], [['the cat sat']]) == pytest.approx(
    mean * (1 - 0.5 * (1 / 2.6) ** 3)
  )
  # two chunks; precision 2/2 and recall 2/3 meet at alpha 0.9
  mean = (2 / 3) / (0.9 + 0.1 * 2 / 3)
  assert meteor(['a c'], [['a b c']]) == pytest.approx(mean * (1 - 0.5))
  assert meteor(['x'], [['a b c', 'x']]) == pytest.approx(0.5)
  assert meteor(['x'], [['a b c']]) == 0


@pytest.mark.parametrize('seed', range(20))
def test_alignments_have_most_matches_and_then_fewest_chunks(seed):
  """By brute force over all pairings of equal words."""
  draw = random.Random(seed)
  words, wanted = (draw.choices('abc', k=draw.randint(1, 5)) for _ in range(2))

  def is_pairing(places):
    used = [(i, p) for i, p in enumerate(places) if p is not None]
    return len({p for _, p in used}) == len(used) and all(
      words[i] == wanted[p] for i, p in used
    )

  def value(places):
    before = (None, *places[:-1])
    starts = [
      p is not None and (last is None or p != last + 1)
      for p, last in zip(places, before, strict=True)
    ]
    return len(places) - places.count(None), -sum(starts)

  free = [None, *range(len(wanted))]
  pairings = filter(is_pairing, itertools.product(free, repeat=len(words)))
  best = max(map(value, pairings))
  weight, chunks, *lengths = dialogue_metrics._aligned(words, wanted, str)
  assert (weight, -chunks) == best
  assert lengths == [len(words), len(wanted)]


def test_all_columns_of_the_papers_table():
  pytest.importorskip('nltk')
  values = dialogue_metrics.all_of(REPLIES, REFERENCES)
  assert list(values) == (
    'nist2 nist4 bleu2 bleu4 meteor entropy4 dist1 dist2 length'.split()
  )
  assert values['length'] == 4


@pytest.mark.parametrize(
  'replies, references, message',
  [
    ([], [], 'one text at least'),
    ('a b', [['a']], 'must be a list'),
    (['a'], [['a'], ['b']], '1 replies and 2 lists of references'),
    (['a', 'b'], [['a'], []], 'references of reply 1'),
    (['a'], ['a'], 'references of reply 0'),
  ],
)
def test_what_is_no_list_is_refused(replies, references, message):
  for metric in (dialogue_metrics.bleu, dialogue_metrics.meteor):
    with pytest.raises(UserError, match=message):
      metric(replies, references)
  with pytest.raises(UserError, match=message):
    dialogue_metrics.nist(replies, references, 2)
