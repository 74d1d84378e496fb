"""Pictures of finished runs."""

import pathlib

import matplotlib.figure

from gpt_jax.config import UserError
from gpt_jax.training.record import read_metrics


def loss_curves(workdir: str | pathlib.Path, target: str | pathlib.Path) -> None:
  """Writes a PNG with the training and held-out loss of a run against its updates.

  Raises:
    UserError: the workdir has no metrics.
  """
  lines = read_metrics(workdir)
  if not lines:
    raise UserError(f'{workdir} has no metrics to plot; train it first')
  figure = matplotlib.figure.Figure(figsize=(7, 4), layout='constrained')
  axes = figure.subplots()
  for field, label, style in (
    ('loss', 'training (a batch)', {'color': 'tab:gray', 'linewidth': 0.8}),
    ('valid_nll', 'held-out text', {'color': 'tab:blue', 'marker': 'o'}),
  ):
    points = [(line['step'], line[field]) for line in lines if field in line]
    axes.plot(*zip(*points, strict=True), label=label, **style)
  last = [line for line in lines if 'valid_nll' in line][-1:]
  for line in last:
    others = [n for n in line if n not in ('step', 'valid_nll', 'valid_ppl')]
    text = '\n'.join(
      f'{line[n]:.3f} {n.replace("valid_bpb", "bits/byte")}' for n in others
    )
    axes.annotate(
      f'{line["valid_nll"]:.3f}\n{text}',
      (line['step'], line['valid_nll']),
      xytext=(-8, 12),
      textcoords='offset points',
      ha='right',
    )
  axes.set_xlabel('updates')
  axes.set_ylabel('loss [nats/token]')
  axes.set_title(pathlib.Path(workdir).name)
  axes.grid(alpha=0.3)
  axes.legend()
  figure.savefig(target, dpi=130)
