"""Kneser-Ney against a dictionary implementation, and xz against its definition."""

import collections
import itertools
import json
import lzma
import math
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from gpt_jax import config
from gpt_jax.config import UserError
from gpt_jax.evaluation import baselines
from gpt_jax.runs import evaluate

# float64 sums in another order: errors near 1e-15, far below this.
TOLERANCE = 1e-9


def text(tokens: int, kinds: int, seed: int) -> list[int]:
  """Returns ids in [0, kinds) with a skewed distribution and some memory."""
  rng = np.random.default_rng(seed)
  ids = [0]
  for skip in np.minimum(rng.geometric(0.4, tokens - 1), kinds):
    ids.append(int(ids[-1] * 2 + skip) % kinds)
  return ids


def dictionary_model(train: list[int], vocab: int, order: int):
  """Returns p(word, context), straight from the paper, with plain dictionaries."""
  raw = collections.Counter(tuple(train[i : i + order]) for i in range(len(train)))
  counts = {order: {g: c for g, c in raw.items() if len(g) == order}}
  for n in range(1, order):
    longer = {tuple(train[i : i + n + 1]) for i in range(len(train) - n)}
    counts[n] = collections.Counter(g[1:] for g in longer)
  discounts = {}
  for n, count in counts.items():
    n1, n2, n3, n4 = (sum(c == k for c in count.values()) for k in (1, 2, 3, 4))
    y = n1 / (n1 + 2 * n2) if n1 else None
    d1 = 1 - 2 * y * n2 / n1 if n1 else 0
    d2 = 2 - 3 * y * n3 / n2 if n1 and n2 else 0
    d3 = 3 - 4 * y * n4 / n3 if n1 and n3 else 0
    found = {1: d1, 2: d2, 3: d3}
    discounts[n] = {k: d if 0 < d < k else k / 2 for k, d in found.items()}

  def p(word: int, context: tuple[int, ...]) -> float:
    n = len(context) + 1
    after = {g: c for g, c in counts[n].items() if g[:-1] == context}
    below = p(word, context[1:]) if context else 1 / vocab
    if not after:
      return below
    discount = {g: discounts[n][min(c, 3)] for g, c in after.items()}
    g = (*context, word)
    kept = after[g] - discount[g] if g in after else 0
    return (kept + sum(discount.values()) * below) / sum(after.values())

  return p


@pytest.mark.parametrize('order', [1, 2, 3, 5])
@pytest.mark.parametrize('tokens, kinds', [(7, 3), (60, 4), (1500, 9)])
def test_probabilities_equal_a_dictionary_implementation(tokens, kinds, order):
  train, valid = text(tokens, kinds, seed=1), text(80, kinds + 1, seed=2)
  p = dictionary_model(train, kinds + 2, order)
  want = [p(w, tuple(valid[max(0, i - order + 1) : i])) for i, w in enumerate(valid)]
  got = baselines.probabilities(baselines.fit(train, kinds + 2, order), valid)
  np.testing.assert_allclose(got, want, rtol=TOLERANCE)


def test_ids_of_a_huge_vocabulary_stay_apart():
  step, vocab = 2**29 + 7, 2**32  # five such ids would need 160 bits side by side
  train, valid = text(300, 5, seed=3), text(60, 5, seed=4)
  p = dictionary_model(train, vocab, 5)
  want = [p(w, tuple(valid[max(0, i - 4) : i])) for i, w in enumerate(valid)]
  model = baselines.fit(np.array(train) * step, vocab)
  got = baselines.probabilities(model, np.array(valid) * step)
  np.testing.assert_allclose(got, want, rtol=TOLERANCE)


@pytest.mark.parametrize(
  'train',
  [
    text(400, 4, seed=5),  # token 4 never occurs
    [0, 1, 2, 3, 4],  # the last token is a context that nothing follows
    [2] * 50,
    [0, 1] * 20,
    [3],
  ],
  ids=['text', 'each once', 'repeated', 'alternating', 'one token'],
)
def test_the_vocabulary_sums_to_one_after_every_context(train):
  model = baselines.fit(train, vocab=5, order=4)
  for length in range(5):
    for context in itertools.product(range(5), repeat=length):
      p = baselines.distribution(model, context)
      assert p.min() > 0
      assert p.sum() == pytest.approx(1, abs=TOLERANCE)


def test_discounts_are_those_of_chen_and_goodman():
  count = np.repeat([1, 2, 3, 4, 9], [40, 16, 8, 5, 3])
  y = 40 / (40 + 2 * 16)
  want = [0, 1 - 2 * y * 16 / 40, 2 - 3 * y * 8 / 16, 3 - 4 * y * 5 / 8]
  np.testing.assert_allclose(baselines._discounts(count), want, rtol=TOLERANCE)


@pytest.mark.parametrize(
  'count', [[], [0], [1], [7, 7], [1, 2], [2, 3, 4], [1, 1, 2, 3, 3, 3], [1, 3, 4, 4]]
)
def test_discounts_of_degenerate_counts_stay_between_zero_and_the_count(count):
  zero, *discounts = baselines._discounts(np.array(count, np.int64))
  assert zero == 0
  assert all(0 < d < k for k, d in enumerate(discounts, start=1))


