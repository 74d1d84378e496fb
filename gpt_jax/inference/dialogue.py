"""Replies in a dialogue, drawn and ranked by mutual information.

Source: Zhang et al. 2020, section 3.2: of several samples (by default 16, from the 10
likeliest tokens) the one is best whose source a backward model, which was trained on
turns from last to first, finds likeliest. Li et al. 2016 ("A diversity-promoting
objective function") have the other scores of `Ranking`.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from gpt_jax.config import UserError
from gpt_jax.evaluation import likelihood
from gpt_jax.inference.language_model import LanguageModel
from gpt_jax.tokenizers import start_of_text

CANDIDATES, TOP_K, LONGEST = 16, 10, 64


class Ranking(NamedTuple):
  """How candidates T of a reply to S are ranked.

  Attributes:
    mutual: lambda of (1 - lambda) log P(T | S) + lambda log P(S | T), Li et al.'s
      equation 10; 1 is DialoGPT's. It counts where there is a backward model.
    anti: of log P(T | S) - anti log P(T), their equation 9.
    length: added for each token of T.
    fresh: whether a candidate that says an earlier turn again comes after all others.
  """

  mutual: float = 1.0
  anti: float = 0.0
  length: float = 0.0
  fresh: bool = True


class Reply(NamedTuple):
  """A candidate.

  Attributes:
    ids: with the end-of-text, if it was reached.
    logp: log P(T | S) [nats].
    source_logp: log P(S | T) by the backward model [nats]; nan: there is none.
    score: ranks the candidates.
    repeats: whether it says an earlier turn again.
  """

  text: str
  ids: list[int]
  logp: float
  source_logp: float
  score: float
  repeats: bool


def context(
  turns: Sequence[Sequence[int]], end: int, room: int
) -> tuple[list[int], int]:
  """Returns the last whole turns that fit, each with an `end`, and how many they are.

  Of a last turn that does not fit alone, the last tokens are read.

  Args:
    turns: ids of each, one turn at least.
    room: ids at most.
  """
  ids: list[int] = []
  for number, turn in enumerate(reversed(turns)):
    longer = [*turn, end, *ids]
    if len(longer) > room:
      return (ids, number) if number else (longer[-room:], 1)
    ids = longer
  return ids, len(turns)


def replies(
  model: LanguageModel,
  turns: Sequence[str],
  backward: LanguageModel | None = None,
  ranking: Ranking = Ranking(),  # noqa: B008 - it is immutable
  **settings,
) -> list[Reply]:
  """Returns candidates for the next turn of a dialogue, the best first.

  Args:
    turns: what was said, the last one by the other speaker. The model reads as many
      whole ones as leave `max_new_tokens` in its context.
    backward: of the same tokenizer; None: candidates are ranked by their own log P.
    **settings: of `GenerationConfig`; by default 16 samples with top_k=10, and 64 new
      tokens. A reply ends at end-of-text.

  Raises:
    UserError: no turn, no room for a reply, another tokenizer, or wrong settings.
  """
  if backward and backward.tokenizer.vocab != model.tokenizer.vocab:
    raise UserError(
      f'the backward model has {backward.tokenizer.vocab:,} tokens and the model '
      f'{model.tokenizer.vocab:,}; both must have the same tokenizer'
    )
  settings = _with_defaults({'num_return': CANDIDATES, **settings})
  source, number = _read(model, turns, settings)
  end = start_of_text(model.tokenizer)
  drawn = model.generate_ids([source], **settings)
  ids = [[*one.ids, *([] if one.ids[-1:] == [end] else [end])] for one in drawn]
  finished = [one.logp for one in drawn]
  of_source = [math.nan] * len(drawn)
  if backward:
    encoded = [model.tokenizer.encode(turn) for turn in turns[-number:]]
    of_source = source_logp(backward, ids, encoded, end)
  of_itself = [0.0] * len(drawn)
  if ranking.anti:
    of_itself = _sums(model, [([end], reply) for reply in ids])
  said = {_plain(turn) for turn in turns}
  candidates = []
  for one, logp, back, alone in zip(drawn, finished, of_source, of_itself, strict=True):
    score = logp - ranking.anti * alone + ranking.length * len(one.ids)
    if backward:
      score = (1 - ranking.mutual) * score + ranking.mutual * back
    repeats = ranking.fresh and _plain(one.text) in said
    candidates.append(Reply(one.text.strip(), one.ids, logp, back, score, repeats))
  return sorted(candidates, key=lambda one: (one.repeats, -one.score))


def stream(model: LanguageModel, turns: Sequence[str], **settings) -> Iterator[str]:
  """Yields the parts of one reply as they are drawn.

  Arguments and errors are those of `replies`, without a backward model.
  """
  settings = _with_defaults(settings)
  source, _ = _read(model, turns, settings)
  yield from model.stream_ids(source, **settings)


def _with_defaults(settings: dict[str, Any]) -> dict[str, Any]:
  """Returns settings with the length and, if none say how to draw, the top k."""
  settings = {'max_new_tokens': LONGEST, **settings}
  if not {'beams', 'method', 'temperature', 'top_k', 'top_p'} & settings.keys():
    settings['top_k'] = TOP_K
  return settings


def _read(
  model: LanguageModel, turns: Sequence[str], settings: dict[str, Any]
) -> tuple[list[int], int]:
  """Returns the ids that are read of a dialogue, and how many turns they are."""
  if not turns:
    raise UserError('there is no turn to reply to; give one or more')
  longest = settings['max_new_tokens']
  if longest >= model.config.T:
    raise UserError(
      f'max_new_tokens={longest} leaves no room for a dialogue in a context of '
      f'{model.config.T}; set it lower'
    )
  encoded = [model.tokenizer.encode(turn) for turn in turns]
  return context(encoded, start_of_text(model.tokenizer), model.config.T - longest)


def source_logp(
  backward: LanguageModel,
  replies: Sequence[Sequence[int]],
  turns: Sequence[Sequence[int]],
  end: int,
) -> list[float]:
  """Returns log P(turns | reply) of each reply by a backward model, in one batch.

  It reads the reply and then the turns from last to first, as in its training. The
  oldest turns are left out, of all replies alike, where they outgrow its context.

  Args:
    replies: ids, each with its `end`.
    turns: ids of each, in the order in which they were said.
  """
  room = backward.config.T - max(map(len, replies))
  if room < 1:
    raise UserError(
      f'a reply of {max(map(len, replies))} tokens leaves no room in the backward '
      f"model's context of {backward.config.T}; set max_new_tokens lower"
    )
  source: list[int] = []
  for turn in reversed(turns):
    longer = [*source, *turn, end]
    if len(longer) > room:
      source = source or longer[:room]
      break
    source = longer
  return _sums(backward, [(reply, source) for reply in replies])


def _sums(
  model: LanguageModel, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]
) -> list[float]:
  """Returns log p of each continuation after its context."""
  scored = likelihood.score_continuations(model.params, model.gpt, pairs)
  return [float(sum(one.logp)) for one in scored]


def _plain(text: str) -> str:
  """Returns a turn's words in lower case, without marks."""
  letters = (c if c.isalnum() or c.isspace() else ' ' for c in text.lower())
  return ' '.join(''.join(letters).split())
