"""Writes prompts.json: of every task, prompts at K = 0, 1, 2 from the small files.

Compare each with the paper before you commit it: python tests/goldens/make_prompts.py
"""

import json
import pathlib
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1])]

import prompt_files

from gpt_jax.prompting import files, question
from gpt_jax.prompting.tasks import TASKS


def prompts(data: pathlib.Path) -> dict:
  """Returns by task the prompts of its last question, and what it may answer."""
  found = {}
  for name, task in TASKS.items():
    questions = files.read(task, data)
    asked = len(questions) - 1 if task.examples == 'train' else 0
    one = questions[asked]
    pool = files.examples(task, data)
    found[name] = {
      f'K={shots}': question.prompt(
        task, one, question.draw(task, pool, one, asked, shots)
      )
      for shots in (0, 1, 2)
    } | {
      'answers': list(one.answers),
      'gold': list(one.gold),
      'completion': one.completion,
    }
  return found


if __name__ == '__main__':
  with tempfile.TemporaryDirectory() as folder:
    found = prompts(prompt_files.write(pathlib.Path(folder)))
  text = json.dumps(found, indent=1, ensure_ascii=False)
  (HERE / 'prompts.json').write_text(f'{text}\n', encoding='utf-8')
