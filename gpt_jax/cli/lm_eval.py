"""Runs tasks of EleutherAI's lm-eval on our models, as its model 'gpt_jax'.

  pip install lm_eval
  python -m gpt_jax.cli.lm_eval --model_args path=WORKDIR --tasks lambada_openai

That is lm-eval's own command line, with `--model gpt_jax` set; its other flags work as
usual. `path` is what `gpt_jax.load` takes: a workdir, a Hugging Face folder or
hf:NAME@REVISION; `checkpoint=latest` or a number of updates chooses a checkpoint. In
Python, importing this module is enough:

  from gpt_jax.cli.lm_eval import GPTJax
  lm_eval.simple_evaluate(GPTJax('WORKDIR'), tasks=['lambada_openai'])

An extra: nothing else of gpt_jax imports it or needs lm-eval. PyTorch is not needed.
"""

import json
import sys
from collections.abc import Iterator, Sequence

try:  # before what takes long
  import lm_eval.models  # noqa: F401  or lm-eval would know no model but ours
except ModuleNotFoundError as error:
  missing = f'{error.name} is not installed; install it: pip install lm_eval'
  if __name__ == '__main__':
    sys.exit(f'error: {missing}')
  raise ModuleNotFoundError(missing, name=error.name) from error

import numpy as np
from lm_eval import utils
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from tqdm import tqdm

from gpt_jax.cli.messages import shown
from gpt_jax.evaluation import likelihood
from gpt_jax.inference import task_model
from gpt_jax.runs.load import load

# Names that tasks have for the most tokens of an answer; of several the first counts.
_LIMITS = 'max_gen_toks', 'max_new_tokens', 'max_tokens', 'max_completion_tokens'