def test_a_repeated_token_is_expected_again():
  p = baselines.distribution(baselines.fit([2] * 1000, vocab=5), [2, 2, 2, 2])
  assert p[2] > 0.99


def test_a_context_never_seen_gives_what_its_shorter_end_gives():
  model = baselines.fit(text(500, 5, seed=6), vocab=6)
  np.testing.assert_array_equal(
    baselines.distribution(model, [5, 1, 2]), baselines.distribution(model, [1, 2])
  )


def test_the_nll_leaves_out_the_first_token_and_looks_back_order_minus_one():
  train, valid = text(500, 6, seed=7), text(40, 6, seed=8)
  model = baselines.fit(train, 6, order=3)
  want = 0
  for i in range(1, len(valid)):
    want -= math.log(baselines.distribution(model, valid[max(0, i - 2) : i])[valid[i]])
  got = baselines.kneser_ney_nll(np.array(train, np.uint16), valid, 6, order=3)
  assert got == pytest.approx(want, rel=TOLERANCE)
  assert baselines.kneser_ney_nll(train, valid[:1], 6) == 0


def test_rows_are_scored_as_if_alone():
  model = baselines.fit(text(500, 6, seed=9), 6)
  rows = np.array([text(20, 6, seed=s) for s in (10, 11)])
  alone = [baselines.probabilities(model, row) for row in rows]
  np.testing.assert_array_equal(baselines.probabilities(model, rows), alone)


@pytest.mark.parametrize(
  'train, valid, order, message',
  [
    ([], [1, 2], 5, 'train_ids is empty'),
    ([0, 9], [1, 2], 5, r'train_ids holds ids from 0 to 9.*vocab=9'),
    ([0, 1], [-1, 2], 5, 'valid_ids holds ids from -1 to 2'),
    ([0.5, 1.0], [1, 2], 5, 'train_ids has dtype float64'),
    ([0, 1], [1, 2], 0, 'order=0 must be at least 1'),
  ],
)
def test_wrong_input_is_named_with_its_rule(train, valid, order, message):
  with pytest.raises(UserError, match=message):
    baselines.kneser_ney_nll(train, valid, 9, order)


def test_xz_counts_the_bits_of_an_xz_file():
  data = bytes(np.random.default_rng(0).integers(97, 105, 5000, np.uint8))
  size = len(lzma.compress(data, preset=9))
  assert baselines.xz_bits_per_byte(data) == size * 8 / 5000


def test_xz_finds_held_out_text_in_the_training_text():
  rng = np.random.default_rng(1)
  data = bytes(rng.integers(0, 256, 5000, np.uint8))
  assert baselines.xz_bits_per_byte(data) > 8
  assert baselines.xz_bits_per_byte(data, train_bytes=data + b'more') < 0.2


def test_xz_refuses_an_empty_text():
  with pytest.raises(UserError, match='valid_bytes is empty'):
    baselines.xz_bits_per_byte(b'', b'training text')


def test_the_module_imports_without_jax():
  program = 'import sys, gpt_jax.evaluation.baselines; sys.exit("jax" in sys.modules)'
  root = pathlib.Path(__file__).parents[1]
  subprocess.run([sys.executable, '-c', program], cwd=root, check=True)


def test_the_baselines_of_a_workdir_are_bits_of_a_byte_of_its_held_out_text(tmp_path):
  words = 'né à côté de la forêt, où l’été dure'.split()
  draw = np.random.default_rng(0)
  train, valid = (' '.join(draw.choice(words, n)) for n in (900, 300))
  for name, content in (('train', train), ('valid', valid)):
    (tmp_path / f'{name}.txt').write_text(content, encoding='utf-8')
  run = config.Run()
  run.data = config.Data(
    source=str(tmp_path / 'train.txt'),
    valid=str(tmp_path / 'valid.txt'),
    tokenizer='chars',
  )
  (tmp_path / 'run.json').write_text(json.dumps({'config': config.flat(run)}))
  found = evaluate.baselines(tmp_path, report=lambda text: None)
  size = len(valid.encode())
  assert size > len(valid)
  known = {c: i for i, c in enumerate(sorted(set(train + valid)))}
  end = len(known)  # each text is a document behind an end-of-text
  ids = [[end, *(known[c] for c in each)] for each in (train, valid)]
  nll = baselines.kneser_ney_nll(*ids, end + 1)
  alone, after = (
    len(lzma.compress(t.encode(), preset=9)) * 8 for t in (valid, train + valid)
  )
  before = len(lzma.compress(train.encode(), preset=9)) * 8
  assert found == {
    '5-gram (Kneser-Ney, same tokens)': pytest.approx(nll / math.log(2) / size),
    'xz -9 (held-out text alone)': pytest.approx(alone / size),
    'xz -9 (after the training text)': pytest.approx((after - before) / size),
  }
  assert len(set(found.values())) == 3
