"""Requests as EleutherAI's lm-eval makes them, answered by a language model.

lm-eval itself is not needed: `cli/lm_eval.py` passes its requests on. What is computed
is that of its class for Hugging Face's models (lm_eval 0.4, `api/model.py` and
`models/huggingface.py`), so that scores compare.
"""

import collections
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from gpt_jax.evaluation import likelihood
from gpt_jax.inference import task_model
from gpt_jax.inference.language_model import LanguageModel
from gpt_jax.tokenizers import Tokenizer

# Names that tasks have for the most tokens of an answer; of several the first counts.
_LIMITS = 'max_gen_toks', 'max_new_tokens', 'max_tokens', 'max_completion_tokens'
# Most tokens of an answer, unless the task says.
MOST_TOKENS = 256


class Request(Protocol):
  """What is read of lm-eval's `Instance`: (context, continuation or settings)."""

  args: tuple


# Called with a kind of request, its arguments and its answer, once there is one.
Keep = Callable[[str, Any, Any], None]
_Pair = tuple[list[int], list[int]]


def encode_pair(tokenizer: Tokenizer, context: str, continuation: str) -> _Pair:
  """Returns the ids of both: those of the whole text, cut where the context's end.

  As in lm-eval, blanks at the end of a context belong to the continuation, and an empty
  one is end-of-text. If the whole's ids do not begin with the context's, the cut loses
  or repeats text. That is rare with GPT-1's and GPT-2's words and left so, so that
  scores compare; with pieces that span words it is common, and the two are encoded
  apart. So are they if the cut leaves nothing, which lm-eval can't score.
  """
  bare = context.rstrip()
  continuation = context[len(bare) :] + continuation
  before, whole = tokenizer.encode(bare), tokenizer.encode(bare + continuation)
  after = whole[len(before) :]
  by_words = tokenizer.kind in ('byte_bpe', 'gpt1')
  if not after or (whole[: len(before)] != before and not by_words):
    after = tokenizer.encode(continuation)
  return before or [tokenizer.eot], after


def token_likelihoods(
  model: LanguageModel, pairs: Sequence[_Pair]
) -> Iterator[tuple[int, tuple[float, bool]]]:
  """Yields the number of a pair, and of its continuation (log p [nats], greedy?).

  Args:
    pairs: ids of context and of continuation.

  Raises:
    UserError: a continuation is empty or longer than the context of the model.
  """
  for i, scored in likelihood.scores(model.params, model.gpt, pairs):
    yield i, (sum(scored.logp), all(scored.best))


def likelihoods(
  model: LanguageModel, requests: Sequence[Request], keep: Keep
) -> list[tuple[float, bool]]:
  """Returns (log p [nats], whether greedy decoding would give it) of continuations."""
  found = [(0.0, False)] * len(requests)
  pairs = [encode_pair(model.tokenizer, *request.args) for request in requests]
  for i, scored in token_likelihoods(model, pairs):
    found[i] = scored
    keep('loglikelihood', requests[i].args, scored)
  return found


def rolling_windows(ids: Sequence[int], prefix: int, T: int) -> Iterator[_Pair]:
  """Yields windows of T tokens in which every id is predicted once.

  The first id follows `prefix`, and the last window is full: its context reaches back
  over ids that were predicted before.
  """
  for start in range(0, len(ids), T):
    end = min(start + T, len(ids))
    context = list(ids[end - T - 1 : start]) if start else [prefix]
    yield context, list(ids[start:end])


def rolling_likelihoods(
  model: LanguageModel, requests: Sequence[Request], keep: Keep
) -> list[float]:
  """Returns log p of whole texts [nats], in windows of the model's context."""
  windows, owner = [], []
  for number, request in enumerate(requests):
    ids = model.tokenizer.encode(request.args[0])
    for window in rolling_windows(ids, model.tokenizer.eot, model.config.T):
      windows.append(window)
      owner.append(number)
  totals, waiting = [0.0] * len(requests), collections.Counter(owner)
  for i, (logp, _) in token_likelihoods(model, windows):
    number = owner[i]
    totals[number] += logp
    waiting[number] -= 1
    if not waiting[number]:
      keep('loglikelihood_rolling', requests[number].args, totals[number])
  return totals


def written(model: LanguageModel, requests: Sequence[Request], keep: Keep) -> list[str]:
  """Returns what the model writes after contexts, up to the first stop.

  A context is cut at its beginning to leave room for the longest answer, or to half of
  the model's context if the answer may outgrow that. Draws depend on the number of a
  request: the same one twice has two answers.

  Differs: an empty context is end-of-text; lm-eval's own class ends in an error there,
  or writes from padding where others are in the batch.

  Args:
    requests: a context, and `until`, `max_gen_toks`, `do_sample`, `temperature` or
      settings of `LanguageModel.generate`.

  Raises:
    UserError: a setting is unknown or out of its range.
  """
  texts = [''] * len(requests)
  for numbers, asked in _alike(requests):
    how = _settings(asked)
    seed, room = how.pop('seed', 0), _room(model.config.T, how['max_new_tokens'])
    seeds = [np.random.SeedSequence((seed, i)).generate_state(1) for i in numbers]
    for at, text in task_model.written(
      model,
      [requests[i].args[0] for i in numbers],
      room=room,
      seeds=[int(state[0]) for state in seeds],
      **how,
    ):
      texts[numbers[at]] = text
      keep('generate_until', requests[numbers[at]].args, text)
  return texts


def _settings(asked: dict) -> dict:
  """Returns a task's settings as those of `generate`; greedy unless it says."""
  how = {name: value for name, value in asked.items() if value is not None}
  until = how.pop('until', [])
  stops = [until] if isinstance(until, str) else until
  limits = [how.pop(name) for name in _LIMITS if name in how]
  temperature = how.pop('temperature', None)
  drawn = how.pop('do_sample', bool(temperature))
  return how | {
    'stop': [stop for stop in stops if stop],
    'max_new_tokens': int([*limits, MOST_TOKENS][0]),
    'temperature': (1.0 if temperature is None else temperature) if drawn else 0,
  }


def _room(T: int, max_new_tokens: int) -> int:
  """Returns how many tokens of a context are read."""
  return max(1, T - max_new_tokens if max_new_tokens < T else T // 2)


def _alike(requests: Sequence[Request]) -> Iterator[tuple[list[int], dict]]:
  """Yields the numbers of requests with equal settings, and the settings."""
  groups: dict[str, list[int]] = {}
  for i, request in enumerate(requests):
    groups.setdefault(json.dumps(request.args[1], sort_keys=True), []).append(i)
  for numbers in groups.values():
    yield numbers, requests[numbers[0]].args[1]
