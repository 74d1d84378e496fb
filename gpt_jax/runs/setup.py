"""Sets a run up: its data, model and checkpoints, in a workdir that is locked."""

import contextlib
import dataclasses
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from gpt_jax import config, tokenizers
from gpt_jax.config import UserError
from gpt_jax.config.length import stages_of
from gpt_jax.data import fidelity, prepare, token_files, windows
from gpt_jax.evaluation import likelihood
from gpt_jax.inference import hugging_face
from gpt_jax.inference.language_model import LanguageModel
from gpt_jax.model.gpt import GPT, init_params
from gpt_jax.model.gpt_config import GPTConfig
from gpt_jax.runs import cost, schedule, shape
from gpt_jax.runs.load import architecture, is_weights, load
from gpt_jax.runs.workdir import (
  alone,
  check_same_run,
  read_about,
  read_run,
  write_run_json,
)
from gpt_jax.training import (
  checkpoint,
  checksums,
  processes,
  sharding,
  step,
  xla_flags,
)
from gpt_jax.training.objective import LanguageModeling
from gpt_jax.training.reduction import Schedule
from gpt_jax.training.throughput import memory_limit
from gpt_jax.weights import facts


class Prepared(NamedTuple):
  """The tokens of a run."""

  tokenizer: tokenizers.Tokenizer
  train: token_files.TokenFile
  valid: token_files.TokenFile

  def digests(self) -> dict[str, Any]:
    """Returns checksums of the tokens, the tokenizer, the text and its files.

    With them comes what the tokenizer made of the held-out text.
    """
    return {
      'train': self.train.digest,
      'valid': self.valid.digest,
      'tokenizer': self.train.tokenizer,
      'text': self.train.text,
      'valid_text': self.valid.text,
      'files': self.train.files | self.valid.files,
      'fidelity': self.valid.fidelity,
    }

  @property
  def lost(self) -> str:
    """How the tokenizer changes the held-out text, '' if it does not."""
    return fidelity.lost(self.valid.fidelity, self.tokenizer.kind)


def prepared(
  run: config.Run, workdir: pathlib.Path, report: Callable[[str], None] = print
) -> Prepared:
  """Returns the tokenizer and tokens of a run, prepared first if they are missing.

  With `init_from` the tokenizer is copied from there, and what a Hugging Face folder
  says besides. With data.tokens the tokenizer is copied into the workdir too, which so
  stays complete.
  """
  if not run.data.source:
    raise UserError(
      f"data.source='' names no text for {workdir}; set --config.data.source. If these "
      'are imported weights, train and evaluate in a new workdir that starts from '
      f'them: --config.init_from={workdir}'
    )
  folder = pathlib.Path(run.data.tokens or workdir)
  own = pathlib.Path(workdir) / 'tokenizer'
  original = None
  if run.init_from:
    if not own.exists():
      _copy_descriptions(run, pathlib.Path(workdir))
    original = own if own.exists() else pathlib.Path(run.init_from) / 'tokenizer'
  prepare.prepare(run.data, folder, report=report, tokenizer=original)
  source = folder / 'tokenizer'
  if not own.exists():
    staged = own.with_name(f'.tokenizer.{os.getpid()}.tmp')
    shutil.copytree(source, staged, dirs_exist_ok=True)
    staged.rename(own)
  files = [
    token_files.open_tokens(folder / 'tokens' / part) for part in ('train', 'valid')
  ]
  digest = tokenizers.digest(own)
  if any(file.tokenizer != digest for file in files):
    raise UserError(
      f'{own} is not the tokenizer that made {folder / "tokens"}; remove the one that '
      'does not belong there'
    )
  return Prepared(tokenizers.load(own), *files)


def _copy_descriptions(run: config.Run, workdir: pathlib.Path) -> None:
  """Takes from `init_from` what its folder says, and its tokenizer if it has no run.

  Raises:
    UserError: `init_from` is neither a workdir nor a folder of weights, or has no
      tokenizer.
  """
  own = workdir / 'tokenizer'
  shape.check_source(run.init_from)
  if not is_weights(run.init_from):
    facts.keep(facts.kept(run.init_from), workdir)
    return
  folder = hugging_face.find(run.init_from)
  tokenizer = hugging_face.open_tokenizer(folder, cleaning=run.data.cleaning)
  if not tokenizer:
    raise UserError(
      f'init_from={run.init_from} has no tokenizer; import it with one, and start from '
      f'the workdir: python launch.py import --source={run.init_from} --tokenizer=... '
      '--workdir=...'
    )
  facts.keep(facts.read(folder), workdir)
  staged = own.with_name(f'.tokenizer.{os.getpid()}.tmp')
  tokenizer.save(staged)
  staged.rename(own)