@register_model('gpt_jax')
class GPTJax(TemplateLM):
  """A model of ours behind lm-eval's interface.

  Attributes:
    max_length: the context [tokens].
    max_gen_toks: most tokens of an answer, unless the task says.
  """

  max_gen_toks = 256

  def __init__(
    self,
    path: str,
    checkpoint: str | int = 'best',
    batch_size: int | str | None = None,
    max_batch_size: int | None = None,
    device: str | None = None,
  ):
    """Opens a model.

    Args:
      path: as in `load`.
      checkpoint: of a workdir: 'best', 'latest' or a number of updates.
      batch_size, max_batch_size, device: lm-eval's command line passes them to every
        model; they have no effect. jax takes all devices, or those of JAX_PLATFORMS.

    Raises:
      UserError: there is no such model.
    """
    super().__init__()
    del batch_size, max_batch_size, device
    self._path = str(path)  # lm-eval makes a number of one that looks like it
    self._model = load(self._path, checkpoint)

  @property
  def max_length(self) -> int:
    return self._model.config.T

  @property
  def eot_token_id(self) -> int:
    return self._model.tokenizer.eot

  @property
  def tokenizer_name(self) -> str:
    """The path, as a name of a file."""
    return self._path.replace('/', '__')

  def tok_encode(
    self, string: str, add_special_tokens: bool | None = None, **kwargs
  ) -> list[int]:
    """Returns the ids of a text; there are no special ones to add."""
    del add_special_tokens, kwargs
    return self._model.tokenizer.encode(string)

  def _encode_pair(
    self, context: str, continuation: str
  ) -> tuple[list[int], list[int]]:
    """Returns the ids of both: those of the whole text, cut where the context's end.

    As in lm-eval, blanks at the end of a context belong to the continuation. If the
    whole's ids do not begin with the context's, the cut loses or repeats text. That is
    rare with GPT-1's and GPT-2's words and left so, so that scores compare; with pieces
    that span words it is common, and the two are encoded apart. So are they if the cut
    leaves nothing, which lm-eval can't score.
    """
    bare = context.rstrip()
    continuation = context[len(bare) :] + continuation
    before, whole = self.tok_encode(bare), self.tok_encode(bare + continuation)
    after = whole[len(before) :]
    by_words = self._model.tokenizer.kind in ('byte_bpe', 'gpt1')
    if not after or (whole[: len(before)] != before and not by_words):
      after = self.tok_encode(continuation)
    return before or [self.eot_token_id], after

  def _loglikelihood_tokens(
    self,
    requests: Sequence[tuple[tuple[str, str] | None, list[int], list[int]]],
    disable_tqdm: bool = False,
    **kwargs,
  ) -> list[tuple[float, bool]]:
    """Returns (log p [nats], whether greedy decoding would give it) of continuations.

    Args:
      requests: texts (None: not to be cached), ids of context and of continuation.

    Raises:
      UserError: a continuation is empty or longer than the context of the model.
    """
    del kwargs
    results = [(0.0, False)] * len(requests)
    pairs = [(before, after) for _, before, after in requests]
    scores = likelihood.scores(self._model.params, self._model.gpt, pairs)
    bar = {'total': len(pairs), 'desc': 'gpt_jax: scoring', 'disable': disable_tqdm}
    for i, scored in tqdm(scores, **bar):
      results[i] = sum(scored.logp), all(scored.best)
      if requests[i][0] is not None:
        self.cache_hook.add_partial('loglikelihood', requests[i][0], results[i])
    return results

  def loglikelihood_rolling(
    self, requests: list[Instance], disable_tqdm: bool = False
  ) -> list[float]:
    """Returns log p of whole texts [nats], in windows of the model's context.

    The windows are lm-eval's: every token is predicted once, the first after
    end-of-text, and the last window is full.
    """
    windows, owner = [], []
    for number, request in enumerate(requests):
      for window in utils.get_rolling_token_windows(
        self.tok_encode(request.args[0]), self.prefix_token_id, self.max_length, 1
      ):
        windows.append((None, *utils.make_disjoint_window(window)))
        owner.append(number)
    totals = [0.0] * len(requests)
    scores = self._loglikelihood_tokens(windows, disable_tqdm)
    for number, (logp, _) in zip(owner, scores, strict=True):
      totals[number] += logp
    for request, total in zip(requests, totals, strict=True):
      self.cache_hook.add_partial('loglikelihood_rolling', request.args, total)
    return totals

  def generate_until(
    self, requests: list[Instance], disable_tqdm: bool = False
  ) -> list[str]:
    """Returns what the model writes after contexts, up to the first stop.

    A context is cut at its beginning to leave room for the longest answer, or to half
    of the model's context if the answer may outgrow that. Draws depend on the number of
    a request: the same one twice has two answers.

    Args:
      requests: a context, and `until`, `max_gen_toks`, `do_sample`, `temperature` or
        settings of `LanguageModel.generate`.

    Raises:
      UserError: a setting is unknown or out of its range.
    """
    texts = [''] * len(requests)
    bar = tqdm(total=len(requests), desc='gpt_jax: writing', disable=disable_tqdm)
    with bar:
      for numbers, asked in _alike(requests):
        how = self._settings(asked)
        seed, room = how.pop('seed', 0), self._room(how['max_new_tokens'])
        seeds = [np.random.SeedSequence((seed, i)).generate_state(1) for i in numbers]
        for at, text in task_model.written(
          self._model,
          [requests[i].args[0] for i in numbers],
          room=room,
          seeds=[int(state[0]) for state in seeds],
          **how,
        ):
          i = numbers[at]
          texts[i] = text
          self.cache_hook.add_partial('generate_until', requests[i].args, text)
          bar.update()
    return texts

  def _settings(self, asked: dict) -> dict:
    """Returns a task's settings as those of `generate`; greedy unless it says."""
    how = {name: value for name, value in asked.items() if value is not None}
    until = how.pop('until', [])
    stops = [until] if isinstance(until, str) else until
    limits = [how.pop(name) for name in _LIMITS if name in how]
    temperature = how.pop('temperature', None)
    drawn = how.pop('do_sample', bool(temperature))
    return how | {
      'stop': [stop for stop in stops if stop],
      'max_new_tokens': int([*limits, self.max_gen_toks][0]),
      'temperature': (1.0 if temperature is None else temperature) if drawn else 0,
    }

  def _room(self, max_new_tokens: int) -> int:
    """Returns how many tokens of a context are read."""
    T = self.max_length
    return max(1, T - max_new_tokens if max_new_tokens < T else T // 2)


def _alike(requests: Sequence[Instance]) -> Iterator[tuple[list[int], dict]]:
  """Yields the numbers of requests with equal settings, and the settings."""
  groups: dict[str, list[int]] = {}
  for i, request in enumerate(requests):
    groups.setdefault(json.dumps(request.args[1], sort_keys=True), []).append(i)
  for numbers in groups.values():
    yield numbers, requests[numbers[0]].args[1]


def main() -> None:
  """Runs lm-eval's command line, whose `--model` is ours unless another is given."""
  from lm_eval.__main__ import cli_evaluate

  sys.argv[1:1] = ['--model', 'gpt_jax']
  with shown():
    cli_evaluate()


if __name__ == '__main__':
  main()
