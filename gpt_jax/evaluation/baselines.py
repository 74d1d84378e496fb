"""Baselines for held-out text: a Kneser-Ney n-gram model over tokens, and `xz -9`.

The n-gram model is the interpolated, modified Kneser-Ney of Chen & Goodman (1999, "An
empirical study of smoothing techniques for language modeling", section 3). With h the
n-1 tokens before w, and h' the same without its oldest token,

  p_n(w | h) = (c(hw) - D_n(c(hw))) / sum_v c(hv)  +  backoff(h) * p_{n-1}(w | h')

c counts occurrences at the highest order and, below it, the distinct tokens seen just
before hw. backoff(h) is what the discounts D_n took from h, and 1 if h was never
followed by anything. Below single tokens there is the uniform 1 / vocab.

An n-gram's key is (rank of its first n-1 tokens among all (n-1)-grams) * vocab + its
last token. Nothing is hashed: ranks stay below the number of training tokens, so keys
are exact in int64 while tokens * vocab < 2**63, whatever the order.
"""

import dataclasses
import lzma
from collections.abc import Sequence

import numpy as np

from gpt_jax.config import UserError


@dataclasses.dataclass(frozen=True)
class Level:
  """The n-grams of one length n.

  Attributes:
    keys: int64 [n-grams], sorted and unique; a key's index is the n-gram's rank.
    share: float64 [n-grams], (c(hw) - D(c(hw))) / sum_v c(hv).
    backoff: float64 [(n-1)-grams], the probability left to the level below, by the
      rank of the context h. The only context of single tokens is the empty one.
  """

  keys: np.ndarray
  share: np.ndarray
  backoff: np.ndarray


@dataclasses.dataclass(frozen=True)
class KneserNey:
  """A fitted model: levels[n - 1] holds the n-grams."""

  vocab: int
  levels: tuple[Level, ...]


def fit(train_ids: Sequence[int] | np.ndarray, vocab: int, order: int = 5) -> KneserNey:
  """Returns the Kneser-Ney model of one stream of tokens.

  Args:
    train_ids: [tokens], each in [0, vocab).
    vocab: number of tokens that there could be, seen or not.
    order: longest n-gram, at least 1; shorter when there are fewer tokens than that.

  Raises:
    UserError: no tokens, an id outside the vocabulary, or order < 1.
  """
  ids = _checked(train_ids, vocab, 'train_ids')
  if order < 1:
    raise UserError(f'order={order} must be at least 1 (1 = single tokens); use 5')
  if not ids.size:
    raise UserError('train_ids is empty; a model needs at least one training token')
  levels = []
  below = None  # (keys, number of contexts) of the level that waits for its counts
  first = np.zeros(ids.size, np.int64)  # rank of the (n-1)-gram that starts here
  for n in range(1, min(order, ids.size) + 1):
    last = ids[n - 1 :]
    keys, rank, count = np.unique(
      first[: last.size] * vocab + last, return_inverse=True, return_counts=True
    )
    contexts = 1
    if below is not None:
      suffix = np.empty(keys.size, np.int64)  # rank of each n-gram's last n-1 tokens
      suffix[rank] = first[1:]
      contexts = below[0].size
      befores = np.bincount(suffix, minlength=contexts)
      levels.append(_level(*below, befores, vocab))
    below, first = (keys, contexts), rank
  levels.append(_level(*below, count, vocab))
  return KneserNey(vocab, tuple(levels))


def probabilities(model: KneserNey, ids: Sequence[int] | np.ndarray) -> np.ndarray:
  """Returns p(ids[..., i] | the up to order - 1 tokens before it in its row).

  Args:
    ids: [..., tokens]; rows are independent of each other.

  Returns:
    float64 [..., tokens], all above 0: no discount takes nothing, and the uniform
    level shares what was taken.
  """
  ids = _checked(ids, model.vocab, 'ids')
  p = np.full(ids.shape, 1 / model.vocab)
  context = np.zeros(ids.shape, np.int64)  # rank of the tokens before, -1: not seen
  for level in model.levels:
    known = context >= 0
    key = np.where(known, context * model.vocab + ids, -1)
    rank = np.searchsorted(level.keys, key).clip(max=level.keys.size - 1)
    seen = level.keys[rank] == key
    p *= np.where(known, level.backoff[context], 1)
    p += np.where(seen, level.share[rank], 0)
    context = np.full(ids.shape, -1)
    context[..., 1:] = np.where(seen, rank, -1)[..., :-1]
  return p


