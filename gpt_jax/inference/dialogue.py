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
from gpt_jax.decoding.guidance import Guidance
from gpt_jax.evaluation import likelihood
from gpt_jax.inference.language_model import LanguageModel
from gpt_jax.tasks.dialogues import plain
from gpt_jax.tokenizers import start_of_text

CANDIDATES, TOP_K, LONGEST = 16, 10, 64

# How `launch.py chat` calls the fields of `Ranking`: name, kind of flag, help.
FLAGS = (
  ('mutual', 'float', 'lambda of (1 - lambda) log P(T|S) + lambda log P(S|T) (1)'),
  ('anti', 'float', 'of log P(T|S) - anti log P(T): less of what always fits'),
  ('first', 'integer', 'tokens of a reply that anti counts; 0: all'),
  ('length', 'float', 'added for each token of a reply, before it is ranked'),
  ('fresh', 'bool', 'a reply that says an earlier turn again comes last (true)'),
  ('inside', 'bool', 'search beams by these scores; else finished replies are ranked'),
)


class Ranking(NamedTuple):
  """How candidates T of a reply to S are ranked.

  Attributes:
    mutual: lambda of (1 - lambda) log P(T | S) + lambda log P(S | T), Li et al.'s
      equation 10; 1 is DialoGPT's. It counts where there is a backward model.
    anti: of log P(T | S) - anti log P(T), their equation 9.
    first: tokens of T in log P(T), by which the beginning is the model's own and the
      rest fluent (their section 4.5.1); 0: all.
    length: added for each token of T.
    fresh: whether a candidate that says an earlier turn again comes after all others.
    inside: whether beams are searched by this score (`decoding/guidance.py`), and not
      only ranked when they are finished.
  """

  mutual: float = 1.0
  anti: float = 0.0
  first: int = 0
  length: float = 0.0
  fresh: bool = True
  inside: bool = False


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


