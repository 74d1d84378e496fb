"""SentencePiece: models given as files, and models trained to lose nothing."""

import functools
import heapq
import io
import math
import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from random import Random

import numpy as np
import sentencepiece

from gpt_jax.config import UserError
from gpt_jax.files import brief
from gpt_jax.tokenizers.facts import Facts
from gpt_jax.tokenizers.protocol import EOT, write_kind
from gpt_jax.tokenizers.texts import (
  LONG,
  encodable,
  even_sample,
  is_repetitive,
  with_short_words,
)

# SentencePiece's trainer keeps positions within a sentence in 16 bits, hence short
# chunks; and its BPE takes about 60 bytes of memory for each character.
_CHUNK = 8192
_SAMPLE = 6 << 20
_LONG_WORDS = re.compile(f'[^ ]{{{LONG + 1},}}| {{{LONG + 1},}}')
_RUN = 2048  # characters that BPE encodes at once, about


class SentencePiece:
  """A SentencePiece model.

  Models trained here lose nothing: decode(encode(text)) == text.

  Attributes:
    added: ids of control pieces by their names; no text gives them.
  """

  facts: Facts | None = None

  def __init__(
    self,
    model: bytes,
    kind: str = 'sentencepiece',
    name: str = 'model',
    eot: int | None = None,
  ):
    """Opens the bytes of a .model file.

    Args:
      kind: 'bpe' and 'unigram' are trained here; 'sentencepiece' is anything else.
      name: of the file, for errors.
      eot: the piece that ends a text; None: the first of <|endoftext|>, </s> and <s>
        that is a control piece.

    Raises:
      UserError: `model` is not one, or has no token that can end a text.
    """
    self.kind = kind
    self._model = model
    if not model:  # which the library takes, and complains about later
      raise UserError(f'{name}: not a SentencePiece model (it is empty)')
    try:
      self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
      self.vocab = self._processor.vocab_size()
      names = [self._processor.id_to_piece(i) for i in range(self.vocab)]
    except (RuntimeError, ValueError) as e:  # pieces that are not UTF-8 too
      raise UserError(f'{name}: not a SentencePiece model ({brief(e)})') from e
    if not self.vocab:
      raise UserError(f'{name}: not a SentencePiece model (it has no pieces)')
    p = self._processor
    self.added = {n: i for i, n in enumerate(names) if p.is_control(i)}
    named = p.piece_to_id(EOT)
    ends = [i for i in (named, p.eos_id(), p.bos_id()) if i >= 0 and p.is_control(i)]
    if eot is not None and not 0 <= eot < self.vocab:
      raise UserError(
        f'{name}: the id {eot} of end-of-text must be in 0 .. {self.vocab - 1}; '
        'correct it'
      )
    self._given = eot is not None
    ends = [eot] if self._given else ends
    if not ends:
      raise UserError(
        f'{name}: has no {EOT}, </s> or <s> among its control pieces, one of which '
        'must stand between documents; train it with one'
      )
    self.eot = ends[0]
    ids = range(self.vocab)
    self.unknown = frozenset(i for i in ids if p.is_byte(i) or p.is_unknown(i))
    self._byte = [p.piece_to_id(f'<0x{byte:02X}>') for byte in range(256)]
    special = {i for i in ids if p.is_control(i)} | self.unknown
    pieces = [piece.replace('\u2581', ' ') for piece in names]
    normal = {pieces[i]: i for i in ids if i not in special}
    self._normal = {piece: (i, p.get_score(i)) for piece, i in normal.items()}
    # Pairs of characters within a piece: any other pair is a place to cut a text.
    self._within = {piece[i : i + 2] for piece in normal for i in range(len(piece) - 1)}
    self._ways = functools.lru_cache(1 << 16)(self._list_ways)

  def encode(self, text: str) -> list[int]:
    text = encodable(text)
    if '\u2581' not in text or self.kind == 'sentencepiece':
      return self._encode(text)
    # The model writes a space as U+2581, so a U+2581 of the text goes in as bytes.
    mark, ids = self._bytes('\u2581'), []
    for run in text.split('\u2581'):
      ids += self._encode(run) + mark
    return ids[: -len(mark)]

  def _bytes(self, text: str) -> list[int]:
    return [self._byte[byte] for byte in text.encode()]

  def _encode(self, text: str) -> list[int]:
    if self.kind != 'bpe' or len(text) <= _RUN:
      return self._processor.encode(text)
    # The encoder keeps a queue of all pairs of its text. Short runs leave it in the
    # processor's cache: over twice the speed.
    ids = []
    for run in self._runs(text, _RUN):
      ids += self._processor.encode(run)
    return ids

  def _runs(self, text: str, size: int) -> Iterator[str]:
    """Yields a text in runs of `size` characters or more that no piece crosses.

    So their ids are the ids of the whole, but for ties of unigram: in a model trained
    here, that is, where normalisation does nothing, and of a text without U+2581.
    """
    start, end, within = 0, size, self._within
    while end < len(text):
      while text[end - 1 : end + 1] in within:
        end += 1
      yield text[start:end]
      start, end = end, end + size
    if start < len(text):
      yield text[start:]

  def encode_array(self, text: str) -> np.ndarray:
    # `array` takes a list in a third of the time that numpy needs.
    return np.frombuffer(array('I', self.encode(text)), np.uint32)

  def sample(self, text: str, alpha: float, seed: int) -> list[int]:
    """Returns the ids of one of the ways to cut a text, for regularisation.

    Only for models trained here. BPE drops each merge with probability `alpha`
    (Provilkov et al. 2020). Unigram draws among the 64 best ways to cut each run of
    text that no piece crosses, in proportion to probability ** alpha (Kudo 2018).

    Differs: SentencePiece can do both, but its generator can't be seeded so that
    another process draws the same, and here a seed means the same everywhere. It costs
    speed: BPE about 0.2 MB/s.
    """
    random, ids = Random(seed), []
    for run in self._runs(encodable(text), _RUN if self.kind == 'bpe' else 1):
      if self.kind == 'bpe':
        ids += self._merge(run, alpha, random.random)
      else:
        ways, scores = self._ways(run)
        weights = [math.exp(alpha * (score - scores[0])) for score in scores]
        ids += random.choices(ways, weights)[0]
    return ids

  def _list_ways(self, run: str) -> tuple[list[list[int]], list[float]]:
    """Returns the 64 best ways to cut a run, the best first, and their log p."""
    if '\u2581' in run:
      return [self.encode(run)], [0.0]
    ways = self._processor.nbest_encode(run, nbest_size=64)
    return ways, [sum(map(self._processor.get_score, ids)) for ids in ways]

  def _merge(self, run: str, alpha: float, draw: Callable[[], float]) -> list[int]:
    """Returns the ids of a run after BPE that leaves out merges."""
    symbols, normal = list(run), self._normal
    before = list(range(-1, len(run) - 1))
    after = [*range(1, len(run)), -1]
    queue = []

    def offer(left: int, right: int) -> None:
      if left >= 0 and right >= 0:
        merged = symbols[left] + symbols[right]
        if merged in normal:
          heapq.heappush(queue, (-normal[merged][1], left, right, merged))

    for left in range(len(run) - 1):
      offer(left, left + 1)
    while queue:
      _, left, right, merged = heapq.heappop(queue)
      if symbols[left] + symbols[right] != merged or not symbols[left]:
        continue  # one of the two has been merged meanwhile
      if draw() < alpha:
        continue
      symbols[left], symbols[right] = merged, ''
      after[left] = after[right]
      if after[left] >= 0:
        before[after[left]] = left
      offer(before[left], left)
      offer(left, after[left])
    ids = []
    for symbol in filter(None, symbols):
      ids += [normal[symbol][0]] if symbol in normal else self._bytes(symbol)
    return ids

  def decode(self, ids: Sequence[int]) -> str:
    # A given end may be a piece that has a text.
    skip = self.eot if self._given else -1
    return self._processor.decode([int(i) for i in ids if i != skip])

  def pieces(self, ids: Sequence[int]) -> list[str]:
    return [self._processor.id_to_piece(int(i)) for i in ids]

  def save(self, folder: Path) -> None:
    about = {'kind': self.kind} | ({'eot': self.eot} if self._given else {})
    write_kind(folder, about, self.facts)
    (folder / 'sentencepiece.model').write_bytes(self._model)

  @classmethod
  def train(cls, kind: str, texts: Iterable[str], vocab: int) -> 'SentencePiece':
    """Returns a model trained on an even sample of texts; it loses nothing.

    Args:
      kind: 'bpe' or 'unigram'.
      texts: at least one that is not empty.

    Raises:
      UserError: `vocab` does not suit the text.
    """
    model = io.BytesIO()
    try:
      sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=_sentences(kind, even_sample(_chunks(texts), _SAMPLE)),
        model_writer=model,
        model_type=kind,
        vocab_size=vocab,
        normalization_rule_name='identity',
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        # Pieces of several words: 7 % fewer tokens on python:docs. The unigram trainer
        # gains 6 % but takes seven times as long over it.
        split_by_whitespace=kind == 'unigram',
        byte_fallback=True,
        unk_id=0,
        bos_id=-1,
        eos_id=-1,
        pad_id=-1,
        control_symbols=EOT,
        max_sentence_length=1 << 20,
        num_threads=4,  # fixed, for it changes how sums are rounded
        minloglevel=2,
      )
    except RuntimeError as e:
      raise UserError(_vocab_advice(vocab, str(e))) from e
    return cls(model.getvalue(), kind)


