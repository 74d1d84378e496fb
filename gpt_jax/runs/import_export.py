"""Imports weights from a Hugging Face folder into a workdir, and exports to one."""

import pathlib
import shutil
from collections.abc import Sequence

from gpt_jax import config, tokenizers
from gpt_jax.config import UserError
from gpt_jax.files import write_json
from gpt_jax.inference import hugging_face
from gpt_jax.inference.classifier import Classifier
from gpt_jax.paths import user_path
from gpt_jax.runs import cost
from gpt_jax.runs.load import load
from gpt_jax.runs.workdir import alone, read_run
from gpt_jax.tasks.inputs import NEW_TOKENS
from gpt_jax.training import checkpoint, step
from gpt_jax.weights import facts


def import_model(
  source: str,
  workdir: str | pathlib.Path,
  tokenizer: str = '',
  ignore: Sequence[str] = (),
) -> str:
  """Makes a workdir of other people's weights; returns a report.

  Args:
    source: see `hugging_face.find`.
    workdir: is created; run.json comes last, so that half an import is no workdir.
    tokenizer: path of one, if it is not among the weights.
    ignore: see `convert.read_all`.

  Raises:
    UserError: `workdir` holds a run, or the source can't be read.
  """
  workdir = pathlib.Path(user_path(workdir, 'workdir', workdir=True))
  if (workdir / 'run.json').exists():
    raise UserError(f'workdir={workdir} holds a run; choose another workdir')
  model_config, model, found, notes = hugging_face.open_model(source, tokenizer, ignore)
  run = config.Run(steps=0, model=model_config, data=config.Data(source=''))
  run.optim.name = 'sgd'  # no optimizer state
  workdir.mkdir(parents=True, exist_ok=True)
  with alone(workdir):
    for part in ('tokenizer', 'checkpoints'):
      shutil.rmtree(workdir / part, ignore_errors=True)
    (workdir / facts.KEPT_AS).unlink(missing_ok=True)
    model.tokenizer.save(workdir / 'tokenizer')
    facts.keep(found, workdir)
    saved = checkpoint.Checkpoints(
      workdir / 'checkpoints', run.keep, run=config.identity(run)
    )
    try:
      saved.save(step.init_state(run, model.params, model.config.width), None)
      saved.wait()
    finally:
      saved.close()
    about = {
      'config': config.flat(run),
      'imported': str(source),
      'vocab': model.config.vocab,
      'tokenizer': tokenizers.digest(workdir / 'tokenizer'),
    }
    write_json(workdir / 'run.json', about)
  number = cost.parameter_count(model.config)
  said = (
    f'imported {source} into {workdir}: {number:,} parameters, tokenizer '
    f'{model.tokenizer.kind} of {model.tokenizer.vocab:,} entries'
  )
  return '\n'.join([said, *(f'  {note}' for note in notes)])


def export_model(
  workdir: str | pathlib.Path, checkpoint_step: str | int, target: str | pathlib.Path
) -> str:
  """Writes a workdir's model as a Hugging Face folder; returns what was written."""
  model = load(workdir, checkpoint_step)
  found = facts.kept(workdir)
  said = hugging_face.export(model, read_run(workdir).model.dropout, target, found)
  if isinstance(model, Classifier):
    first = model.config.vocab - NEW_TOKENS
    said += (
      f'\nleft out: the head for {model.task}; its start, delimiter and extract '
      f'tokens are the ids {first}, {first + 1} and {first + 2}'
    )
  return said
