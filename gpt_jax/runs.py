"""Puts a run together: data, model, step, loop, workdir."""

import json
import math
import pathlib
import shutil
from collections.abc import Callable, Sequence
from typing import Any

from gpt_jax import config, describe, few_shot, finetune, hugging_face, tokenizers
from gpt_jax.classifier import Classifier
from gpt_jax.config import UserError
from gpt_jax.data.task_inputs import NEW_TOKENS
from gpt_jax.evaluation import ngram
from gpt_jax.files import write_whole
from gpt_jax.ready import held_out_loss, ready, samples
from gpt_jax.training import checkpoint, loop, parallel, record, step
from gpt_jax.training.meter import Meter
from gpt_jax.workdir import alone, load, prepared, read_run


def train(
  run: config.Run,
  workdir: str | pathlib.Path,
  *,
  argv: Sequence[str] = (),
  overrides: dict[str, Any] | None = None,
  profile: tuple[int, int] | None = None,
  report: Callable[[str], None] = print,
) -> None:
  """Trains a run to its end, or goes on where its workdir's last checkpoint stands.

  Args:
    run: what to train.
    workdir: where.
    argv: the command, for run.json.
    overrides: the fields that it set, likewise.
    profile: see `loop.train`.
    report: takes lines for the user.

  Raises:
    UserError: the config breaks a rule, the workdir is another run's or is in use, or
      training can't go on.
    loop.Interrupted: asked to stop; the state reached is saved.
  """
  if run.task.name:
    finetune.train(
      run, workdir, argv=argv, overrides=overrides, profile=profile, report=report
    )
    return
  writes = parallel.first_process()
  report = report if writes else _say_nothing
  layout = parallel.Layout.of(run)
  with ready(
    run, workdir, layout, argv=argv, overrides=overrides, report=report
  ) as here:
    shape, saved = here.shape, here.saved
    state = here.start(report)
    done = int(state.step)
    if done >= run.steps:
      report(f'finished: {done} updates are done (steps={run.steps}). {_best(saved)}')
      return
    eval_step = layout.eval_step(run, shape)
    like = layout.state_shapes(run, shape)
    asked = few_shot.during(run.exams)

    def evaluate(params, step):
      found = here.held_out(eval_step, params)
      if not _examines(run, step):
        return found
      model = here.model(params)
      return found | (asked(model) if writes else {})

    def draw(params):
      model = here.model(params)
      return samples(model, run) if writes else ''

    written = record.Record(here.workdir, done) if writes else None
    meter = Meter(
      flops_per_token=sum(describe.flops_per_token(shape).values()),
      devices=layout.devices,
      dtype=shape.dtype,
    )
    try:
      loop.train(
        run,
        state,
        update=layout.train_step(run, shape),
        batch=lambda step: layout.put(here.rows(step), run.accumulate),
        evaluate=evaluate,
        sample=draw,
        record=written,
        meter=meter,
        checkpoints=saved,
        restore=lambda step: saved.restore(step, like),
        anywhere=parallel.anywhere if parallel.several_processes() else None,
        profile=profile,
        profile_folder=str(here.workdir / 'profile'),
      )
    finally:
      if written:
        written.close()
    if writes:
      report(meter.summary())
    report(f'finished: {run.steps} updates. {_best(saved)}')


def _examines(run: config.Run, step: int) -> bool:
  """Returns whether exams are due after so many updates."""
  every = run.exams.every
  due = step == run.steps or (every and step % every == 0)
  return bool(run.exams.tasks and due)


def _say_nothing(text: str) -> None:
  pass


def _best(saved: checkpoint.Checkpoints) -> str:
  return f'The best checkpoint is that of update {saved.best()}.'


