"""Which rows of its tokens a run reads: of one source, or of a mixture."""

import hashlib
import pathlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from gpt_jax import config
from gpt_jax.config import UserError, length, mixture
from gpt_jax.data import mixtures, prepare, token_files, windows
from gpt_jax.runs.example_rows import Examples
from gpt_jax.runs.tokens import Prepared, Stage


def rows_of(
  run: config.Run,
  data: Prepared,
  T: int,
  sizes: list[length.Stage],
  part: Callable[[int], np.ndarray] = np.arange,
) -> Callable[[int], windows.Rows]:
  """Returns rows(step), where the rows of each batch are.

  Args:
    part: as in `windows.training_rows`.
  """
  if run.data.dialogues:
    return Examples(data.train, T).training(sizes, run.seed, part)
  if not data.stages:
    return windows.training_rows(
      len(data.train.ids),
      T=T,
      sizes=sizes,
      seed=run.seed,
      order=run.data.windows,
      part=part,
    )
  drawn, epochs = mixture_of(data.stages, sizes), epochs_of(run, data, T)

  def rows(step):
    own = part(length.stage_at(sizes, step).rows)
    files, numbers = drawn.draw(length.rows_read(sizes, step) + np.asarray(own))
    each = zip(files.tolist(), numbers.tolist(), strict=True)
    starts = np.array([epochs[file].start(number) for file, number in each])
    return windows.Rows(starts, own, files)

  return rows


def epoch(run: config.Run, data: Prepared, T: int, sizes: list[length.Stage]) -> int:
  """Returns the tokens of an epoch, T a row; 0 of a mixture, which has none."""
  if data.stages:
    return 0
  if not run.data.dialogues:
    return data.train.targets
  return len(Examples(data.train, T).order(sizes).sizes) * sizes[0].rows * T


def mixture_of(stages: Sequence[Stage], sizes: list[length.Stage]) -> mixtures.Mixture:
  """Returns which snapshot each row of a run with such stages is drawn from."""
  return mixtures.Mixture(
    [
      mixtures.Stage(
        length.rows_read(sizes, stage.update),
        tuple(stage.rows.values()),
        stage.sources,
      )
      for stage in stages
    ]
  )


def epochs_of(run: config.Run, data: Prepared, T: int) -> list[windows.Epochs]:
  """Returns the order of each snapshot's windows, which depends on the name alone.

  Dialogues have no windows.
  """
  if run.data.dialogues:
    return []
  each = []
  for source in data.sources:
    own = hashlib.sha256(f'{run.seed} {source.name}'.encode()).digest()[:8]
    seed = int.from_bytes(own, 'little') if data.stages else run.seed
    what = f'data.mixture: {source.name}' if data.stages else 'the training text'
    each.append(windows.Epochs(len(source.train.ids), T, seed, what))
  return each


def lines(
  run: config.Run, data: Prepared, T: int, sizes: list[length.Stage]
) -> Iterator[str]:
  """Yields a line of each snapshot of a mixture: its tokens, share and epochs."""
  if not data.stages:
    return
  drawn = mixture_of(data.stages, sizes).drawn(length.rows_read(sizes, run.steps))
  for i, (source, rows) in enumerate(zip(data.sources, drawn.tolist(), strict=True)):
    stages = [stage for stage in data.stages if i in stage.sources]
    yield _line(source.name, stages, rows * T, len(source.train.ids) - 1)


def expected(
  run: config.Run,
  T: int,
  sizes: list[length.Stage],
  workdir: str | pathlib.Path | None = None,
) -> Iterator[str]:
  """Yields such lines of a run whose tokens may not be there, of sources as they are.

  Args:
    workdir: of the run, which may not be there; None: it is not known.
  """
  if not run.data.mixture:
    return
  stages = mixture.stages(run.data)
  files = tuple(range(len(stages[0].rows)))
  same = [Stage(*stage, files) for stage in stages]
  drawn = mixture_of(same, sizes).drawn(length.rows_read(sizes, run.steps))
  for name, number in zip(stages[0].rows, drawn.tolist(), strict=True):
    yield _line(name, same, number * T, _tokens_there(run, workdir, name))


def _tokens_there(
  run: config.Run, workdir: str | pathlib.Path | None, name: str
) -> int:
  """Returns the targets of a source as it is now, 0 where it is not prepared."""
  given = mixture.sources(run.data)
  folder = pathlib.Path(run.data.tokens or workdir or '')
  tokenizer = pathlib.Path(workdir or '') / 'tokenizer'
  try:
    if not (workdir and tokenizer.exists()):
      each = list(given.values())
      tokenizer = prepare.tokenizer_folder(each, folder / 'tokenizers')
    if not tokenizer.exists():
      return 0
    key = prepare.snapshot(given[name], tokenizer)
  except UserError:  # the source is not there
    return 0
  tokens = token_files.count(folder / 'sources' / name / key / 'tokens' / 'train')
  return max(tokens - 1, 0)


def _line(name: str, stages: Sequence[Stage], read: int, tokens: int) -> str:
  """Returns a line about a source; `tokens` is 0 where it is not prepared."""
  shares = [
    f'{100 * stage.rows[name] / mixture.CYCLE:.2f} %'
    + (f' from update {stage.update:,}' if stage.update else '')
    for stage in stages
  ]
  of = 'tokens; `launch.py prepare` tells the epochs'
  if tokens:
    of = f'of {tokens:,} tokens ({read / tokens:.2f} epochs)'
  return f'  {name}: {", ".join(shares)} of the rows, {read:,} {of}'
