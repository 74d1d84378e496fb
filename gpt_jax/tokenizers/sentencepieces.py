"""SentencePiece: models given as files, and models trained to lose nothing."""

import io
import re
import threading
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import sentencepiece

from gpt_jax.config import UserError
from gpt_jax.tokenizers.shared import EOT, encodable, even_sample, write_kind

# SentencePiece's trainer keeps positions within a sentence in 16 bits, hence short
# chunks; and its BPE takes about 60 bytes of memory for each character.
_CHUNK = 8192
_SAMPLE = 6 << 20
_RUN = 2048  # characters that BPE encodes at once, about


class SentencePiece:
  """A SentencePiece model.

  Models trained here lose nothing: decode(encode(text)) == text.
  """

  def __init__(self, model: bytes, kind: str = 'sentencepiece', name: str = 'model'):
    """Opens the bytes of a .model file.

    Args:
      model: the bytes.
      kind: 'bpe' and 'unigram' are trained here; 'sentencepiece' is anything else.
      name: of the file, for errors.

    Raises:
      UserError: `model` is not one, or has no token that can end a text.
    """
    self.kind = kind
    self._model = model
    try:
      self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
      self.vocab = self._processor.vocab_size()
    except (RuntimeError, ValueError) as e:
      raise UserError(f'{name}: not a SentencePiece model ({e})') from e
    if not self.vocab:
      raise UserError(f'{name}: not a SentencePiece model (it has no pieces)')
    p = self._processor
    named = p.piece_to_id(EOT)
    ends = [i for i in (named, p.eos_id(), p.bos_id()) if i >= 0 and p.is_control(i)]
    if not ends:
      raise UserError(
        f'{name}: has no {EOT}, </s> or <s> among its control pieces, one of which '
        'must stand between documents; train it with one'
      )
    self.eot = ends[0]
    ids = range(self.vocab)
    self.unknown = frozenset(i for i in ids if p.is_byte(i) or p.is_unknown(i))
    # The model writes a space as U+2581, so a U+2581 of the text goes in as bytes.
    mark = [p.piece_to_id(f'<0x{byte:02X}>') for byte in '\u2581'.encode()]
    self._mark = mark if all(p.is_byte(i) for i in mark) else []
    self._within = None
    if kind == 'bpe':
      pieces = (p.id_to_piece(i).replace('\u2581', ' ') for i in ids)
      self._within = {piece[i : i + 2] for piece in pieces for i in range(len(piece))}

  def encode(self, text: str) -> list[int]:
    text = encodable(text)
    if '\u2581' not in text or not self._mark:
      return self._encode(text)
    ids = []
    for run in text.split('\u2581'):
      ids += self._encode(run) + self._mark
    return ids[: -len(self._mark)]

  def _encode(self, text: str) -> list[int]:
    if self._within is None or len(text) <= _RUN:
      return self._processor.encode(text)
    ids = []
    for run in self._runs(text):
      ids += self._processor.encode(run)
    return ids

  def _runs(self, text: str) -> Iterator[str]:
    """Yields a text in runs that no piece of a BPE model reaches across.

    So their ids are the ids of the whole, at over twice the speed: the encoder keeps
    a queue of all pairs of its text, which then stays in the processor's cache.
    """
    start, size, within = 0, len(text), self._within
    while start < size:
      end = start + _RUN
      while end < size and text[end - 1 : end + 1] in within:
        end += 1
      yield text[start:end]
      start = end

  def encode_array(self, text: str) -> np.ndarray:
    # `array` takes a list in a third of the time that numpy needs.
    return np.frombuffer(array('I', self.encode(text)), np.uint32)

  def sample(self, text: str, alpha: float, seed: int) -> list[int]:
    """Returns the ids of one of the ways to cut a text, for regularisation.

    The same for the same seed. Kudo 2018 (unigram: cuts are drawn with probability
    p ** alpha) and Provilkov et al. 2020 (BPE: merges are dropped with probability
    alpha).
    """
    ids = []

    def draw() -> None:
      sentencepiece.set_random_generator_seed(seed)
      for run in encodable(text).split('\u2581'):
        ids.extend(
          self._processor.encode(run, enable_sampling=True, alpha=alpha, nbest_size=-1)
        )
        ids.extend(self._mark)

    # A thread's generator takes the seed when the thread first draws, and never again.
    thread = threading.Thread(target=draw)
    thread.start()
    thread.join()
    return ids[: len(ids) - len(self._mark)]

  def decode(self, ids: Sequence[int]) -> str:
    return self._processor.decode([int(i) for i in ids])

  def pieces(self, ids: Sequence[int]) -> list[str]:
    return [self._processor.id_to_piece(int(i)) for i in ids]

  def save(self, folder: Path) -> None:
    write_kind(folder, {'kind': self.kind})
    (folder / 'sentencepiece.model').write_bytes(self._model)

  @classmethod
  def train(cls, kind: str, texts: Iterable[str], vocab: int) -> 'SentencePiece':
    """Returns a model learnt from an even sample of texts; it loses nothing.

    Args:
      kind: 'bpe' or 'unigram'.
      texts: at least one that is not empty.
      vocab: number of ids.

    Raises:
      UserError: `vocab` does not suit the text.
    """
    model = io.BytesIO()
    try:
      sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(even_sample(_chunks(texts), _SAMPLE)),
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
  if found := re.search(r'too high.* value <= (\d+)', message):
    return (
      f'data.vocab={vocab} is too large for this text, which has pieces for '
      f'{found[1]}; use --config.data.vocab={found[1]} or less, or more text'
    )
  if found := re.search(r'smaller than required_chars\. \d+ vs (\d+)', message):
    return (
      f'data.vocab={vocab} is too small: 256 bytes, 2 special tokens and the '
      f'characters of this text are {found[1]}; use --config.data.vocab={found[1]} '
      'or more'
    )
  return f'SentencePiece could not be trained with data.vocab={vocab}: {message}'


def _chunks(texts: Iterable[str]) -> Iterator[str]:
  """Yields texts in chunks that a SentencePiece trainer can count in."""
  for text in texts:
    for start in range(0, len(text), _CHUNK):
      yield encodable(text[start : start + _CHUNK])
