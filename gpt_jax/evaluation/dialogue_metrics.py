"""Metrics of replies in dialogues, as DialoGPT's tables have them; without jax.

Source: Zhang et al. 2020, section 4, and the release's dstc/metrics.py. A text is words
between spaces, in the case they have. `distinct`, `entropy` and `mean_length` need the
replies alone; `nist`, `bleu` and `meteor` references too, one or more of each reply.
"""

import collections
import functools
import importlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from gpt_jax.config import UserError

# Where a reply of two thirds of the references' words has half of NIST's score.
_NIST_BETA = math.log(0.5) / math.log(1.5) ** 2
# Lavie & Agarwal 2007, table 1 (English, adequacy).
_ALPHA, _BETA, _GAMMA = 0.9, 3.0, 0.5
_WEIGHTS = {'exact': 1.0, 'stem': 0.6}  # of a match: Denkowski & Lavie 2014, table 2
_BEAM = 40  # alignments kept; METEOR 1.5's own default

Words = tuple[str, ...]


def distinct(replies: Sequence[str], n: int) -> float:
  """Returns Dist-n, distinct over all n-grams of all replies (Li et al. 2016)."""
  counts = _counted(replies, n)
  return len(counts) / counts.total() if counts else 0.0


def entropy(replies: Sequence[str], n: int) -> float:
  """Returns Entropy-n, of the n-grams of all replies [nats] (Zhang et al. 2018)."""
  counts = _counted(replies, n)
  total = counts.total()
  return -sum(count / total * math.log(count / total) for count in counts.values())


def mean_length(replies: Sequence[str]) -> float:
  """Returns the mean number of words of a reply."""
  _checked(replies)
  return sum(len(reply.split()) for reply in replies) / len(replies)


def nist(
  replies: Sequence[str], references: Sequence[Sequence[str]], order: int
) -> float:
  """Returns NIST-n of all replies (Doddington 2002, equation 3), as mteval-v14c does.

  An n-gram counts by its information, log2(count of its first n - 1 words / its own
  count) in all references; matches are clipped at the most that one reference has.

  Args:
    references: [replies][references], one at least of each.
  """
  _paired(replies, references)
  counts: collections.Counter[Words] = collections.Counter()
  words = 0
  for text in (text for texts in references for text in texts):
    words += len(text.split())
    for n in range(1, order + 1):
      counts.update(_ngrams(text, n))

  def information(ngram: Words) -> float:
    before = counts[ngram[:-1]] if len(ngram) > 1 else words
    return math.log2(before / counts[ngram])

  score = 0.0
  for n in range(1, order + 1):
    matched, total = 0.0, 0
    for reply, texts in zip(replies, references, strict=True):
      own = collections.Counter(_ngrams(reply, n))
      most = _most(texts, n)
      total += own.total()
      matched += sum(
        min(count, most[ngram]) * information(ngram)
        for ngram, count in own.items()
        if most[ngram]
      )
    score += matched / total if total else 0.0
  written = sum(len(reply.split()) for reply in replies)
  wanted = sum(sum(len(text.split()) for text in r) / len(r) for r in references)
  if not written or not wanted:
    return 0.0
  return score * math.exp(_NIST_BETA * math.log(min(1.0, written / wanted)) ** 2)


def bleu(
  replies: Sequence[str], references: Sequence[Sequence[str]], order: int = 4
) -> float:
  """Returns BLEU-n of all replies from 0 to 100, as Moses' multi-bleu.perl counts it.

  Words as they are, no smoothing, and the length of the reference that is nearest, of
  two as near the shorter one.
  """
  _paired(replies, references)
  matched, total = [0] * order, [0] * order
  written = wanted = 0
  for reply, texts in zip(replies, references, strict=True):
    length = len(reply.split())
    written += length
    wanted += min((len(t.split()) for t in texts), key=lambda w: (abs(w - length), w))
    for n in range(1, order + 1):
      own, most = collections.Counter(_ngrams(reply, n)), _most(texts, n)
      total[n - 1] += own.total()
      matched[n - 1] += sum((own & most).values())
  if not all(matched):
    return 0.0
  logs = (math.log(m / t) for m, t in zip(matched, total, strict=True))
  brevity = min(0.0, 1 - wanted / written)
  return 100 * math.exp(brevity + sum(logs) / order)


def sacre_bleu(
  replies: Sequence[str], references: Sequence[Sequence[str]], order: int = 4
) -> float:
  """Returns sacrebleu's BLEU-n of all replies from 0 to 100.

  With its default tokens (13a) and smoothing (exp). A reply may have any number of
  references.

  Raises:
    UserError: sacrebleu is not installed.
  """
  _paired(replies, references)
  try:
    sacrebleu = importlib.import_module('sacrebleu')
  except ImportError as e:
    raise UserError('sacreBLEU needs sacrebleu: `pip install sacrebleu`') from e
  columns = [
    [texts[i] if i < len(texts) else None for texts in references]
    for i in range(max(map(len, references)))
  ]
  measure = sacrebleu.BLEU(max_ngram_order=order, force=True)
  return float(measure.corpus_score(list(replies), columns).score)