@dataclasses.dataclass(frozen=True)
class RunContext:
  """A pre-training run with its data, model and checkpoints, ready to be trained.

  Attributes:
    places: the number of updates done -> where the next batch's rows of this process
      are.
  """

  run: config.Run
  workdir: pathlib.Path
  layout: sharding.Layout
  objective: LanguageModeling
  data: Prepared
  places: Callable[[int], windows.Rows]
  checkpoints: checkpoint.Checkpoints
  argv: Sequence[str]
  overrides: dict[str, Any]

  @property
  def cfg(self) -> GPTConfig:
    """The architecture of the model."""
    return self.objective.gpt.config

  def rows(self, done: int) -> windows.Batch:
    """Returns the batch after so many updates, numpy rows of this process."""
    starts, numbers = self.places(done)
    return windows.windows(
      self.data.train.ids,
      starts,
      self.cfg.T,
      numbers,
      self.data.train.starts if self.run.model.documents == 'apart' else None,
    )

  def make(self) -> step.State:
    """Returns the state before the first update, of new parameters."""
    return step.new_state(self.run, self.cfg)

  def start(self, report: Callable[[str], None], together: int = 1) -> step.State:
    """Returns the latest checkpoint's state, else `init_from`'s weights, else new ones.

    Where updates are left to do, run.json is written; `together` is for that.
    """
    run, source = self.run, None
    like = self.layout.state_shapes(self.make)
    state = self.checkpoints.restore_newest(like, report)
    if state is not None:
      report(f'going on from the checkpoint of update {int(state.step)}')
    else:
      state, source = self.begin(report)
    done = int(state.step)
    if done and (self.workdir / 'run.json').exists():
      before = read_run(self.workdir)
      if rate := schedule.continued(before, run, done):
        report(rate)
    if done < run.steps and processes.first_process():
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

  def begin(self, report: Callable[[str], None]) -> tuple[step.State, dict | None]:
    """Returns the state before the first update, and `init_from`'s parameters."""
    if not self.run.init_from:
      return self.layout.new_state(self.make), None
    params, source = _from_model(self.run, self.cfg, report)
    state = step.init_state(self.run, params, self.cfg.width)
    return self.layout.place(state), source

  def eval_step(self) -> Callable:
    """Returns the compiled step of `held_out`."""
    params = self.layout.state_shapes(self.make).params
    return self.layout.eval_step(self.objective, params)

  def held_out(self, eval_step: Callable, params: dict) -> dict[str, float]:
    """Returns the held-out metrics of parameters during the run."""
    return held_out_loss(
      eval_step, params, self.cfg, self.data.valid, self.run, self.layout
    )

  def model(self, params: dict) -> LanguageModel:
    """Returns parameters as a model to use; all processes must call it."""
    one = sharding.Layout(self.layout.devices[:1])
    gpt = GPT(self.cfg, one.execution(self.run.model))
    tokenizer = self.data.tokenizer
    ends = facts.other_ends(facts.kept(self.workdir), tokenizer.eot, self.cfg.vocab)
    params = self.layout.gathered(params)
    return LanguageModel(params, gpt, tokenizer, ends=ends)


@contextlib.contextmanager
def ready(
  run: config.Run,
  workdir: str | pathlib.Path,
  layout: sharding.Layout,
  *,
  argv: Sequence[str] = (),
  overrides: dict[str, Any] | None = None,
  report: Callable[[str], None] = print,
) -> Iterator[RunContext]:
  """Yields a run ready to be trained, its workdir locked.

  Raises:
    UserError: the config breaks a rule, or the workdir is another run's or is in use.
  """
  config.check(run, layout.parts)
  workdir = pathlib.Path(workdir)
  workdir.mkdir(parents=True, exist_ok=True)
  with alone(workdir) if processes.first_process() else contextlib.nullcontext():
    with processes.first_process_first('prepared'):
      check_same_run(run, workdir)
      if run.init_from and not (workdir / 'run.json').exists():
        _check_early(run)
      data = prepared(run, workdir, report)
      cfg = GPTConfig.of(run.model, data.tokenizer.vocab)
      if cfg.vocab < data.tokenizer.vocab:
        raise UserError(
          f'model.vocab={cfg.vocab} must be at least {data.tokenizer.vocab}, the '
          "tokenizer's entries; 0 takes as many as it has"
        )
      layout.check(cfg)
      run = schedule.resolved(run, len(data.train.ids) - 1, layout.parts)
    limit = _memory_limit(layout)
    layout, reduction = cost.scheduled(run, cfg, layout, limit)
    places = windows.training_rows(
      len(data.train.ids),
      T=cfg.T,
      sizes=stages_of(run),
      seed=run.seed,
      order=run.data.windows,
      part=lambda number: layout.rows(number, run.accumulate),
    )
    for line in _described(run, cfg, layout, data, reduction):
      report(line)
    objective = LanguageModeling.of(run, GPT(cfg, layout.execution(run.model)))
    with processes.first_process_first('opened'):
      checkpoints = checkpoint.Checkpoints(
        workdir / 'checkpoints',
        run.keep,
        run=config.identity(run),
        branch=schedule.cooldown_begins(run),
      )
    try:
      yield RunContext(
        run,
        workdir,
        layout,
        objective,
        data,
        places,
        checkpoints,
        argv,
        overrides or {},
      )
    finally:
      checkpoints.close()


