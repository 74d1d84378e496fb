"""A language model as benchmarks and lm-eval use it."""

import zlib
from collections.abc import Iterator, Sequence

from gpt_jax.evaluation import likelihood, scoring_rules
from gpt_jax.evaluation.benchmark import TaskModel
from gpt_jax.inference.language_model import LanguageModel

_REQUESTS = 4096  # in memory as ids at once
_WINDOWS = 1024  # likewise
_ROWS = 64  # prompts, or beams of prompts, in a batch
_EMPTY = likelihood.TokenScores([], [], [])


def task_model(model: LanguageModel) -> TaskModel:
  """Returns what a benchmark needs of a model."""
  T = model.config.T

  def score(task, requests):
    banned = scoring_rules.banned(task, model.tokenizer, model.config.V)
    # Apart: examples that all questions share are read once if every request has them.
    alone = [i for i, r in enumerate(requests) if r.context == task.unconditional]
    asked = [i for i, r in enumerate(requests) if r.context != task.unconditional]
    for numbers in (asked, alone):
      for at in range(0, len(numbers), _REQUESTS):
        some = numbers[at : at + _REQUESTS]
        pairs = dict(zip(some, _pairs(model, [requests[i] for i in some]), strict=True))
        # log p of an empty continuation is 0.
        yield from ((i, _EMPTY) for i, (_, after) in pairs.items() if not after)
        pairs = {i: pair for i, pair in pairs.items() if pair[1]}
        scores = likelihood.scores(
          model.params, model.gpt, list(pairs.values()), banned
        )
        known = list(pairs)
        yield from ((known[i], each) for i, each in scores)

  def write(task, prompts):
    settings = {
      'beam': {'beams': 4, 'length_penalty': 0.6, 'penalty_form': 'gnmt'},
      'top_k_2': {'top_k': 2},
    }[task.rule]
    return written(
      model,
      prompts,
      room=max(1, T - task.limit),
      # A draw depends on its prompt alone, not on what else is asked.
      seeds=[zlib.crc32(prompt.encode()) for prompt in prompts],
      max_new_tokens=task.limit,
      stop=task.stop,
      **settings,
    )

  def window(pairs):
    for at in range(0, len(pairs), _WINDOWS):
      some = pairs[at : at + _WINDOWS]
      for i, scores in likelihood.scores(model.params, model.gpt, some):
        yield at + i, -sum(scores.logp)

  return TaskModel(score, write, window, model.prompt_ids, T)


def _pairs(
  model: LanguageModel, requests: Sequence[scoring_rules.Request]
) -> list[tuple[list[int], list[int]]]:
  """Returns the ids of contexts and continuations, the two encoded apart."""
  contexts = dict.fromkeys(request.context for request in requests)
  ids = {context: model.prompt_ids(context) for context in contexts}
  T = model.config.T
  return [
    (ids[r.context], model.tokenizer.encode(r.continuation)[-T:]) for r in requests
  ]


def written(
  model: LanguageModel,
  prompts: Sequence[str],
  *,
  room: int,
  seeds: Sequence[int],
  **settings,
) -> Iterator[tuple[int, str]]:
  """Yields (number of a prompt, what the model writes after it), longest prompts first.

  Args:
    room: tokens of a prompt that are read, its last ones.
    **settings: as in `LanguageModel.generate`.
  """
  ids = [model.prompt_ids(prompt)[-room:] for prompt in prompts]
  order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
  size = max(1, _ROWS // settings.get('beams', 1))
  for at in range(0, len(order), size):
    some = order[at : at + size]
    generations = model.generate_ids(
      [ids[i] for i in some], seed=[seeds[i] for i in some], **settings
    )
    yield from ((i, one.text) for i, one in zip(some, generations, strict=True))
