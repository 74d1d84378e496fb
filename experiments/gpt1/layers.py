"""Figure 2, left: what each transferred layer is worth on a task.

Claim: every layer of the pre-trained model that is transferred helps, all together up
to 9 points on MultiNLI. Source: Radford et al. 2018, section 5 and figure 2. Cost: that
of the fine-tunings, which are trained first; see experiments/README.md.

  for n in 0 1 2 3 4 5 6; do
    python launch.py train --config=experiments/gpt1/finetune.py:TASK,layers=$n \
      --config.seeds=3 --config.init_from=PRETRAINED --config.task.data=FOLDER \
      --workdir=runs/layers_$n
  done
  python experiments/gpt1/layers.py --target=layers.png runs/layers_*

The workdirs may be of several tasks, and with ...,no_pretraining of a model that was
not pre-trained; those of a task must differ in nothing but what is transferred. With 0
layers that is the embeddings alone. Printed are mean and 95 % interval of the mean over
seeds (Student's t), of each seed's best epoch.
"""

import pathlib
import sys

from absl import flags

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
from gpt_jax.cli.messages import run_script
from gpt_jax.reports import committed, figures
from gpt_jax.reports.committed import Measured

_RESULT = flags.DEFINE_string('result', '', 'file for experiments/table.py')
_TARGET = flags.DEFINE_string('target', None, 'PNG of the metric against the layers')


def main(argv: list[str]) -> None:
  """Prints the table of the workdirs, and plots it if there is a target."""
  row = '{:<11} {:<9} {:>11} {:>7} {:>18} {:>7} {:>7} {:>6} {:>9}'.format
  found = figures.transfers(argv[1:])
  header = 'task', 'metric', 'transferred', 'mean', '95 %', 'median', 'std', 'seeds'
  print(row(*header, 'examples'))
  for each in found:
    over = each.over_seeds
    print(
      row(
        each.task,
        each.metric,
        'none' if each.layers is None else each.layers,
        f'{over["mean"]:.4f}',
        f'[{over["low"]:.4f}, {over["high"]:.4f}]' if len(each.values) > 1 else '',
        f'{over["median"]:.4f}',
        f'{over["std"]:.4f}' if len(each.values) > 1 else '',
        len(each.values),
        f'{each.examples:,}',
      )
    )
  if _TARGET.value:
    figures.transfer_curve(found, _TARGET.value)
  if _RESULT.value:
    measured = []
    for each in found:
      layers = 'nothing' if each.layers is None else f'{each.layers} layers'
      what = f'{each.task} {each.metric}, {layers} transferred'
      what += f', mean of {len(each.values)} seeds' if len(each.values) > 1 else ''
      over = each.over_seeds
      between = (over['low'], over['high']) if len(each.values) > 1 else ()
      measured.append(Measured(what, over['mean'], *between))
    committed.of_script(_RESULT.value, __file__, measured)


if __name__ == '__main__':
  run_script(main)
