"""Writes tokenizers as Hugging Face files, for `transformers.AutoTokenizer`."""

import math
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from gpt_jax.config import UserError
from gpt_jax.files import sync
from gpt_jax.tokenizers import byte_level
from gpt_jax.tokenizers.bpe_files import write_bpe
from gpt_jax.tokenizers.byte_level import ByteLevel
from gpt_jax.tokenizers.characters import Bytes, Characters
from gpt_jax.tokenizers.facts import Facts
from gpt_jax.tokenizers.gpt1 import GPT1
from gpt_jax.tokenizers.protocol import EOT, Tokenizer
from gpt_jax.tokenizers.sentencepiece_model import SentencePiece
from gpt_jax.tokenizers.tokenizer_json import TokenizerJson

MARK = '\u2581'  # as which SentencePiece writes a space
# Texts that show where pipelines differ.
_PROBES = (
  *('', ' ', '  ', ' a', 'a ', ' a  b ', '\n', 'a\nb', ' \n\n  b\n', '\r\n', '\ta\t'),
  "It's 2 o'clock, isn't it?  We'LL see: 3.14159, 100,000 -- [a_b] {c}; d/e\\f @#$%^&*",
  'def f(x):\n    return x+1  # 100 %\n\n\nclass A:\n\tpass\n',
  *('\x00', 'a\x00b\x01\x7f\x85c', '\u00a0a\u2028b\u2029c\u3000d', 'a\u200db\ufeffc'),
  *('caf\u00e9', 'cafe\u0301', 'Z\u0351\u0343\u0342 \u0301', '\u1100\u1161\u11a8'),
  *('\ufb01x', '\uff26\uff55\uff4c\uff4c', '\u2460\u00bd\u00b2\u2122', '\u212a\u0130'),
  *('\u00df\u1e9e \u0178', '\u65e5\u672c\u8a9e', '\u05e9\u05dc \u202eabc\u202c \u0645'),
  '\U0001f469\u200d\U0001f469\u200d\U0001f467 \U0001f1eb\U0001f1f7\U0001f44d\U0001f3fd',
  *(MARK, f'a{MARK}b {MARK} {MARK * 2}', '\u2585\ufffd', f'<{MARK}', f'<{MARK}0x41>'),
  *(EOT, f'a {EOT} b', '<unk>', '<s></s>', '<pad>', '<0x41>', '<0x0A><0xFF>', '</w>'),
  *('a' * 99, ' ' * 99, '\n' * 99, '\u00e9' * 99, 'ab' * 50, '-' * 99, 'word ' * 20),
)


def write(tokenizer: Tokenizer, folder: Path, context: int) -> str:
  """Writes what AutoTokenizer reads; returns how its ids differ from ours, '' if not.

  The folder gets tokenizer.json and tokenizer_config.json; from the BPE of GPT-2 and of
  GPT-1 also vocab.json and merges.txt. AutoTokenizer prefers these to whatever the
  config.json beside them suggests. `eot` is `bos_token` and `eos_token`, and no
  encoding adds it. There is no `unk_token`: its name would be found in texts. Of a
  tokenizer that came from a folder of Hugging Face, special tokens, settings and chat
  templates are written as they were there (`facts`).

  Differs: Hugging Face reads <|endoftext|> in a text, and the names of other control
  pieces of a given SentencePiece model, as those tokens, unless it gets
  `split_special_tokens=True`. Text with lone surrogates is an error there; and so, as
  here, is a character outside the vocabulary of a 'chars' tokenizer. Byte pieces of
  SentencePiece that are not UTF-8 decode to other numbers of U+FFFD.

  Args:
    tokenizer: of any kind but 'numbers'.
    folder: created if missing. Nothing else in it is changed.
    context: tokens that the model can read (`model_max_length`), where the folder that
      the tokenizer is from says nothing of that.

  Raises:
    UserError: the files would give other ids, as for a SentencePiece model that
      normalises text. The folder is as before then.
  """
  differs = ''
  facts = getattr(tokenizer, 'facts', None)
  if isinstance(tokenizer, GPT1) and tokenizer.cleaning == 'release':
    given = None if _has_own_end(tokenizer) else tokenizer.eot
    tokenizer = GPT1(tokenizer._vocab, tokenizer._merges, cleaning='basic', eot=given)
    differs = (
      "Hugging Face can't clean text as GPT-1's release does, with ftfy and spaCy: "
      "its ids are those of cleaning='basic' (each punctuation mark a word, no accents "
      'or line ends)'
    )
  elif isinstance(tokenizer, SentencePiece) and not _is_bpe(tokenizer):
    differs = (
      'where two ways to cut a text are equally likely, to within rounding, Hugging '
      'Face may choose another than SentencePiece'
    )
  ends = {}
  if facts is None or _has_own_end(tokenizer):
    known = tokenizer.eot < tokenizer.vocab  # else no text has it
    end = tokenizer.pieces([tokenizer.eot])[0] if known else None
    ends = dict.fromkeys(('bos_token', 'eos_token'), end)
  folder = Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(prefix='.tokenizer.', dir=folder) as name:
    staged = Path(name)
    if isinstance(tokenizer, TokenizerJson):
      path = staged / 'tokenizer.json'
      path.write_text(tokenizer.whole, encoding='utf-8', newline='')
    else:
      _pipeline(tokenizer).save(str(staged / 'tokenizer.json'))
      _check(tokenizer, staged / 'tokenizer.json')
    (facts or Facts({})).write(staged, context, ends)
    # The next two can't say how words are cut: they are read as of these two kinds.
    gpt2 = (
      isinstance(tokenizer, ByteLevel) and tokenizer._words == byte_level.GPT2_WORDS
    )
    if gpt2 or isinstance(tokenizer, GPT1):
      write_bpe(staged, tokenizer._vocab, tokenizer._merges)
    for path in sorted(each for each in staged.rglob('*') if each.is_file()):
      sync(path)
      place = folder / path.relative_to(staged)
      place.parent.mkdir(exist_ok=True)
      os.replace(path, place)
  sync(folder)
  return differs


