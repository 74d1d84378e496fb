"""GPT-3's filter of quality: Brown et al. 2020, appendix A.

A logistic regression tells curated sources (GPT-3: WebText, Wikipedia, books) from raw
ones (Common Crawl), by how often each word occurs. A raw document is kept if a number
drawn by numpy's `random.pareto(9)` is greater than 1 - score: mostly those with a high
score, and some of a low one, so that not all is like the curated. A document of score s
is kept with probability (2 - s)^-9. The curated sources stay whole.

Differs: the draw of a document follows from a hash of `seed` and its id, so that it is
the same in any process. The paper does not say how many documents the classifier is
trained on, how both kinds weigh, nor its penalty: `documents`, `logistic.fit` and `l2`
are ours.
"""

import dataclasses
import functools
import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse
import scipy.special

from gpt_jax.config import UserError, nearest
from gpt_jax.data.curation import features, logistic
from gpt_jax.data.curation.engine import Engine, alone
from gpt_jax.data.curation.shards import Document, joined, opened, read_shard, written
from gpt_jax.data.curation.stages import Verdict, each_document

_HELD_OUT = 10  # one document in so many tells how good the classifier is
_SAMPLED = 1 << 25  # characters of each kind that are trained on, about: memory
_DIGITS = 6  # of a score that is kept in a document's meta


@dataclasses.dataclass(frozen=True)
class Quality:
  """The filter.

  Attributes:
    curated: names of the sources that are examples of quality; they stay whole. All
      others are raw: examples of the contrary, and filtered.
    alpha: of the Pareto distribution.
    ngrams: words in a row that are terms too, up to so many. 1 is the paper's: a bag of
      words, blind to their order.
    documents: of each kind that the classifier is trained on, about; fewer where they
      are longer than 1,700 characters on average, for memory.
    l2: penalty of large weights.
    seed: of the draws, and of which documents are trained on.
  """

  curated: tuple[str, ...]
  alpha: float = 9.0
  ngrams: int = 1
  documents: int = 20_000
  l2: float = 1e-3
  seed: int = 0

  def __post_init__(self):
    for name, least in (('alpha', 0), ('ngrams', 1), ('documents', 1), ('l2', 0)):
      if not getattr(self, name) >= least:
        raise UserError(f'{name}={getattr(self, name)} of Quality must be >= {least}')


def run(
  engine: Engine, shards: Sequence[str], output: str, settings: Quality, name: str
) -> dict[str, Any]:
  """Writes the documents that the filter keeps, and returns a report.

  Args:
    output: folder of the new shards.
    name: of the work, as in `Engine.map`.

  Returns:
    As `stages.total`; trained: documents of each kind; auc: area under the ROC curve,
    of held-out documents; deciles: of the scores of held-out raw ones.

  Raises:
    UserError: a curated source is not there, or there is none that is raw.
  """
  found, characters = Counter(), Counter()
  for each in engine.map(joined(name, 'count'), _count, shards):
    for source, (number, size) in each.items():
      found[source] += number
      characters[source] += size
  _check_sources(settings, found)
  folder = joined(engine.state, name, 'sampled')
  rates = _rates(settings, found, characters)
  engine.map(
    joined(name, 'sample'), functools.partial(_sample, settings, rates, folder), shards
  )
  weights = joined(engine.state, name, 'weights.npz')
  engine.rest()  # the fit needs much memory, and the others none meanwhile
  # Where an engine runs must not decide how sums are rounded.
  fitting = alone(engine.state)
  (about,) = fitting.map(
    joined(name, 'fit'),
    functools.partial(_fit, settings, folder, weights),
    [tuple(map(_name, shards))],
  )
  fitting.rest()
  report = each_document(
    engine,
    shards,
    output,
    functools.partial(_judge, settings, weights),
    joined(name, 'score'),
  )
  return {**report, **about}


def _name(path: str) -> str:
  return path.rpartition('/')[2]


def _count(path: str) -> dict[str, tuple[int, int]]:
  """Returns how many documents and characters of each source a shard has."""
  found = {}
  for document in read_shard(path):
    number, size = found.get(document.source, (0, 0))
    found[document.source] = number + 1, size + len(document.text)
  return found


def _check_sources(settings: Quality, found: Counter[str]) -> None:
  """Raises a UserError unless there are curated and raw documents."""
  missing = [each for each in settings.curated if each not in found]
  if missing or not settings.curated:
    raise UserError(
      f'Quality.curated={settings.curated!r} must name sources that have documents, '
      f'of {sorted(found)}.{nearest(missing[0], found) if missing else ""}'
    )
  if not found.keys() - set(settings.curated):
    raise UserError(
      f'Quality.curated={settings.curated!r} names all sources; leave those out that '
      'are to be filtered'
    )