def import_model(source: str, workdir: str | pathlib.Path, tokenizer: str = '') -> str:
  """Makes a workdir of other people's weights; returns what there is to say of it.

  Args:
    source: see `hugging_face.find`.
    workdir: is made; run.json comes last, so that half an import is no workdir.
    tokenizer: path of one, where it is not among the weights.

  Raises:
    UserError: `workdir` holds a run, or the source can't be read.
  """
  workdir = pathlib.Path(workdir)
  if (workdir / 'run.json').exists():
    raise UserError(f'workdir={workdir} holds a run; choose another workdir')
  found, model = hugging_face.open_model(source, tokenizer)
  run = config.Run(steps=0, model=found, data=config.Data(source=''))
  run.optim.name = 'sgd'  # no optimizer state
  workdir.mkdir(parents=True, exist_ok=True)
  with alone(workdir):
    for part in ('tokenizer', 'checkpoints'):
      shutil.rmtree(workdir / part, ignore_errors=True)
    model.tokenizer.save(workdir / 'tokenizer')
    saved = checkpoint.Checkpoints(workdir / 'checkpoints', run.keep)
    try:
      saved.save(step.init_state(run, model.shape, model.params), None)
      saved.wait()
    finally:
      saved.close()
    about = {
      'config': config.flat(run),
      'imported': str(source),
      'vocab': model.shape.vocab,
      'tokenizer': tokenizers.digest(workdir / 'tokenizer'),
    }
    write_whole(workdir / 'run.json', json.dumps(about, indent=1) + '\n')
  number = describe.parameter_count(model.shape)
  return (
    f'imported {source} into {workdir}: {number:,} parameters, tokenizer '
    f'{model.tokenizer.kind} of {model.tokenizer.vocab:,} entries'
  )


def export_model(
  workdir: str | pathlib.Path, checkpoint_step: str | int, target: str | pathlib.Path
) -> str:
  """Writes a workdir's model as a Hugging Face folder; returns what was written."""
  model = load(workdir, checkpoint_step)
  said = hugging_face.export(model, read_run(workdir).model.dropout, target)
  if isinstance(model, Classifier):
    first = model.shape.vocab - NEW_TOKENS
    said += (
      f'\nleft out: the head for {model.task.name}; its start, delimiter and extract '
      f'tokens are the ids {first}, {first + 1} and {first + 2}'
    )
  return said


def evaluate(
  workdir: str | pathlib.Path,
  checkpoint_step: str | int = 'best',
  report: Callable[[str], None] = print,
  *,
  held_out: str | pathlib.Path = '',
  int8: bool = False,
) -> dict[str, Any]:
  """Returns the metrics of a workdir's model on all of its held-out text.

  Beside them are step, of the checkpoint, and text_sha256.

  Args:
    workdir: of the model.
    checkpoint_step: 'best', 'latest' or a number of updates.
    report: is told of the preparation of text.
    held_out: another workdir, whose held-out text to take instead.
    int8: the model with its linear layers' weights in 8 bits.

  Raises:
    UserError: the other workdir has another tokenizer.
  """
  run, model = read_run(workdir), load(workdir, checkpoint_step)
  model = model.int8() if int8 else model
  layout = parallel.Layout.of(config.Run())
  folder = pathlib.Path(held_out or workdir)
  data = prepared(read_run(folder), folder, report)
  if data.valid.tokenizer != tokenizers.digest(pathlib.Path(workdir) / 'tokenizer'):
    raise UserError(
      f'--held_out={held_out} has another tokenizer than {workdir}; name a run that '
      f'started from it (--config.init_from={workdir}), or the one that it started from'
    )
  run.eval_tokens = 0
  eval_step = layout.eval_step(run, model.shape)
  metrics = held_out_loss(eval_step, model.params, model.shape, data.valid, run, layout)
  return {'step': model.step, 'text_sha256': data.valid.text, **metrics}


def baselines(
  workdir: str | pathlib.Path, report: Callable[[str], None] = print
) -> dict[str, float]:
  """Returns bits per byte of the held-out text under models that are no GPT.

  A Kneser-Ney 5-gram over the same tokens, `xz -9` of the held-out text alone, and
  `xz -9` of it after the training text.
  """
  data = prepared(read_run(workdir), pathlib.Path(workdir), report)
  nll = ngram.kneser_ney_nll(data.train.ids, data.valid.ids, data.tokenizer.vocab)
  train, valid = (
    data.tokenizer.decode(file.ids.tolist()).encode()
    for file in (data.train, data.valid)
  )
  return {
    '5-gram (Kneser-Ney, same tokens)': nll / math.log(2) / data.valid.bytes,
    'xz -9 (held-out text alone)': ngram.xz_bits_per_byte(valid),
    'xz -9 (after the training text)': ngram.xz_bits_per_byte(valid, train),
  }