def _pipeline(tokenizer: Tokenizer) -> tokenizers.Tokenizer:
  """Returns a tokenizer of Hugging Face with the ids of ours."""
  if isinstance(tokenizer, SentencePiece):
    return _sentencepiece(tokenizer)
  if isinstance(tokenizer, ByteLevel):
    pipeline = byte_level.pipeline(
      tokenizer._vocab, tokenizer._merges, tokenizer._words
    )
    pipeline.decoder = decoders.ByteLevel()
  elif isinstance(tokenizer, Bytes):
    vocab = {character: byte for byte, character in byte_level.BYTE_CHARACTERS.items()}
    pipeline = tokenizers.Tokenizer(models.BPE(vocab | {EOT: tokenizer.eot}, []))
    pipeline.pre_tokenizer = pre_tokenizers.ByteLevel(
      add_prefix_space=False, use_regex=False
    )
    pipeline.decoder = decoders.ByteLevel()
  elif isinstance(tokenizer, GPT1):
    end = {EOT: tokenizer.eot} if _has_own_end(tokenizer) else {}
    vocab = tokenizer._vocab | end
    pipeline = tokenizers.Tokenizer(
      models.BPE(vocab, tokenizer._merges, unk_token='<unk>', end_of_word_suffix='</w>')
    )
    pipeline.normalizer = normalizers.BertNormalizer(lowercase=True)
    pipeline.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    pipeline.decoder = decoders.Sequence(
      [
        decoders.Replace('\n</w>', '\n'),
        decoders.Replace('</w>', ' '),
        decoders.Fuse(),
        decoders.Replace(tokenizers.Regex(r' \z'), ''),
      ]
    )
  else:
    # Without an entry for the unknown, a character that has none is an error.
    ids = range(tokenizer.vocab)
    vocab = dict(zip(tokenizer.pieces(ids), ids, strict=True))
    pipeline = tokenizers.Tokenizer(models.WordLevel(vocab, unk_token=''))
    every = tokenizers.Regex(r'[\s\S]')
    pipeline.pre_tokenizer = pre_tokenizers.Split(every, 'isolated')
    pipeline.decoder = decoders.Fuse()
  own_end = not isinstance(tokenizer, GPT1) or _has_own_end(tokenizer)
  if own_end and tokenizer.eot < tokenizer.vocab:
    pipeline.add_special_tokens(tokenizer.pieces([tokenizer.eot]))
  return pipeline


def _has_own_end(tokenizer: Tokenizer) -> bool:
  """Returns whether it is GPT-1's, with the end of text that its release lacks."""
  return isinstance(tokenizer, GPT1) and tokenizer.eot == len(tokenizer._vocab)


def _is_bpe(tokenizer: SentencePiece) -> bool:
  """Returns whether scores are the ranks of merges, not log-probabilities."""
  p = tokenizer._processor
  return all(p.get_score(i).is_integer() for i in range(tokenizer.vocab))