def _rates(
  settings: Quality, found: Counter[str], characters: Counter[str]
) -> tuple[float, float]:
  """Returns the shares of raw and of curated documents that are sampled."""
  rates = []
  for kind in (False, True):
    names = [name for name in found if (name in settings.curated) == kind]
    number, size = (sum(each[name] for name in names) for each in (found, characters))
    rates.append(min(1.0, settings.documents / number, _SAMPLED / max(size, 1)))
  return tuple(rates)


def uniform(seed: int, purpose: str, id: str) -> float:
  """Returns a number of [0, 1) that follows from a document, 53 bits of a hash."""
  key = json.dumps([seed, purpose, id]).encode()
  digest = hashlib.blake2b(key, digest_size=8).digest()
  return (int.from_bytes(digest, 'little') >> 11) / 2**53


def pareto(uniform: float, alpha: float) -> float:
  """Returns a draw of numpy's `random.pareto(alpha)` from a uniform number of [0, 1).

  It is Pareto's of the second kind (Lomax), P(draw > x) = (1 + x)^-alpha.
  """
  return (1 - uniform) ** (-1 / alpha) - 1


def _sample(
  settings: Quality, rates: tuple[float, float], folder: str, path: str
) -> int:
  """Keeps the counts of a shard's sampled documents, and returns how many."""
  counted, kinds = [], []
  for document in read_shard(path):
    draw = uniform(settings.seed, 'sample', document.id)
    curated = document.source in settings.curated
    if draw < rates[curated]:
      counted.append(features.counts(document.text, settings.ngrams))
      held_out = uniform(settings.seed, 'hold out', document.id) < 1 / _HELD_OUT
      kinds.append((curated, held_out))
  x = logistic.rows(counted, features.BUCKETS)
  with written(joined(folder, f'{_name(path)}.npz')) as stream:
    kinds = np.array(kinds, bool).reshape(-1, 2)
    np.savez(stream, data=x.data, indices=x.indices, indptr=x.indptr, kinds=kinds)
  return len(counted)


def _fit(
  settings: Quality, folder: str, weights: str, names: Sequence[str]
) -> dict[str, Any]:
  """Trains the classifier on what was sampled, and returns how good it is."""
  parts, kinds = {True: [], False: []}, []
  for name in names:
    with opened(joined(folder, f'{name}.npz')) as stream, np.load(stream) as arrays:
      kinds.append(arrays['kinds'])
      part = scipy.sparse.csr_array(
        (arrays['data'], arrays['indices'], arrays['indptr']),
        shape=(len(kinds[-1]), features.BUCKETS),
      )
    for is_held_out, some in parts.items():
      some.append(part[kinds[-1][:, 1] == is_held_out])
  curated, held_out = np.concatenate(kinds).T
  others = scipy.sparse.vstack(parts.pop(True), format='csr')
  # The fit has the only reference, so that no second copy stays in memory.
  classifier = logistic.fit(
    scipy.sparse.vstack(parts.pop(False), format='csr'),
    curated[~held_out],
    settings.l2,
  )
  with written(weights) as stream:
    np.savez(stream, weights=classifier.weights, bias=classifier.bias)
  scores = others @ classifier.weights + classifier.bias
  scores, y = scipy.special.expit(scores), curated[held_out]
  both = y.any() and not y.all()
  raw = scores[~y] if not y.all() else np.zeros(1)
  return {
    'trained': {
      'curated': int((curated & ~held_out).sum()),
      'raw': int((~curated & ~held_out).sum()),
    },
    'auc': round(logistic.area(scores, y), 4) if both else None,
    'deciles': np.quantile(raw, np.arange(1, 10) / 10).round(4).tolist(),
  }


@functools.lru_cache(1)
def load(weights: str) -> logistic.Classifier:
  """Returns the classifier that a run of the stage trained."""
  with opened(weights) as stream, np.load(stream) as arrays:
    return logistic.Classifier(arrays['weights'], float(arrays['bias']))


def _judge(settings: Quality, weights: str, document: Document) -> Verdict:
  """Returns a document with its score, or why it is dropped."""
  if document.source in settings.curated:
    return document
  score = load(weights).score(features.buckets(document.text, settings.ngrams))
  draw = pareto(uniform(settings.seed, 'keep', document.id), settings.alpha)
  if not draw > 1 - score:
    return 'quality'
  meta = {**document.meta, 'quality': round(score, _DIGITS)}
  return document._replace(meta=meta)