def distribution(model: KneserNey, context: Sequence[int] | np.ndarray) -> np.ndarray:
  """Returns p(w | context) for every w of the vocabulary, float64 [vocab]; sums to 1.

  Args:
    context: [tokens], of any length; the last order - 1 of them count.
  """
  context = np.asarray(context, np.int64)[-len(model.levels) :]  # more is unused
  rows = np.tile(np.append(context, 0), (model.vocab, 1))
  rows[:, -1] = np.arange(model.vocab)
  return probabilities(model, rows)[:, -1]


def kneser_ney_nll(
  train_ids: Sequence[int] | np.ndarray,
  valid_ids: Sequence[int] | np.ndarray,
  vocab: int,
  order: int = 5,
) -> float:
  """Returns the sum of -log p [nats] over valid_ids[1:] under `fit(train_ids)`.

  Each token is predicted from the up to order - 1 tokens before it in valid_ids; the
  first is only context, as it is for a GPT.
  """
  valid_ids = _checked(valid_ids, vocab, 'valid_ids')  # before the long fit
  p = probabilities(fit(train_ids, vocab, order), valid_ids)
  return float(-np.log(p[1:]).sum())


def xz_bits_per_byte(valid_bytes: bytes, train_bytes: bytes = b'') -> float:
  """Returns the bits per byte of valid_bytes under `xz -9`.

  With train_bytes: what valid_bytes add to the compressed training text. xz -9 looks
  back 64 MiB, so only that much of the end of train_bytes can help. It compresses
  the training text twice: minutes, for 60 MB.
  """
  if not valid_bytes:
    raise UserError('valid_bytes is empty; give the held-out text, at least one byte')
  size = _xz_size(train_bytes + valid_bytes)
  if train_bytes:
    size -= _xz_size(train_bytes)
  return size * 8 / len(valid_bytes)


def _level(keys: np.ndarray, contexts: int, count: np.ndarray, vocab: int) -> Level:
  """Returns the level of n-grams with these keys and counts."""
  context = keys // vocab
  # A count is 0 only for the n-gram that opens the training text and never returns.
  discount = _discounts(count)[np.minimum(count, 3)]
  total = np.bincount(context, weights=count, minlength=contexts)
  taken = np.bincount(context, weights=discount, minlength=contexts)
  used = np.maximum(total, 1)
  share = (count - discount) / used[context]
  return Level(keys, share, np.where(total > 0, taken / used, 1))


def _discounts(count: np.ndarray) -> np.ndarray:
  """Returns [0, D1, D2, D3+] from counts of counts (Chen & Goodman 1999, section 3).

  Differs: where a D_k is undefined or outside (0, k), as in tiny texts, it is k / 2, so
  that every seen context leaves something to the unseen and keeps something itself.
  """
  n = np.bincount(np.minimum(count, 5), minlength=6).tolist()
  discounts = [0.0]
  for k in (1, 2, 3):
    d = k - (k + 1) * n[1] / (n[1] + 2 * n[2]) * n[k + 1] / n[k] if n[1] * n[k] else 0
    discounts.append(d if 0 < d < k else k / 2)
  return np.array(discounts)


def _checked(ids: Sequence[int] | np.ndarray, vocab: int, name: str) -> np.ndarray:
  """Returns ids as int64; raises UserError unless all are integers in [0, vocab)."""
  ids = np.asarray(ids)
  if ids.size and ids.dtype.kind not in 'iu':
    raise UserError(f'{name} has dtype {ids.dtype} but must hold integers; encode it')
  if ids.size and not 0 <= ids.min() <= ids.max() < vocab:
    raise UserError(
      f'{name} holds ids from {ids.min()} to {ids.max()}, but each must be in '
      f'[0, vocab={vocab}); give the vocab of the tokenizer that wrote them'
    )
  return ids.astype(np.int64)


def _xz_size(data: bytes) -> int:
  """Returns the bytes of an .xz file of data at preset 9."""
  return len(lzma.compress(data, format=lzma.FORMAT_XZ, preset=9))
