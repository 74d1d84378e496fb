"""Makes tokenizer_folders.json: what transformers makes of each of our folders.

pip install transformers
PYTHONPATH=.:tests python tests/goldens/make_tokenizer_folders.py
"""

import importlib.metadata
import json
import pathlib
import tempfile

import tokenizer_folders
import transformers

ATTRIBUTES = [f'{name}_token' for name in 'bos eos unk sep pad cls mask image'.split()]
ATTRIBUTES += ['end']


def found(folder: pathlib.Path) -> dict:
  """Returns ids, texts and facts that AutoTokenizer has of a folder."""
  read = transformers.AutoTokenizer.from_pretrained(folder)
  rows = []
  for text in tokenizer_folders.TEXTS:
    how = {'add_special_tokens': False}
    ids = read(text, split_special_tokens=False, **how)['input_ids']
    rows.append(
      {
        'split': read(text, split_special_tokens=True, **how)['input_ids'],
        'special': ids,
        'whole': read(text, split_special_tokens=False)['input_ids'],
        'text': read.decode(ids, skip_special_tokens=True),
      }
    )
  named = {name: getattr(read, name, None) for name in ATTRIBUTES}
  facts = 'extra_special_tokens', 'model_max_length', 'padding_side', 'chat_template'
  facts += ('clean_up_tokenization_spaces', 'split_special_tokens')
  return {
    'rows': rows,
    'named': {name: value for name, value in named.items() if value is not None},
    'facts': {name: getattr(read, name) for name in facts},
    'added': {token: i for i, token in sorted(_added(read).items())},
    'frame': read('the')['input_ids'],
  }


def _added(read) -> dict[int, str]:
  return {i: token.content for i, token in read.added_tokens_decoder.items()}


def main() -> None:
  golden = {
    'made with': {
      name: importlib.metadata.version(name) for name in ('transformers', 'tokenizers')
    }
  }
  with tempfile.TemporaryDirectory() as name:
    for kind in tokenizer_folders.FOLDERS:
      folder = tokenizer_folders.write(kind, pathlib.Path(name) / kind)
      golden[kind] = found(folder)
  out = pathlib.Path(__file__).with_suffix('').with_name('tokenizer_folders.json')
  lines = [f'{json.dumps(kind)}: {json.dumps(each)}' for kind, each in golden.items()]
  out.write_text('{\n' + ',\n'.join(lines) + '\n}\n', encoding='utf-8')


if __name__ == '__main__':
  main()