def _sentencepiece(tokenizer: SentencePiece) -> tokenizers.Tokenizer:
  """Returns a SentencePiece model as Hugging Face has it.

  Pieces are written with spaces, not with SentencePiece's mark: so a mark in a text is
  the unknown character that it is for a model trained here.
  """
  p, ids = tokenizer._processor, range(tokenizer.vocab)
  control = [i for i in ids if p.is_control(i)]
  special = {*control, *(i for i in ids if p.is_unknown(i) or p.is_byte(i))}
  names = tokenizer.pieces(ids)
  entries = [n if i in special else n.replace(MARK, ' ') for i, n in enumerate(names)]
  byte_fallback = any(map(p.is_byte, ids))
  unknown = names[p.unk_id()]
  # How the model treats blanks. What else it does to text, `_check` finds.
  prefix = p.normalize('a') == f'{MARK}a'
  squeeze = p.normalize(' a  b ').lstrip(MARK) == f'a{MARK}b'
  replace, regex = normalizers.Replace, tokenizers.Regex
  # Blanks at the start are dropped below, but not that of the sign for the unknown.
  sign = f'{MARK}⁇ ' if prefix or squeeze else ' ⁇ '
  before, after = [], [decoders.Replace(regex(rf'\A{re.escape(unknown)}\z'), sign)]
  if squeeze:
    before += [replace(regex(rf'\A +|[ {MARK}]+\z'), ''), replace(regex(' +'), ' ')]
  if prefix:
    before.append(normalizers.Prepend(' '))
  if tokenizer.kind == 'sentencepiece':
    before.append(replace(MARK, ' '))
  if _is_bpe(tokenizer):
    vocab = {entry: i for i, entry in enumerate(entries)}
    normal = {e: p.get_score(i) for i, e in enumerate(entries) if i not in special}
    # SentencePiece merges whatever two make a piece, the best-scored first.
    merges = [
      (piece[:cut], piece[cut:])
      for piece in sorted(normal, key=normal.get, reverse=True)
      for cut in range(1, len(piece))
      if piece[:cut] in normal and piece[cut:] in normal
    ]
    model = models.BPE(
      vocab, merges, unk_token=unknown, fuse_unk=True, byte_fallback=byte_fallback
    )
  else:
    # This engine finds the names of special pieces, <0x41> and the like, in texts. Not
    # if a < that is meant literally is written as no name has it: followed by the mark,
    # or where no piece has a <, as the byte or the unknown piece that stands for it.
    literal = f'<{MARK}' if '<' in entries else names[p.encode('<')[-1]]
    before.append(replace('<', literal))
    after.append(decoders.Replace(f'<{MARK}', '<'))
    scored = [
      (entry if i in special else entry.replace('<', literal), p.get_score(i))
      for i, entry in enumerate(entries)
    ]
    model = models.Unigram(scored, p.unk_id(), byte_fallback)
  pipeline = tokenizers.Tokenizer(model)
  if before:
    pipeline.normalizer = normalizers.Sequence(before)
  after += [decoders.ByteFallback(), decoders.Fuse()]
  if prefix or squeeze:
    start = decoders.Replace(regex(r'\A +' if squeeze else r'\A '), '')
    after += [start, decoders.Replace(MARK, ' ')]
  pipeline.decoder = decoders.Sequence(after)
  pipeline.add_special_tokens([names[i] for i in control])
  return pipeline


def _check(tokenizer: Tokenizer, path: Path) -> None:
  """Raises a UserError unless a tokenizer.json gives the ids of a tokenizer."""
  theirs = tokenizers.Tokenizer.from_file(str(path))
  theirs.encode_special_tokens = True  # for texts that hold their names
  for text in _probes(tokenizer):
    ids, others = tokenizer.encode(text), theirs.encode(text).ids
    if ids != others and not _are_tied(tokenizer, ids, others):
      raise UserError(
        f'tokenizer of kind {tokenizer.kind}: the text {text!r} has the ids {ids}, but '
        f"{others} as Hugging Face's, which must give the same: this tokenizer does to "
        'texts what that form can not; use one that was trained here (--config.data.'
        "tokenizer=bpe, unigram or byte_bpe), or the model's own Hugging Face files"
      )


def _probes(tokenizer: Tokenizer) -> Iterator[str]:
  """Yields texts on which pipelines may differ, and all pieces of the vocabulary."""
  known = tokenizer._characters if isinstance(tokenizer, Characters) else None
  for text in _PROBES:
    yield text if known is None else ''.join(c for c in text if c in known)
  for start in range(0, tokenizer.vocab, 16):
    yield tokenizer.decode(range(start, min(start + 16, tokenizer.vocab)))


def _are_tied(tokenizer: Tokenizer, a: list[int], b: list[int]) -> bool:
  """Returns whether two ways to cut one text are equally likely to unigram.

  SentencePiece adds log-probabilities in 32 bits, Hugging Face in 64.
  """
  if not isinstance(tokenizer, SentencePiece) or _is_bpe(tokenizer):
    return False
  if tokenizer.decode(a) != tokenizer.decode(b):
    return False
  one, other = (sum(map(tokenizer._processor.get_score, ids)) for ids in (a, b))
  return math.isclose(one, other, rel_tol=1e-5)
