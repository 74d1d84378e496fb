"""Opens a trained model, from a workdir or a folder of weights."""

import pathlib

import jax

from gpt_jax import tokenizers
from gpt_jax.config import UserError
from gpt_jax.files import user_path
from gpt_jax.inference import hugging_face
from gpt_jax.inference.classifier import Classifier
from gpt_jax.inference.language_model import LanguageModel
from gpt_jax.model.gpt import GPT, init_params
from gpt_jax.model.gpt_config import Execution, GPTConfig
from gpt_jax.model.heads import new_head
from gpt_jax.runs.workdir import (
  best_line,
  old_groups,
  read_about,
  read_run,
  seed_folders,
)
from gpt_jax.tasks.labelled_table import Task, task_of
from gpt_jax.training import checkpoint
from gpt_jax.training.transfer import grown


def load(
  path: str | pathlib.Path, checkpoint_step: str | int = 'best'
) -> LanguageModel:
  """Returns the `LanguageModel` in a workdir or a folder of weights.

  A workdir that was fine-tuned on a task gives a `Classifier`, the best seed's; the
  others are in the folders seed_N.

  Args:
    path: a workdir, a Hugging Face folder, or hf:NAME@REVISION (see `hugging_face`).
    checkpoint_step: 'best' (lowest held-out loss; for a task, the epoch with the best
      metric), 'latest', or a number of updates.

  Raises:
    UserError: `path` is neither, or no path (`files.user_path`), or has no such
      checkpoint.
  """
  path = user_path(path, 'path', others=['hf:'])
  workdir = pathlib.Path(path)
  if not (workdir / 'run.json').exists() and hugging_face.names_weights(path):
    return hugging_face.open_model(path)[1]
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
    params, step = _restored(workdir, checkpoint_step, like, averaged)
    return LanguageModel(params, GPT(cfg, execution), tokenizer, step)
  cfg = grown(cfg)
  like = jax.eval_shape(
    lambda: {
      'gpt': init_params(cfg, 0),
      'clf': new_head(task, cfg.D, jax.random.key(0)),
    }
  )
  tree, step = _restored(workdir, checkpoint_step, like, averaged=False)
  gpt = GPT(cfg, execution)
  return Classifier(tree['gpt'], gpt, tokenizer, step, tree['clf'], task)


def architecture(path: str | pathlib.Path) -> GPTConfig:
  """Returns the architecture of the model that `load` opens, without its weights.

  Raises:
    UserError: `path` is no workdir and no folder with Hugging Face's config.json.
  """
  workdir = (pathlib.Path(path) / 'run.json').exists()
  if not workdir and hugging_face.names_weights(path):
    return hugging_face.architecture(path)
  run = read_run(path)
  cfg = GPTConfig.of(run.model, read_about(path)['vocab'])
  return grown(cfg) if run.is_finetuning else cfg


def _best_seed(workdir: pathlib.Path, task: Task) -> pathlib.Path:
  """Returns the folder of the seed that is best on dev, the first of equals."""
  judged = [f for f in seed_folders(workdir) if best_line(f, task)]
  if not judged:
    raise UserError(f'{workdir} has no model yet: no epoch is done; train it first')
  return max(judged, key=lambda folder: best_line(folder, task)[task.metrics[0]])


def _restored(
  workdir: pathlib.Path, wanted: str | int, like: dict, averaged: bool
) -> tuple[dict, int]:
  """Returns the parameters of a checkpoint, and the number of its updates."""
  if not (workdir / 'checkpoints').is_dir():
    raise UserError(f'{workdir} has no checkpoint yet; train it first')
  saved = checkpoint.Checkpoints(workdir / 'checkpoints')  # to read: keeps all
  try:
    kept = saved.steps()
    step = {'best': saved.best(), 'latest': saved.latest()}.get(wanted, wanted)
    if not kept or (isinstance(step, str) and not step.isdigit()):
      step = None
    if step is None or int(step) not in kept:
      raise UserError(
        f'{workdir} has no checkpoint {wanted!r}; there are best, latest and '
        f'{", ".join(map(str, kept)) or "none"}'
      )
    return saved.restore_params(int(step), like, averaged=averaged), int(step)
  finally:
    saved.close()