def _memory_limit(layout: sharding.Layout) -> int:
  """Returns the bytes of memory of the device that has least; 0: it does not say."""
  limit = memory_limit(layout.devices)
  if not processes.several_processes():
    return limit
  # In MiB, as the largest of negative numbers of 32 bits.
  return -processes.anywhere(-(limit >> 20)) << 20


def _described(
  run: config.Run,
  cfg: GPTConfig,
  layout: sharding.Layout,
  data: Prepared,
  reduction: Schedule | None,
) -> Iterator[str]:
  """Yields what there is to say of a run before it begins."""
  yield cost.plan(
    run,
    cfg,
    layout,
    tokens=len(data.train.ids) - 1,
    held_out=len(data.valid.ids) - 1,
    bytes_per_token=_bytes_per_token(data.train),
  )
  yield from schedule.batch_lines(run)
  yield schedule.rate_line(run)
  if reduction:
    yield f'gradients {reduction}'
  if flags := xla_flags.said(os.environ, layout.devices[0].platform):
    yield flags
  if data.lost:
    yield fidelity.warning(data.lost)


def _check_early(run: config.Run) -> None:
  """Raises UserError where `init_from` is of another shape, before text is prepared."""
  try:
    source = architecture(run.init_from)
  except UserError:
    return  # OpenAI's own files, or what `prepared` refuses
  shape.check(run, source, GPTConfig.of(run.model, 0))


def _from_model(
  run: config.Run, cfg: GPTConfig, report: Callable[[str], None]
) -> tuple[dict, dict]:
  """Returns the parameters to start from, and those of `init_from` unchanged.

  Raises:
    UserError: `init_from` is a model of another architecture.
  """
  source = load(run.init_from)
  shape.check(run, source.config, cfg)
  report(f'starting from the weights of {run.init_from}, update {source.step}')
  params = dict(source.params)
  if source.config.vocab < cfg.vocab:
    # Entries that are new to the model begin like any others (GPT-1, section 3.2).
    new = init_params(cfg, run.seed)
    known = source.config.vocab
    for name in new.keys() & {'wte', 'lm_head'}:
      params[name] = new[name].at[:known].set(params[name][:known])
    report(f'{cfg.vocab - known} entries are new to its vocabulary')
  return params, source.params


def _source_digest(source: dict | None, workdir: pathlib.Path) -> dict[str, str]:
  """Returns the checksum of the weights a run started from; {} for new weights."""
  if source is not None:
    return {'source': checksums.digest(source)}
  if not (workdir / 'run.json').exists():
    return {}
  before = read_about(workdir).get('data', {})
  return {name: before[name] for name in ('source',) if name in before}


def held_out_loss(
  eval_step: Callable,
  params: dict,
  cfg: GPTConfig,
  file: token_files.TokenFile,
  run: config.Run,
  layout: sharding.Layout,
) -> dict[str, float]:
  """Returns the metrics of parameters on held-out tokens."""
  rows = windows.held_out_batches(
    file.ids,
    T=cfg.T,
    rows=run.eval_batch * layout.parts,
    limit=run.eval_tokens,
    part=layout.rows,
    documents=file.starts if run.model.documents == 'apart' else None,
  )
  nll, count = likelihood.held_out_nll(eval_step, params, map(layout.put, rows))
  return likelihood.held_out_metrics(nll, count, _bytes_per_token(file))


def _bytes_per_token(file: token_files.TokenFile) -> float:
  """Returns the UTF-8 bytes of the text for each target of its token file."""
  return file.bytes / (len(file.ids) - 1)


def samples(model: LanguageModel, run: config.Run) -> str:
  """Returns the continuations of the run's fixed prompts, always with one seed."""
  prompts = [model.prompt_ids(prompt)[-model.config.T :] for prompt in run.prompts]
  generations = model.generate_ids(
    prompts, max_new_tokens=run.sample_tokens, temperature=0.8, seed=0
  )
  return '\n'.join(
    f'[{prompt}]{generation.text}'
    for prompt, generation in zip(run.prompts, generations, strict=True)
  )
