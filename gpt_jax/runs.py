"""Puts a run together: data, model, step, loop, workdir."""

import contextlib
import json
import math
import pathlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from gpt_jax import config, describe, few_shot, finetune, hugging_face, tokenizers
from gpt_jax.classifier import Classifier
from gpt_jax.config import UserError
from gpt_jax.data import batches, tokens
from gpt_jax.data.task_inputs import NEW_TOKENS
from gpt_jax.evaluation import ngram, score
from gpt_jax.files import write_whole
from gpt_jax.language_model import LanguageModel
from gpt_jax.model.gpt import Shape, init_params
from gpt_jax.training import checkpoint, loop, parallel, record, step
from gpt_jax.training.meter import Meter
from gpt_jax.workdir import (
  Prepared,
  alone,
  check_same_run,
  load,
  prepared,
  read_about,
  read_run,
  write_run_json,
)

# Fields of a shape that two models that compute the same may differ in.
_NOT_THE_FUNCTION = 'vocab scaled_init dropout_wte dtype remat flash scan'.split()


class Ready(NamedTuple):
  """A run with its data, model and checkpoints, ready to be trained.

  Attributes:
    run: its config.
    workdir: its folder.
    layout: how it is spread over devices.
    shape: of its model.
    data: its tokens.
    rows: the number of updates done -> the next batch, numpy rows of this process.
    saved: its checkpoints.
    argv: the command, for run.json.
    overrides: the fields that it set, likewise.
  """

  run: config.Run
  workdir: pathlib.Path
  layout: parallel.Layout
  shape: Shape
  data: Prepared
  rows: Callable[[int], batches.Batch]
  saved: checkpoint.Checkpoints
  argv: Sequence[str]
  overrides: dict[str, Any]

  def start(self, report: Callable[[str], None], together: int = 1) -> step.State:
    """Returns the latest checkpoint's state, else that of the beginning.

    Where updates are left to do, run.json is written; `together` is for that.
    """
    run, shape = self.run, self.shape
    state, source = _start(run, shape, self.saved, self.layout, report)
    done = int(state.step)
    if done < run.steps and parallel.first_process():
      write_run_json(
        run,
        self.workdir,
        vocab=self.data.tokenizer.vocab,
        data=self.data.digests() | _source_digest(source, self.workdir),
        devices=self.layout.devices,
        argv=self.argv,
        overrides=self.overrides,
        start=done,
        together=together,
      )
    return state

  def held_out(self, eval_step: Callable, params: dict) -> dict[str, float]:
    """Returns the held-out metrics of parameters during the run."""
    return _held_out(
      eval_step, params, self.shape, self.data.valid, self.run, self.layout
    )

  def model(self, params: dict) -> LanguageModel:
    """Returns parameters as a model to use; all processes must ask."""
    return LanguageModel(self.layout.gathered(params), self.shape, self.data.tokenizer)


@contextlib.contextmanager
def ready(
  run: config.Run,
  workdir: str | pathlib.Path,
  layout: parallel.Layout,
  *,
  argv: Sequence[str] = (),
  overrides: dict[str, Any] | None = None,
  report: Callable[[str], None] = print,
) -> Iterator[Ready]:
  """Gives a run ready to be trained, its workdir locked.

  Args:
    run: what to train.
    workdir: where.
    layout: over devices.
    argv: the command, for run.json.
    overrides: the fields that it set, likewise.
    report: takes lines for the user.

  Raises:
    UserError: the config breaks a rule, or the workdir is another run's or is in use.
  """
  config.check(run, layout.parts)
  writes = parallel.first_process()
  workdir = pathlib.Path(workdir)
  workdir.mkdir(parents=True, exist_ok=True)
  with alone(workdir) if writes else contextlib.nullcontext():
    with parallel.first_process_first('prepared'):
      check_same_run(run, workdir)
      data = prepared(run, workdir, report)
      shape = Shape.of(run.model, data.tokenizer.vocab)
      if shape.vocab < data.tokenizer.vocab:
        raise UserError(
          f'model.vocab={shape.vocab} must be at least {data.tokenizer.vocab}, the '
          "tokenizer's entries; 0 takes as many as it has"
        )
      layout.check(shape)
    sizes = batches.stages(run.batch, run.batch_start, run.batch_ramp, shape.T)
    rows = batches.training_batches(
      data.train.ids,
      T=shape.T,
      sizes=sizes,
      seed=run.seed,
      order=run.data.windows,
      part=lambda number: layout.rows(number, run.accumulate),
    )
    report(
      describe.plan(
        run,
        shape,
        layout,
        tokens=len(data.train.ids) - 1,
        held_out=len(data.valid.ids) - 1,
        bytes_per_token=_bytes_per_token(data.train),
      )
    )

    saved = checkpoint.Checkpoints(workdir / 'checkpoints', run.keep)
    try:
      yield Ready(run, workdir, layout, shape, data, rows, saved, argv, overrides or {})
    finally:
      saved.close()


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


