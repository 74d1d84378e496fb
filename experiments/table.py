"""The table of experiments/README.md, from result files; and how a run becomes one.

  python experiments/table.py --workdir=runs/quickstart     # writes a run's result
  python experiments/table.py                               # writes the table
  python experiments/table.py --check                       # only compares it

The first writes experiments/results/NAME.json, which is committed, and then the table.
Several --workdir are seeds of one config. NAME is --name, or the experiment's file.
`gpt_jax/reports/experiments_table.py` says what is in the table.
"""

import pathlib
import sys

from absl import app, flags

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from gpt_jax.cli.messages import run_script
from gpt_jax.reports import experiments_table

_WORKDIR = flags.DEFINE_multi_string('workdir', [], 'runs to record; seeds of a config')
_NAME = flags.DEFINE_string('name', '', 'of the result file')
_CHECK = flags.DEFINE_bool('check', False, 'only compare the table; exit 1 if old')


def main(argv: list[str]) -> int:
  """Records runs, and writes or compares the table."""
  if len(argv) > 1:
    raise app.UsageError(f'there is no argument {argv[1]!r}; all are flags')
  root = pathlib.Path(__file__).resolve().parent
  if _WORKDIR.value:
    path = experiments_table.record(_WORKDIR.value, root, _NAME.value)
    print(f'wrote {path}')
  current = experiments_table.update(root, write=not _CHECK.value)
  if not _CHECK.value:
    print(f'wrote {root / "README.md"}')
  elif current:
    print('the table is up to date')
  else:
    print('the table is not what the result files give; run experiments/table.py')
  return int(_CHECK.value and not current)


if __name__ == '__main__':
  run_script(main)