class _Source(NamedTuple):
  """What is read of a dialogue: as a prompt, and by a backward model after a reply."""

  prompt: list[int]
  turns: list[list[int]]


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
    **settings: of `GenerationConfig`; by default 16 samples with top_k=10 (of beams,
      all), and 64 new tokens. A reply ends at end-of-text.

  Raises:
    UserError: no turn, no room for a reply, another tokenizer, or wrong settings.
  """
  return replies_to_all(model, [turns], backward, ranking, **settings)[0]


def replies_to_all(
  model: LanguageModel,
  dialogues: Sequence[Sequence[str]],
  backward: LanguageModel | None = None,
  ranking: Ranking = Ranking(),  # noqa: B008 - it is immutable
  **settings,
) -> list[list[Reply]]:
  """Returns what `replies` does, of several dialogues in common batches.

  Args:
    dialogues: turns of each.
  """
  if backward and backward.tokenizer.vocab != model.tokenizer.vocab:
    raise UserError(
      f'the backward model has {backward.tokenizer.vocab:,} tokens and the model '
      f'{model.tokenizer.vocab:,}; both must have the same tokenizer'
    )
  if ranking.first < 0:
    raise UserError(f'first={ranking.first} must be at least 0 (0 is all tokens)')
  beams = settings.get('beams', 1)
  number = beams if beams > 1 else CANDIDATES
  settings = _with_defaults({'num_return': number, **settings})
  sources = [_read(model, turns, settings) for turns in dialogues]
  end = start_of_text(model.tokenizer)
  guidance = None
  if ranking.inside:
    settings = {'length_penalty': 0.0, **settings}
    longest = settings['max_new_tokens'] + 1
    guidance = _guidance(backward, ranking, sources, beams, longest, end)
  drawn = model.generate_ids(
    [source.prompt for source in sources], guidance, **settings
  )
  each: list[list] = [[] for _ in dialogues]
  for one in drawn:
    each[one.number].append(one)
  ids = [[_ended(one.ids, end) for one in drawn] for drawn in each]
  of_source = [[math.nan] * len(some) for some in ids]
  if backward:
    of_source = _of_sources(backward, ids, sources, end)
  of_itself = [[0.0] * len(some) for some in ids]
  if ranking.anti:
    pairs = [([end], reply) for some in ids for reply in some]
    of_itself = _as_in(ids, _sums(model, pairs, ranking.first))
  return [
    _ranked(*of_one, bool(backward), ranking)
    for of_one in zip(dialogues, each, of_source, of_itself, strict=True)
  ]


def _ended(ids: list[int], end: int) -> list[int]:
  return [*ids, *([] if ids[-1:] == [end] else [end])]


def _ranked(
  turns: Sequence[str],
  drawn: Sequence[Any],
  of_source: Sequence[float],
  of_itself: Sequence[float],
  backward: bool,
  ranking: Ranking,
) -> list[Reply]:
  """Returns the candidates of one dialogue, the best first."""
  said = {plain(turn) for turn in turns}
  candidates = []
  for one, back, alone in zip(drawn, of_source, of_itself, strict=True):
    score = one.logp - ranking.anti * alone + ranking.length * len(one.ids)
    if backward:
      score = (1 - ranking.mutual) * score + ranking.mutual * back
    repeats = ranking.fresh and plain(one.text) in said
    text = one.text.strip()
    candidates.append(Reply(text, one.ids, one.logp, back, score, repeats))
  return sorted(candidates, key=lambda one: (one.repeats, -one.score))


def _guidance(
  backward: LanguageModel | None,
  ranking: Ranking,
  sources: Sequence[_Source],
  beams: int,
  longest: int,
  end: int,
) -> Guidance:
  """Returns the ranking as beams take it, up to the factor 1 - mutual.

  Args:
    longest: tokens of a reply with its end.
  """
  if beams < 2:
    raise UserError(f'inside=True searches beams, and beams={beams}; set 2 or more')
  if backward and not 0 <= ranking.mutual < 1:
    raise UserError(
      f'mutual={ranking.mutual} must be at least 0 and below 1 with inside=True: at 1 '
      'nothing says which tokens to try'
    )
  weight = ranking.mutual / (1 - ranking.mutual) if backward else 0.0
  return Guidance(
    anti=ranking.anti,
    first=ranking.first,
    length=ranking.length,
    alone=end,
    weight=weight,
    sources=[_source(backward, longest, one.turns, end) for one in sources]
    if weight
    else (),
    params=backward and backward.params,
    backward=backward and backward.gpt,
  )


def stream(model: LanguageModel, turns: Sequence[str], **settings) -> Iterator[str]:
  """Yields the parts of one reply as they are drawn.

  Arguments and errors are those of `replies`, without a backward model.
  """
  settings = _with_defaults(settings)
  yield from model.stream_ids(_read(model, turns, settings).prompt, **settings)


def _with_defaults(settings: dict[str, Any]) -> dict[str, Any]:
  """Returns settings with the length and, if none say how to draw, the top k."""
  settings = {'max_new_tokens': LONGEST, **settings}
  if not {'beams', 'method', 'temperature', 'top_k', 'top_p'} & settings.keys():
    settings['top_k'] = TOP_K
  return settings


def _read(
  model: LanguageModel, turns: Sequence[str], settings: dict[str, Any]
) -> _Source:
  """Returns what is read of a dialogue."""
  if not turns:
    raise UserError('there is no turn to reply to; give one or more')
  longest = settings['max_new_tokens']
  if longest >= model.config.T:
    raise UserError(
      f'max_new_tokens={longest} leaves no room for a dialogue in a context of '
      f'{model.config.T}; set it lower'
    )
  encoded = [model.tokenizer.encode(turn) for turn in turns]
  end, room = start_of_text(model.tokenizer), model.config.T - longest
  prompt, number = context(encoded, end, room)
  return _Source(prompt, encoded[-number:])


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
  return _of_sources(backward, [replies], [_Source([], list(turns))], end)[0]


def _of_sources(
  backward: LanguageModel,
  replies: Sequence[Sequence[Sequence[int]]],
  sources: Sequence[_Source],
  end: int,
) -> list[list[float]]:
  """Returns `source_logp` of the replies to each source, in one batch."""
  pairs = []
  for some, of in zip(replies, sources, strict=True):
    source = _source(backward, max(map(len, some)), of.turns, end)
    pairs += [(reply, source) for reply in some]
  return _as_in(replies, _sums(backward, pairs))


def _source(
  backward: LanguageModel, longest: int, turns: Sequence[Sequence[int]], end: int
) -> list[int]:
  """Returns turns from last to first as a backward model reads them after a reply.

  Args:
    longest: tokens of a reply at most, with its end.
  """
  room = backward.config.T - longest
  if room < 1:
    raise UserError(
      f'a reply of {longest} tokens leaves no room in the backward '
      f"model's context of {backward.config.T}; set max_new_tokens lower"
    )
  source: list[int] = []
  for turn in reversed(turns):
    longer = [*source, *turn, end]
    if len(longer) > room:
      source = source or longer[:room]
      break
    source = longer
  return source


def _as_in(lists: Sequence[Sequence[Any]], values: list[float]) -> list[list[float]]:
  """Returns values in lists as long as these."""
  left = iter(values)
  return [[next(left) for _ in some] for some in lists]


def _sums(
  model: LanguageModel,
  pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
  first: int = 0,
) -> list[float]:
  """Returns log p of each continuation after its context.

  Args:
    first: tokens of it that count; 0: all.
  """
  scored = likelihood.score_continuations(model.params, model.gpt, pairs)
  return [float(sum(one.logp[: first or None])) for one in scored]