def _start(
  run: config.Run,
  shape: Shape,
  saved: checkpoint.Checkpoints,
  layout: parallel.Layout,
  report: Callable[[str], None],
) -> tuple[step.State, dict | None]:
  """Returns the latest checkpoint, else `init_from`'s weights, else new ones.

  And the parameters of `init_from` as they are there, None where they were not read.
  """
  latest = saved.latest()
  if latest is not None:
    report(f'going on from the checkpoint of update {latest}')
    return saved.restore(latest, layout.state_shapes(run, shape)), None
  if not run.init_from:
    return layout.new_state(run, shape), None
  source = load(run.init_from)
  theirs, ours = vars(source.shape), vars(shape)
  differing = [
    f'model.{name}: {theirs[name]} there, {ours[name]} here'
    for name in ours
    if theirs[name] != ours[name] and name not in _NOT_THE_FUNCTION
  ]
  if source.shape.vocab > shape.vocab:
    differing.append(f'model.vocab: {theirs["vocab"]} there, {ours["vocab"]} here')
  if differing:
    raise UserError(
      f'init_from={run.init_from} is a model of another shape:\n' + '\n'.join(differing)
    )
  report(f'starting from the weights of {run.init_from}, update {source.step}')
  params = dict(source.params)
  if source.shape.vocab < shape.vocab:
    # Entries that are new to the model begin like any others (GPT-1, section 3.2).
    new = init_params(shape, run.seed)
    known = source.shape.vocab
    for name in new.keys() & {'wte', 'lm_head'}:
      params[name] = new[name].at[:known].set(params[name][:known])
    report(f'{shape.vocab - known} entries are new to its vocabulary')
  return layout.place(step.init_state(run, shape, params)), source.params


def _source_digest(source: dict | None, workdir: pathlib.Path) -> dict[str, str]:
  """Returns the checksum of the weights a run started from, now or once before.

  Empty where it started from new ones.
  """
  if source is not None:
    return {'source': few_shot.parameters_digest(source)}
  if not (workdir / 'run.json').exists():
    return {}
  before = read_about(workdir)['data']
  return {name: before[name] for name in ('source',) if name in before}


def _held_out(eval_step, params, shape, file, run, layout) -> dict[str, float]:
  """Returns the held-out metrics of parameters during a run."""
  rows = batches.held_out_batches(
    file.ids,
    T=shape.T,
    rows=run.eval_batch * layout.parts,
    limit=run.eval_tokens,
    part=layout.rows,
  )
  nll, count = score.held_out_nll(eval_step, params, map(layout.put, rows))
  return score.held_out_metrics(nll, count, _bytes_per_token(file))


def _bytes_per_token(file: tokens.TokenFile) -> float:
  """Returns the UTF-8 bytes of the text for each target of its token file."""
  return file.bytes / (len(file.ids) - 1)


def samples(model: LanguageModel, run: config.Run) -> str:
  """Returns the continuations of the run's fixed prompts, always with one seed."""
  prompts = [_last_tokens(model, prompt) for prompt in run.prompts]
  made = model.generate_ids(
    prompts, max_new_tokens=run.sample_tokens, temperature=0.8, seed=0
  )
  return '\n'.join(
    f'[{prompt}]{generation.text}'
    for prompt, generation in zip(run.prompts, made, strict=True)
  )


def _last_tokens(model: LanguageModel, prompt: str) -> list[int]:
  return model.prompt_ids(prompt)[-model.shape.T :]


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
) -> dict[str, float]:
  """Returns the metrics of a workdir's model on all of its held-out text.

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
  metrics = _held_out(eval_step, model.params, model.shape, data.valid, run, layout)
  return {'step': model.step, **metrics}


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
