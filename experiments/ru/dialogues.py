"""Makes documents of dialogues that stand in one text with empty lines between them.

Claim: none. Source: none. Cost: seconds.

  python experiments/ru/dialogues.py --source=FILE --target=jokes.jsonl --limit=20000

Each becomes a line of the target, {"text": ...}, so that a model learns where one ends;
once, so that none is both trained on and held out. With a limit the first so many are
taken.
"""

import json
import pathlib
import re
import sys

from absl import flags

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
from gpt_jax.cli.messages import run_script
from gpt_jax.config import UserError
from gpt_jax.files import read_text, write_whole

_SOURCE = flags.DEFINE_string('source', None, 'text file in UTF-8', required=True)
_TARGET = flags.DEFINE_string('target', None, '.jsonl file to write', required=True)
_LIMIT = flags.DEFINE_integer('limit', 0, 'dialogues at most; 0: all', lower_bound=0)


def dialogues(text: str) -> list[str]:
  """Returns the different parts of a text that empty lines divide, in order."""
  parts = (part.strip() for part in re.split(r'\n\s*\n', text))
  return list(dict.fromkeys(part for part in parts if part))


def main(argv: list[str]) -> None:
  """Writes the documents."""
  del argv
  text = read_text(_SOURCE.value)
  found = dialogues(text)[: _LIMIT.value or None]
  if not found:
    raise UserError(f'--source={_SOURCE.value} holds no dialogue')
  lines = [json.dumps({'text': one}, ensure_ascii=False) + '\n' for one in found]
  write_whole(_TARGET.value, ''.join(lines))
  print(f'{_TARGET.value}: {len(found):,} dialogues')


if __name__ == '__main__':
  run_script(main)
