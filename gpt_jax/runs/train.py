"""Puts a run together: data, model, step, loop, workdir."""

import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from gpt_jax import config
from gpt_jax.runs import benchmark, cost, finetune
from gpt_jax.runs.setup import ready, samples
from gpt_jax.training import checkpoint, loop, metrics_log, sharding
from gpt_jax.training.throughput import Throughput


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
  writes = sharding.first_process()
  report = report if writes else _say_nothing
  layout = sharding.Layout.of(run)
  with ready(
    run, workdir, layout, argv=argv, overrides=overrides, report=report
  ) as here:
    cfg, saved = here.cfg, here.saved
    state = here.start(report)
    done = int(state.step)
    if done >= run.steps:
      report(f'finished: {done} updates are done (steps={run.steps}). {_best(saved)}')
      return
    eval_step = layout.eval_step(run, cfg)
    like = layout.state_shapes(run, cfg)
    asked = benchmark.during(run.exams)

    def evaluate(params, step):
      found = here.held_out(eval_step, params)
      if not _examines(run, step):
        return found
      model = here.model(params)
      return found | (asked(model) if writes else {})

    def draw(params):
      model = here.model(params)
      return samples(model, run) if writes else ''

    written = metrics_log.MetricsLog(here.workdir, done) if writes else None
    meter = Throughput(
      flops_per_token=sum(cost.flops_per_token(cfg).values()),
      devices=layout.devices,
      dtype=cfg.dtype,
    )
    try:
      loop.train(
        run,
        state,
        update=layout.train_step(run, cfg),
        batch=lambda step: layout.put(here.rows(step), run.accumulate),
        evaluate=evaluate,
        sample=draw,
        record=written,
        meter=meter,
        checkpoints=saved,
        restore=lambda step: saved.restore(step, like),
        anywhere=sharding.anywhere if sharding.several_processes() else None,
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