def _vocab_advice(vocab: int, message: str) -> str:
  """Returns what to do about an error of SentencePiece's trainer."""
  if number := re.search(r'too high.* value <= (\d+)', message):
    return (
      f'data.vocab={vocab} is too large for this text, which has pieces for '
      f'{number[1]}; use --config.data.vocab={number[1]} or less, or more text'
    )
  if number := re.search(r'smaller than required_chars\. \d+ vs (\d+)', message):
    return (
      f'data.vocab={vocab} is too small: 256 bytes, 2 special tokens and the '
      f'characters of this text are {number[1]}; use --config.data.vocab={number[1]} '
      'or more'
    )
  return f'SentencePiece could not be trained with data.vocab={vocab}: {message}'


def _chunks(texts: Iterable[str]) -> Iterator[str]:
  """Yields texts in chunks that a SentencePiece trainer can count in."""
  for text in texts:
    for start in range(0, len(text), _CHUNK):
      yield encodable(text[start : start + _CHUNK])


def _sentences(kind: str, chunks: Iterable[str]) -> Iterator[str]:
  """Yields chunks as the trainer of a kind takes them in bounded time.

  Unigram's looks at all that occurs twice, of any length: a word that is the same over
  and over is cut. BPE's is given all as it is.
  """
  for chunk in chunks:
    yield from (
      with_short_words(chunk, _LONG_WORDS, is_repetitive)
      if kind == 'unigram'
      else [chunk]
    )
