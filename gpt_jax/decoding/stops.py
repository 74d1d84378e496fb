"""Stops of beam search: an automaton that reads the bytes of tokens.

A token may hold a stop, or the end of one that earlier tokens began. States are what of
the stops stands at the end of a text so far (Aho & Corasick 1975), and how the next
token is spelled. Texts are told apart by hashes, so that a text comes once, whatever
tokens it is made of and whatever ended it.

Letters: E contexts of spelling, D nodes (what of a stop has been read), Q = E D states,
R searches, K beams, C candidates. A map of hashes is [.., 2, 2]: factors and summands
of two hashes, modulo 2^32.
"""

import codecs
import functools
from collections.abc import Sequence

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from gpt_jax.decoding.rows import bucket
from gpt_jax.tokenizers.spelling import Spelling

MOST = 500  # bytes of all stops: their table has as many rows of V
_BASES = np.array([0x9E3779B1, 0x85EBCA77], np.uint32)  # odd, so they have inverses
_CODES = np.random.RandomState(0).randint(2**32, size=(256, 2), dtype=np.uint32)
_NOWHERE = np.int16(2**15 - 1)
_SAME = np.array([[1, 1], [0, 0]], np.uint32)


@flax.struct.dataclass
class Stops:
  """Which tokens complete a stop, and the hash of the text before it.

  Attributes:
    to_QV: int16, the state after a token; below 0 it completes a stop, and the text
      ends in that token (-1) or that many bytes less one before it.
    whole_EV: of each token the map of hashes for all that it writes.
    inside_EV: likewise for what it writes before a stop that is whole in it.
    back_DN: the maps that take 0 .. N - 1 bytes of a node off.
  """

  to_QV: jax.Array
  whole_EV: jax.Array
  inside_EV: jax.Array
  back_DN: jax.Array

  def completes(self, at_RK: jax.Array) -> jax.Array:
    """Returns whether each token would complete a stop, bool [R, K, V]."""
    return self.to_QV[at_RK] < 0

  def after(
    self, at_RC: jax.Array, text_RC2: jax.Array, token_RC: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """Returns states and hashes of texts after a token, cut before a stop in it."""
    D = len(self.back_DN)
    to_RC = self.to_QV[at_RC, token_RC].astype(jnp.int32)
    whole_RC = self.whole_EV[at_RC // D, token_RC]
    inside_RC = self.inside_EV[at_RC // D, token_RC]
    back_RC = self.back_DN[at_RC % D, jnp.maximum(-1 - to_RC, 0)]
    to_RC11 = to_RC[..., None, None]
    by_RC = jnp.where(to_RC11 == -1, inside_RC, back_RC)
    by_RC = jnp.where(to_RC11 >= 0, whole_RC, by_RC)
    text_RC2 = text_RC2 * by_RC[..., 0, :] + by_RC[..., 1, :]
    return jnp.maximum(to_RC, 0), text_RC2


def distinct(score_RC: jax.Array, text_RC2: jax.Array) -> jax.Array:
  """Returns the scores, -inf for a text that stands there better, or as good before."""
  c = jnp.arange(score_RC.shape[1])
  score_RC1, score_R1C = score_RC[:, :, None], score_RC[:, None]
  same_RCC = (text_RC2[:, :, None] == text_RC2[:, None]).all(axis=-1)
  better_RCC = (score_R1C > score_RC1) | ((score_R1C == score_RC1) & (c < c[:, None]))
  better_RCC &= jnp.isfinite(score_R1C)
  return jnp.where((same_RCC & better_RCC).any(axis=-1), -jnp.inf, score_RC)


def _nodes(stops: Sequence[str]) -> list[bytes]:
  """Returns the beginnings of stops, shorter ones first; the first is empty."""
  whole = [stop.encode(errors='surrogatepass') for stop in stops]
  return sorted({stop[:n] for stop in whole for n in range(len(stop) + 1)}, key=len)


def start(stops: Sequence[str], spelling: Spelling, tail: Sequence[int]) -> int:
  """Returns the state after a prompt.

  What is looked for is in the continuation. But a character that the prompt began is
  the continuation's.

  Args:
    tail: the last ids of the prompt: some, if there are any.
  """
  decoder = codecs.getincrementaldecoder('utf-8')('replace')
  decoder.decode(spelling.spelled(tail))
  begun, nodes = decoder.getstate()[0], _nodes(stops)
  node = next(begun[n:] for n in range(len(begun) + 1) if begun[n:] in nodes)
  return spelling.context(tail) * bucket(len(nodes)) + nodes.index(node)


def _read(nodes: list[bytes], stops: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
  """Returns the node after each node and byte, and the length of a stop at its end.

  Of several stops that end there the longest counts; 0: none does.
  """
  number = {node: i for i, node in enumerate(nodes)}
  ending = {stop.encode(errors='surrogatepass') for stop in stops}
  after_DB = np.zeros((len(nodes), 256), np.int16)
  length_D, falls = np.zeros(len(nodes), int), [0] * len(nodes)
  for here, node in enumerate(nodes):  # what it falls back to is shorter, and done
    back = falls[here]
    length_D[here] = len(node) if node in ending else length_D[back]
    after_DB[here] = after_DB[back]
    for byte in range(256):
      if (to := number.get(node + bytes([byte]))) is not None:
        falls[to] = int(after_DB[here, byte]) if node else 0
        after_DB[here, byte] = to
  return after_DB, length_D


def _columns(texts: Sequence[bytes]) -> tuple[np.ndarray, list[np.ndarray]]:
  """Returns numbers of texts, longest first, and the bytes at each place in them.

  The bytes at a place are those of the first texts in that order, which are so long.
  """
  order = np.array(sorted(range(len(texts)), key=lambda i: -len(texts[i])))
  lengths = np.array([len(texts[i]) for i in order])
  flat = np.frombuffer(b''.join(texts[i] for i in order), np.uint8)
  starts = np.cumsum(lengths) - lengths
  longest = int(lengths.max(initial=0))
  return order, [flat[starts[: (lengths > j).sum()] + j] for j in range(longest)]


def _tokens(
  texts: Sequence[bytes], after_DB: np.ndarray, length_D: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns to_DV, and maps of hashes of whole texts and of what is before a stop."""
  D, V = len(after_DB), len(texts)
  order, columns = _columns(texts)
  at_DV = np.repeat(np.arange(D, dtype=np.int16)[:, None], V, axis=1)
  begins_DV = np.full((D, V), _NOWHERE)  # a stop, counted from the token's first byte
  whole_V = np.repeat(_SAME[None], V, axis=0)
  inside_V = whole_V.copy()
  for j, byte in enumerate(columns):
    n = len(byte)
    free = begins_DV[:, :n] == _NOWHERE
    to = after_DB[at_DV[:, :n], byte]
    at_DV[:, :n] = np.where(free, to, at_DV[:, :n])
    found = free & (length_D[to] > 0)
    begins_DV[:, :n][found] = j + 1 - length_D[to][found]
    whole_V[:n, 0] *= _BASES
    whole_V[:n, 1] = whole_V[:n, 1] * _BASES + _CODES[byte]
  for j, byte in enumerate(columns):  # now that it is known where stops begin
    n = len(byte)
    before = (begins_DV[0, :n] > j)[:, None]
    grown = inside_V[:n, 1] * _BASES + _CODES[byte]
    inside_V[:n, 0] = np.where(before, inside_V[:n, 0] * _BASES, inside_V[:n, 0])
    inside_V[:n, 1] = np.where(before, grown, inside_V[:n, 1])
  to_DV = np.where(begins_DV == _NOWHERE, at_DV, np.minimum(begins_DV, 0) - 1)
  back = np.argsort(order)
  return to_DV[:, back], whole_V[back], inside_V[back]


def _taken_off(nodes: list[bytes]) -> np.ndarray:
  """Returns the maps of hashes that take the last 0, 1, .. bytes of each node off."""
  inverses = [pow(int(base), -1, 2**32) for base in _BASES]
  inverse = np.array(inverses, np.uint32)
  D, N = bucket(len(nodes)), bucket(max(map(len, nodes)) + 1)
  back_DN = np.tile(_SAME, (D, N, 1, 1))
  for d, node in enumerate(nodes):
    for n, byte in enumerate(reversed(node), 1):
      # h -> (h - code) / base, after what was taken off before.
      back_DN[d, n, 0] = back_DN[d, n - 1, 0] * inverse
      back_DN[d, n, 1] = (back_DN[d, n - 1, 1] - _CODES[byte]) * inverse
  return back_DN


@functools.lru_cache(2)
def automaton(
  stops: tuple[str, ...], spelling: Spelling, V: int, ends: tuple[int, ...]
) -> Stops:
  """Returns the automaton of stops; it takes 0.1 s, so the last two are kept.

  Args:
    stops: of MOST bytes in all, at most.
    ends: tokens that end a text, and write nothing there.
  """
  nodes = _nodes(stops)
  after_DB, length_D = _read(nodes, stops)
  D = bucket(len(nodes))
  to_QV, wholes, insides = [], [], []
  for context, texts in enumerate(spelling.bytes):
    texts = [b'' if i in ends else text for i, text in enumerate(texts)]
    texts += [b''] * (V - len(texts))  # of what the model knows, and not its tokenizer
    to_DV, whole_V, inside_V = _tokens(texts, after_DB, length_D)
    then_V = np.full(V, context)
    then_V[: len(spelling.then_CV[context])] = spelling.then_CV[context]
    to_DV = np.where(to_DV < 0, to_DV, to_DV + then_V * D)
    to_QV.append(np.pad(to_DV, ((0, D - len(nodes)), (0, 0))))
    wholes.append(whole_V)
    insides.append(inside_V)
  return Stops(
    jnp.asarray(np.concatenate(to_QV), jnp.int16),
    jnp.asarray(np.stack(wholes)),
    jnp.asarray(np.stack(insides)),
    jnp.asarray(_taken_off(nodes)),
  )
