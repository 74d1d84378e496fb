"""Opens a trained model, from a workdir or a folder of weights."""

import pathlib
import sys
from collections.abc import Callable
from functools import partial

import jax

from gpt_jax import tokenizers
from gpt_jax.config import UserError
from gpt_jax.files import field
from gpt_jax.inference import hugging_face
from gpt_jax.inference.classifier import Classifier
from gpt_jax.inference.language_model import LanguageModel
from gpt_jax.model.gpt import GPT, init_params
from gpt_jax.model.gpt_config import Execution, GPTConfig
from gpt_jax.model.heads import new_head
from gpt_jax.paths import user_path
from gpt_jax.runs.workdir import (
  best_line,
  old_groups,
  read_about,
  read_run,
  seed_folders,
)
from gpt_jax.tasks.labelled_table import Task, task_of
from gpt_jax.training import manifest, saved
from gpt_jax.training.sharding import Layout
from gpt_jax.training.transfer import grown
from gpt_jax.weights import facts


def _tell(text: str) -> None:
  print(text, file=sys.stderr)


def load(
  path: str | pathlib.Path,
  checkpoint_step: str | int = 'best',
  report: Callable[[str], None] = _tell,
) -> LanguageModel:
  """Returns the `LanguageModel` in a workdir or a folder of weights.

  A workdir that was fine-tuned on a task gives a `Classifier`, the best seed's; the
  others are in the folders seed_N.

  Args:
    path: a workdir, a Hugging Face folder, or hf:NAME@REVISION (see `hugging_face`).
    checkpoint_step: 'best' (lowest held-out loss; for a task, the epoch with the best
      metric), 'latest', or a number of updates. One that is damaged is passed over
      for the next best, or the next latest.
    report: is told of checkpoints that were passed over; by default, on stderr.

  Raises:
    UserError: `path` is neither, or no path (`paths.user_path`), or has no such
      checkpoint, or not a whole one.
  """
  path = user_path(path, 'path', others=['hf:'])
  workdir = pathlib.Path(path)
  if is_weights(path):
    return hugging_face.open_model(path).model
  run = read_run(workdir)
  task = task_of(run)
  if task and (old_groups(workdir) or not (workdir / 'checkpoints').exists()):
    workdir = _best_seed(workdir, task)
  tokenizer = tokenizers.load(workdir / 'tokenizer')
  cfg = GPTConfig.of(run.model, tokenizer.vocab)
  execution = Execution.of(run.model, jax.local_devices()[:1])
  if not task:
    like = jax.eval_shape(lambda: init_params(cfg, 0))
    averaged = bool(run.optim.ema)
    params, step = _restored(workdir, checkpoint_step, like, averaged, report)
    ends = facts.other_ends(facts.kept(workdir), tokenizer.eot, cfg.vocab)
    return LanguageModel(params, GPT(cfg, execution), tokenizer, step, ends)
  cfg = grown(cfg)
  like = jax.eval_shape(
    lambda: {
      'gpt': init_params(cfg, 0),
      'clf': new_head(task, cfg.D, jax.random.key(0)),
    }
  )
  tree, step = _restored(workdir, checkpoint_step, like, False, report)
  gpt = GPT(cfg, execution)
  return Classifier(tree['gpt'], gpt, tokenizer, step, clf=tree['clf'], task=task)


def shapes(path: str | pathlib.Path, device: jax.Device) -> LanguageModel:
  """Returns the language model of a workdir with the shapes of its parameters alone.

  Args:
    device: where they would be; it may be absent.

  Raises:
    UserError: as `load`, but for checkpoints, which are not read; or it was fine-tuned.
  """
  workdir = pathlib.Path(user_path(path, 'path', workdir=True))
  run = read_run(workdir)
  if run.is_finetuning:
    raise UserError(
      f'{workdir} was fine-tuned on {run.task.name}, and only language models are '
      'compiled for absent devices; name the workdir that it started from'
    )
  cfg, layout = architecture(workdir), Layout((device,))
  params = layout.placed(jax.eval_shape(lambda: init_params(cfg, 0)))
  tokenizer = tokenizers.load(workdir / 'tokenizer')
  ends = facts.other_ends(facts.kept(workdir), tokenizer.eot, cfg.vocab)
  gpt = GPT(cfg, layout.execution(run.model))
  return LanguageModel(params, gpt, tokenizer, ends=ends)


def is_weights(path: str | pathlib.Path) -> bool:
  """Returns whether a path names weights of others, and not a workdir."""
  workdir = (pathlib.Path(path) / 'run.json').exists()
  return not workdir and hugging_face.names_weights(path)


def architecture(path: str | pathlib.Path) -> GPTConfig:
  """Returns the architecture of the model that `load` opens, without its weights.

  Raises:
    UserError: `path` is no workdir and no folder with Hugging Face's config.json.
  """
  if is_weights(path):
    return hugging_face.architecture(path)
  run = read_run(path)
  cfg = GPTConfig.of(run.model, field(read_about(path), 'vocab', int, path))
  return grown(cfg) if run.is_finetuning else cfg


def _best_seed(workdir: pathlib.Path, task: Task) -> pathlib.Path:
  """Returns the folder of the seed that is best on dev, the first of equals."""
  judged = [f for f in seed_folders(workdir) if best_line(f, task)]
  if not judged:
    raise UserError(f'{workdir} has no model yet: no epoch is done; train it first')
  return max(judged, key=lambda folder: best_line(folder, task)[task.metrics[0]])


def _restored(
  workdir: pathlib.Path,
  wanted: str | int,
  like: dict,
  averaged: bool,
  report: Callable[[str], None],
) -> tuple[dict, int]:
  """Returns the parameters of a checkpoint, and the number of its updates."""
  folder = workdir / 'checkpoints'
  losses = saved.losses(folder)
  if not losses:
    raise UserError(f'{workdir} has no checkpoint yet; train it first')
  read = partial(saved.restore_params, folder, like=like, averaged=averaged)
  orders = {'latest': sorted(losses, reverse=True), 'best': saved.best_first(losses)}
  if wanted in orders:
    picked = saved.first_whole(folder, orders[wanted], read, report, 'using')
    # A fine-tuned seed's record is of its states, and these are its best models.
    later = '' if 'clf' in like else saved.missing(folder, max(losses))
    if later:
      report(f'checkpoint {later} is not there, using {picked.step}')
    return picked.value, picked.step
  step = int(wanted) if str(wanted).isdecimal() else -1
  if step not in losses:
    raise UserError(
      f'{workdir} has no checkpoint {wanted!r}; there are best, latest and '
      f'{", ".join(map(str, sorted(losses)))}'
    )
  try:
    return read(step), step
  except saved.Damaged as error:
    others = [n for n in manifest.whole(folder) if n != step]
    raise UserError(
      f'{error}; choose another: {", ".join(map(str, others)) or "there is none"}'
    ) from error
