"""Evaluates a trained model on held-out text, and baselines that are no GPT."""

import math
import pathlib
from collections.abc import Callable
from typing import Any

from gpt_jax import config, tokenizers
from gpt_jax.config import UserError
from gpt_jax.data import fidelity
from gpt_jax.evaluation.baselines import kneser_ney_nll, xz_bits_per_byte
from gpt_jax.model.gpt import GPT
from gpt_jax.runs.load import load
from gpt_jax.runs.setup import held_out_loss
from gpt_jax.runs.tokens import prepared
from gpt_jax.runs.workdir import read_run
from gpt_jax.training import sharding
from gpt_jax.training.objective import LanguageModeling


def held_out_metrics(
  workdir: str | pathlib.Path,
  checkpoint_step: str | int = 'best',
  report: Callable[[str], None] = print,
  *,
  held_out: str | pathlib.Path = '',
  weights: str = '',
) -> dict[str, Any]:
  """Returns the metrics of a workdir's model on all of its held-out text.

  With them come the checkpoint's step, text_sha256, and `lost`: how the tokenizer
  changes that text, '' if it does not.

  Args:
    checkpoint_step: 'best', 'latest' or a number of updates.
    held_out: another workdir, to evaluate on its held-out text instead.
    weights: as in `LanguageModel.quantized`.

  Raises:
    UserError: the other workdir has another tokenizer, or the loss is not finite.
  """
  run = read_run(workdir)
  model = load(workdir, checkpoint_step).quantized(weights)
  layout = sharding.Layout.of(config.Run())
  folder = pathlib.Path(held_out or workdir)
  data = prepared(read_run(folder), folder, report)
  own = tokenizers.digest(pathlib.Path(workdir) / 'tokenizer')
  if data.sources[0].valid.tokenizer != own:
    raise UserError(
      f'--held_out={held_out} has another tokenizer than {workdir}; name a run that '
      f'started from it (--config.init_from={workdir}), or the one that it started from'
    )
  run.eval_tokens = 0
  gpt = GPT(model.config, layout.execution(run.model))
  objective = LanguageModeling.of(run, gpt)
  eval_step = layout.eval_step(objective, layout.placed(model.params))
  metrics = held_out_loss(eval_step, model.params, model.config, data, run, layout)
  if not math.isfinite(metrics['valid_nll']):
    raise UserError(
      f'{workdir}: the held-out loss of the checkpoint of update {model.step} is '
      f'{metrics["valid_nll"]}; choose another with --checkpoint'
    )
  about = {'step': model.step, 'text_sha256': data.text_sha256, 'lost': data.lost}
  return {**about, **metrics}


def baselines(
  workdir: str | pathlib.Path, report: Callable[[str], None] = print
) -> dict[str, float]:
  """Returns bits per byte of the held-out text under models that are no GPT.

  A Kneser-Ney 5-gram over the same tokens, `xz -9` of the held-out text alone, and
  `xz -9` of it after the training text; the latter two only of a tokenizer that does
  not change text.
  """
  data = prepared(read_run(workdir), pathlib.Path(workdir), report)
  if data.valid.weights is not None:
    raise UserError(
      f'--baselines are of text, and {workdir} is trained on dialogues, whose loss is '
      'of replies; leave it out'
    )
  nll = kneser_ney_nll(data.train.ids, data.valid.ids, data.tokenizer.vocab)
  bits = {'5-gram (Kneser-Ney, same tokens)': nll / math.log(2) / data.valid.bytes}
  if data.lost:
    report(f'no xz baselines: {fidelity.warning(data.lost)}')
    return bits
  train, valid = (
    data.tokenizer.decode(file.ids.tolist()).encode()
    for file in (data.train, data.valid)
  )
  return bits | {
    'xz -9 (held-out text alone)': xz_bits_per_byte(valid),
    'xz -9 (after the training text)': xz_bits_per_byte(valid, train),
  }
