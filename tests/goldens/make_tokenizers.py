"""Makes tokenizers.json: what other people's tokenizers give.

  pip install transformers ftfy spacy
  python tests/goldens/make_tokenizers.py FOLDER

GPT-2 is Hugging Face's GPT2Tokenizer. GPT-1 is Hugging Face's OpenAIGPTTokenizer (in
transformers 5 it cleans as BERT does, always; and its from_pretrained reads no file
named as in the release, hence the explicit vocabulary), and, with ftfy and spaCy, a
plain transcription of the release's rules.
"""

import hashlib
import importlib.metadata
import json
import pathlib
import re
import sys
import tarfile

import ftfy
import numpy as np
import spacy
import transformers

TEXTS = [
  '',
  ' ',
  'Hello, world!',
  "I'm sure they'll say it's what we've DON'T'VE.",
  '  two blanks,\ttabs\t\tand\n\n\nlines\n',
  'trailing blanks   ',
  'In 1984, 3.14159 x 10^23; 50% of $1,000.00 #hash @at &c.',
  'Café naïve coöperate ŒUVRE',
  'cafe\u0301 with a combining accent, n\u0303',
  '“Quotes” — dashes – and… more´s ―',
  'Привет, мир! Ёлка.',
  '日本語のテキスト 中文',
  'שלום עולם \u202emarks\u202c مرحبا',
  '👩‍👩‍👧‍👦 🇫🇷 👍🏽',
  'nul \x00 and \x7f and \u0085 and \u2028 and \ufeff',
  'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa',
  '<|endoftext|> <unk> </s>',
  'def f(x):\n    return {"a": [x**2, not_x]}  # comment\n',
  "He said: 'I do not know...' (and left) -- at last.\nShe\n \n stayed.",
  'state-of-the-art e-mail http://example.com/a_b?c=d&e=f#g',
  '\n',
  '\n\nleading and trailing\n\n',
  'ſtrange ﬁ ligatures ½ ² Ⅷ ①',
]


def gpt2(folder: pathlib.Path) -> transformers.GPT2Tokenizer:
  vocab = json.loads((folder / 'vocab.json').read_text(encoding='utf-8'))
  return transformers.GPT2Tokenizer(vocab, pairs(folder / 'merges.txt'))


def pairs(path: pathlib.Path) -> list[tuple[str, ...]]:
  lines = path.read_text(encoding='utf-8').split('\n')[1:]
  return [tuple(line.split(' ')) for line in lines if line]


def every_text(root: pathlib.Path):
  """Yields name and text of every file of a folder that is UTF-8."""
  for path in sorted(root.rglob('*')):
    name = path.relative_to(root).as_posix()
    if path.name.endswith('.tar.xz'):
      with tarfile.open(path) as archive:
        for member in archive:
          if member.isfile():
            yield f'{name}/{member.name}', archive.extractfile(member).read().decode()
    elif path.is_file():
      try:
        yield name, path.read_bytes().decode()
      except UnicodeDecodeError:
        continue


def digest(ids: list[int]) -> str:
  return hashlib.sha256(np.array(ids, '<u4').tobytes()).hexdigest()


class Release:
  """GPT-1's tokenizer as its release describes it, slowly."""

  def __init__(self, vocab: dict[str, int], merges: list[tuple[str, ...]]):
    self.vocab = vocab
    self.ranks = {pair: rank for rank, pair in enumerate(merges)}
    self.words = spacy.blank('en')

  def clean(self, text: str) -> str:
    for old in '—–―':
      text = text.replace(old, '-')
    text = text.replace('…', '...').replace('´', "'")
    runs = '|'.join(re.escape(mark) + '+' for mark in '-~!";?+,)(\\/*[]}{|_')
    text = re.sub(f'({runs})', r' \1 ', text)
    text = re.sub(r'\s*\n\s*', ' \n ', text)
    return re.sub(r'[^\S\n]+', ' ', text).strip()

  def merge(self, word: str) -> list[str]:
    parts = [*word[:-1], word[-1] + '</w>']
    while len(parts) > 1:
      ranked = [
        (self.ranks.get(pair, float('inf')), pair)
        for pair in zip(parts, parts[1:], strict=False)
      ]
      rank, best = min(ranked)
      if rank == float('inf'):
        break
      merged, i = [], 0
      while i < len(parts):
        if tuple(parts[i : i + 2]) == best:
          merged.append(parts[i] + parts[i + 1])
          i += 2
        else:
          merged.append(parts[i])
          i += 1
      parts = merged
    return ['\n</w>'] if ' '.join(parts) == '\n  </w>' else parts

  def encode(self, text: str) -> list[int]:
    words = self.words(self.clean(ftfy.fix_text(text)))
    return [
      self.vocab.get(part, 0)
      for word in words
      for part in self.merge(word.text.lower())
    ]


def main(data: pathlib.Path) -> None:
  folder = data / 'vocab' / 'gpt2'
  second = gpt2(folder)

  def ids2(text: str) -> list[int]:
    return second.encode(text, add_special_tokens=False, split_special_tokens=True)

  folder = data / 'vocab' / 'gpt1'
  vocab = json.loads((folder / 'encoder_bpe_40000.json').read_text(encoding='utf-8'))
  merges = pairs(folder / 'vocab_40000.bpe')
  first = transformers.OpenAIGPTTokenizer(vocab, merges)
  release = Release(vocab, merges)
  golden = {
    'made with': {
      name: importlib.metadata.version(name)
      for name in ('transformers', 'tokenizers', 'ftfy', 'spacy')
    },
    'texts': TEXTS,
    'gpt2': [ids2(text) for text in TEXTS],
    'gpt1 basic': [
      first.encode(text, add_special_tokens=False, split_special_tokens=True)
      for text in TEXTS
    ],
    'gpt1 release': [release.encode(text) for text in TEXTS],
    'gpt2 digests': {name: digest(ids2(text)) for name, text in every_text(data)},
  }
  out = pathlib.Path(__file__).with_name('tokenizers.json')
  out.write_text(json.dumps(golden, indent=1) + '\n', encoding='utf-8')


if __name__ == '__main__':
  main(pathlib.Path(sys.argv[1]))
