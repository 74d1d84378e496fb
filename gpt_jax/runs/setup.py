"""Sets a run up: its data, model and checkpoints, in a workdir that is locked."""

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from gpt_jax import config
from gpt_jax.config import UserError, mixture
from gpt_jax.config.length import stages_of
from gpt_jax.data import fidelity, token_files, windows
from gpt_jax.evaluation import likelihood
from gpt_jax.inference.language_model import LanguageModel
from gpt_jax.model.gpt import GPT, init_params
from gpt_jax.model.gpt_config import GPTConfig
from gpt_jax.runs import cost, cost_tables, rows, schedule, shape, tokens
from gpt_jax.runs.example_rows import Examples
from gpt_jax.runs.load import architecture, load
from gpt_jax.runs.tokens import Prepared
from gpt_jax.runs.workdir import (
  alone,
  check_same_run,
  read_about,
  read_run,
  write_run_json,
)
from gpt_jax.tokenizers import start_of_text
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
    if self.run.data.dialogues:
      file = self.data.train
      return windows.examples(file.ids, file.weights, self.places(done))
    apart = self.run.model.documents == 'apart'
    files = [
      (source.train.ids, source.train.starts if apart else None)
      for source in self.data.sources
    ]
    return windows.read(files, self.places(done), self.cfg.T)

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
    return held_out_loss(eval_step, params, self.cfg, self.data, self.run, self.layout)

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
      data = tokens.prepared(run, workdir, report, trains=True)
      cfg = GPTConfig.of(run.model, data.tokenizer.vocab)
      if cfg.vocab < data.tokenizer.vocab:
        raise UserError(
          f'model.vocab={cfg.vocab} must be at least {data.tokenizer.vocab}, the '
          "tokenizer's entries; 0 takes as many as it has"
        )
      layout.check(cfg)
      context = layout.mesh.shape['context'] if layout.mesh is not None else 1
      if run.data.dialogues and 8 % context:
        raise UserError(
          f'layout={run.layout!r} has context={context}, which must divide 8 with '
          'data.dialogues: examples are padded to multiples of 8 tokens'
        )
      text = rows.epoch(run, data, cfg.T, stages_of(run))
      run = schedule.resolved(run, text, layout.parts)
    limit = _memory_limit(layout)
    layout, reduction = cost.scheduled(run, cfg, layout, limit)
    part = lambda number: layout.rows(number, run.accumulate)  # noqa: E731
    places = rows.rows_of(run, data, cfg.T, stages_of(run), part)
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
  number = sum(source.train.targets for source in data.newest)
  yield cost_tables.plan(
    run,
    cfg,
    layout,
    tokens=number,
    held_out=sum(source.valid.targets for source in data.held_out),
    bytes_per_token=sum(source.train.bytes for source in data.newest) / number,
    examples=data.train.documents if run.data.dialogues else 0,
  )
  yield from schedule.batch_lines(run)
  yield schedule.rate_line(run)
  yield from rows.lines(run, data, cfg.T, stages_of(run))
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
  data: Prepared,
  run: config.Run,
  layout: sharding.Layout,
) -> dict[str, float]:
  """Returns the metrics of parameters on held-out tokens.

  Of a mixture those of each source come too, valid_nll/NAME and valid_bpb/NAME. All
  together count by the weights of the first stage, so that they mean the same as long
  as the run lasts; `run.eval_tokens` is divided by the largest of each source.
  """
  each = {}
  for source in data.held_out:
    file, limit = source.valid, run.eval_tokens
    if limit and data.stages:
      most = max(stage.rows.get(source.name, 0) for stage in data.stages)
      limit = max(1, limit * most // mixture.CYCLE)
    number = run.eval_batch * layout.parts
    if file.weights is None:
      batches = windows.held_out_batches(
        file.ids,
        T=cfg.T,
        rows=number,
        limit=limit,
        part=layout.rows,
        documents=file.starts if run.model.documents == 'apart' else None,
      )
    else:
      places = Examples(file, cfg.T).held_out(number, limit, layout.rows)
      batches = (windows.examples(file.ids, file.weights, each) for each in places)
    nll, count = likelihood.held_out_nll(eval_step, params, map(layout.put, batches))
    each[source.name] = nll, count, _bytes_per_token(file)
  if not data.stages:
    return likelihood.held_out_metrics(*each[''])
  mean = nats = 0.0
  for name, share in data.stages[0].rows.items():
    nll, count, size = each[name]
    nats += share / mixture.CYCLE * nll / count
    mean += share / mixture.CYCLE * size
  metrics = likelihood.held_out_metrics(nats, 1, mean)
  for name, own in each.items():
    own = likelihood.held_out_metrics(*own)
    metrics |= {f'{part}/{name}': own[part] for part in ('valid_nll', 'valid_bpb')}
  return metrics


def _bytes_per_token(file: token_files.TokenFile) -> float:
  """Returns the UTF-8 bytes of the text for each target of its token file."""
  return file.bytes / file.targets


def samples(model: LanguageModel, run: config.Run) -> str:
  """Returns the continuations of the run's fixed prompts, always with one seed."""
  # Of dialogues a prompt is a turn, which is to be answered.
  end = [start_of_text(model.tokenizer)] if run.data.dialogues else []
  prompts = [
    [*model.prompt_ids(prompt), *end][-model.config.T :] for prompt in run.prompts
  ]
  generations = model.generate_ids(
    prompts, max_new_tokens=run.sample_tokens, temperature=0.8, seed=0
  )
  return '\n'.join(
    f'[{prompt}]{generation.text}'
    for prompt, generation in zip(run.prompts, generations, strict=True)
  )