def meteor(replies: Sequence[str], references: Sequence[Sequence[str]]) -> float:
  """Returns METEOR of all replies from 0 to 1, by equal words and by equal stems.

  Of the references of a reply the best one counts, and all replies together (as METEOR
  1.5 does): their matches, words and chunks are added up. In lower case. Differs:
  METEOR 1.5 (Denkowski & Lavie 2014) also matches synonyms and paraphrases, and weighs
  function words apart; the parameters are those of Lavie & Agarwal 2007.

  Raises:
    UserError: nltk, whose Porter stemmer it takes, is not installed.
  """
  _paired(replies, references)
  stem = _stemmer()
  totals = [0.0] * 4
  for reply, texts in zip(replies, references, strict=True):
    each = (
      _aligned(reply.lower().split(), text.lower().split(), stem) for text in texts
    )
    best = max(each, key=lambda counts: _meteor(*counts))
    totals = [a + b for a, b in zip(totals, best, strict=True)]
  return _meteor(*totals)


def _meteor(matches: float, chunks: float, written: float, wanted: float) -> float:
  """Returns METEOR from the weight of matches, chunks and numbers of words."""
  if not matches:
    return 0.0
  precision, recall = matches / written, matches / wanted
  mean = precision * recall / (_ALPHA * precision + (1 - _ALPHA) * recall)
  return mean * (1 - _GAMMA * (chunks / matches) ** _BETA)


def _aligned(
  words: list[str], wanted: list[str], stem: Callable[[str], str]
) -> tuple[float, float, float, float]:
  """Returns the matches' weight and chunks, and both lengths.

  Of all ways to pair words, each once, one with the most weight, and of these one with
  the fewest runs of neighbours; by a beam from left to right.
  """
  stems = [stem(word) for word in wanted]
  # What follows of a path: taken places, weight, chunks, and the place matched last.
  paths = {(frozenset[int](), -2): (0.0, 0)}
  for word in words:
    kinds = [
      (place, 'exact' if word == other else 'stem')
      for place, (other, root) in enumerate(zip(wanted, stems, strict=True))
      if word == other or stem(word) == root
    ]
    longer: dict[tuple[frozenset[int], int], tuple[float, int]] = {}

    def keep(key, value, longer=longer):
      if key not in longer or _better(value) > _better(longer[key]):
        longer[key] = value

    for (taken, last), (weight, chunks) in paths.items():
      keep((taken, -2), (weight, chunks))
      for place, kind in kinds:
        if place not in taken:
          begins = place != last + 1
          value = weight + _WEIGHTS[kind], chunks + begins
          keep((taken | {place}, place), value)
    ranked = sorted(longer.items(), key=lambda item: _better(item[1]), reverse=True)
    paths = dict(ranked[:_BEAM])
  weight, chunks = max(paths.values(), key=_better)
  return weight, float(chunks), float(len(words)), float(len(wanted))


def _better(value: tuple[float, int]) -> tuple[float, int]:
  weight, chunks = value
  return round(weight, 6), -chunks


def _stemmer() -> Callable[[str], str]:
  try:
    stem = importlib.import_module('nltk.stem.porter').PorterStemmer().stem
  except ImportError as e:
    raise UserError('METEOR needs nltk: `pip install nltk`') from e
  return functools.lru_cache(1 << 16)(stem)


def all_of(
  replies: Sequence[str], references: Sequence[Sequence[str]] | None = None
) -> dict[str, float]:
  """Returns the columns of DialoGPT's tables by name, shares and scores as they are."""
  values = {}
  if references is not None:
    values |= {f'nist{n}': nist(replies, references, n) for n in (2, 4)}
    values |= {f'bleu{n}': bleu(replies, references, n) for n in (2, 4)}
    values['meteor'] = meteor(replies, references)
  values['entropy4'] = entropy(replies, 4)
  values |= {f'dist{n}': distinct(replies, n) for n in (1, 2)}
  return {**values, 'length': mean_length(replies)}


def _ngrams(text: str, n: int) -> Iterator[Words]:
  words = text.split()
  return (tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def _counted(replies: Sequence[str], n: int) -> collections.Counter[Words]:
  _checked(replies)
  return collections.Counter(ngram for reply in replies for ngram in _ngrams(reply, n))


def _most(texts: Sequence[str], n: int) -> collections.Counter[Words]:
  """Returns of each n-gram how often the reference that has it most has it."""
  most: collections.Counter[Words] = collections.Counter()
  for text in texts:
    most |= collections.Counter(_ngrams(text, n))
  return most


def _checked(replies: Any) -> None:
  if isinstance(replies, str) or not len(replies):
    raise UserError(f'replies {replies!r} must be a list with one text at least')


def _paired(replies: Sequence[str], references: Sequence[Sequence[str]]) -> None:
  _checked(replies)
  if len(replies) != len(references):
    raise UserError(
      f'{len(replies)} replies and {len(references)} lists of references: there must '
      'be as many'
    )
  for i, texts in enumerate(references):
    if isinstance(texts, str) or not len(texts):
      raise UserError(
        f'references of reply {i} are {texts!r}; they must be a list with one text at '
        'least'
      )
