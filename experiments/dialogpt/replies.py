"""Replies of a model of dialogues, by how they are decoded; and how long chats hold up.

Claim: replies that a backward model re-ranks (MMI) are more specific to their source
than greedy ones, samples and beams; and with the controls of `launch.py chat` neither
length nor Dist-2 of replies changes by more than a tenth over 20 turns. Source: Zhang
et al. 2020, sections 3.2 and 4 (their models are larger, their data is Reddit). Cost:
half an hour on 2 CPU cores, besides the training of three models.

  python experiments/dialogpt/replies.py --forward=RUN --backward=RUN --judge=RUN \
    --data=dev.jsonl --target=FOLDER [--result=FILE]

The models are of `dialogsum.py`, the judge a backward model of other dialogues or
another seed, which has ranked nothing here. From each held-out dialogue a turn is
drawn, the true reply to those before it. FOLDER has the replies of each system, a line
each, as `launch.py metrics` reads them; the same command goes on after a kill.

  greedy, top-k   the likeliest token; one sample from the 10 likeliest
  beams           the best of 10 by log p over GNMT's length penalty
  MMI             of 16 samples from the 10 likeliest, the one whose source the
                  backward model finds likeliest
  antiLM          beams of log P(T | S) - 0.5 log P(of the first 5 tokens of T)

"recognised" is the share of replies T whose source S the judge picks among those of ten
dialogues: it takes the one that gains most by T, log P(S | T) less the mean over the
ten replies of the system, so that chance is 0.1, and all replies the same have it. S is
the last turn before T. Chats: the model answers itself from a held-out first turn, in
each turn by the best of some samples by MMI; "with controls" means that a reply that
was said before comes last, and that no 4 tokens in a row come again (fresh_ngram).

Intervals are 95 %, by dialogues drawn with replacement (for "recognised", tens of
them; for chats, chats). Drawing repeats replies, which by itself lowers Dist-n, so what
the draws differ from their mean is put around the value.
"""

import json
import math
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import app, flags, logging

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
import gpt_jax
from gpt_jax.cli.messages import run_script
from gpt_jax.config import UserError
from gpt_jax.evaluation import dialogue_metrics as metrics
from gpt_jax.evaluation import likelihood
from gpt_jax.files import read_json, read_text, write_json, write_whole
from gpt_jax.inference import dialogue
from gpt_jax.inference.dialogue import Ranking
from gpt_jax.inference.language_model import LanguageModel
from gpt_jax.reports import committed
from gpt_jax.reports.committed import Measured
from gpt_jax.tasks import dialogues
from gpt_jax.tokenizers import start_of_text

_FORWARD = flags.DEFINE_string('forward', None, 'workdir of the model', required=True)
_BACKWARD = flags.DEFINE_string(
  'backward', None, 'workdir of the backward model that ranks', required=True
)
_JUDGE = flags.DEFINE_string(
  'judge', None, 'workdir of the backward model that judges', required=True
)
_DATA = flags.DEFINE_string('data', None, 'file of held-out dialogues', required=True)
_TARGET = flags.DEFINE_string('target', None, 'folder of the replies', required=True)
_RESULT = flags.DEFINE_string('result', '', 'file for experiments/table.py')
_LIMIT = flags.DEFINE_integer('limit', 500, 'dialogues of which a turn is answered')
_CHATS = flags.DEFINE_integer('chats', 100, 'chats of the model with itself')
_TURNS = flags.DEFINE_integer('turns', 20, 'turns of a chat', lower_bound=10)
_SAMPLES = flags.DEFINE_integer('samples', 4, 'samples of a turn of a chat')
_DRAWS = flags.DEFINE_integer('draws', 200, 'of a bootstrap')
_LONGEST = flags.DEFINE_integer('longest', 40, 'tokens of a reply')

TEN = 10
SYSTEMS = 'greedy', 'top-k', 'beams', 'MMI', 'antiLM'


class Question(NamedTuple):
  """The turns before a reply, and the true one."""

  source: list[str]
  reply: str


def questions(path: str, limit: int, seed: int = 0) -> list[Question]:
  """Returns a turn of each of `limit` dialogues, drawn, in a drawn order; whole tens.

  Raises:
    UserError: there are fewer than ten dialogues of two turns or more.
  """
  rng = np.random.default_rng(seed)
  every = [turns for turns in dialogues.read(path) if len(turns) > 1]
  some = [every[i] for i in rng.permutation(len(every))[:limit]]
  some = some[: len(some) // TEN * TEN]
  if not some:
    raise UserError(f'{path} has {len(every)} dialogues, and ten are needed')
  found = []
  for turns in some:
    texts, at = [turn.text for turn in turns], int(rng.integers(1, len(turns)))
    found.append(Question(texts[:at], texts[at]))
  return found


def answered(
  system: str,
  model: LanguageModel,
  backward: LanguageModel,
  asked: Sequence[Question],
  longest: int,
) -> list[str]:
  """Returns the replies of a system."""
  how: dict[str, Any] = {'max_new_tokens': longest}
  ranking, ranks = Ranking(fresh=False), None
  if system == 'greedy':
    how |= {'method': 'greedy', 'num_return': 1}
  elif system == 'top-k':
    how |= {'top_k': 10, 'num_return': 1}
  elif system == 'beams':
    how |= {'beams': 10, 'num_return': 1}
  elif system == 'MMI':
    how |= {'top_k': 10, 'num_return': 16}
    ranks = backward
  elif system == 'antiLM':
    how |= {'beams': 10}
    ranking = Ranking(anti=0.5, first=5, fresh=False, inside=True)
  sources = [one.source for one in asked]
  every = dialogue.replies_to_all(model, sources, ranks, ranking, **how)
  return [_line(candidates[0].text) for candidates in every]


def _line(text: str) -> str:
  return ' '.join(text.split())


def recognised(
  judge: LanguageModel, asked: Sequence[Question], replies: Sequence[str]
) -> np.ndarray:
  """Returns which replies' sources the judge picks, [tens, 10]; a tie is shared."""
  encode, end = judge.tokenizer.encode, start_of_text(judge.tokenizer)
  room = judge.config.T // 2 - 1
  said = [[*encode(text)[:room], end] for text in replies]
  sources = [[*encode(one.source[-1])[:room], end] for one in asked]
  tens = range(0, len(asked), TEN)
  pairs = [
    (reply, source)
    for at in tens
    for reply in said[at : at + TEN]
    for source in sources[at : at + TEN]
  ]
  scored = likelihood.score_continuations(judge.params, judge.gpt, pairs)
  logp = np.array([sum(one.logp) for one in scored]).reshape(-1, TEN, TEN)
  return picked(logp)


def picked(logp: np.ndarray) -> np.ndarray:
  """Returns the shares of picks that are right, [tens, 10].

  Args:
    logp: [tens, replies, sources], log P(source | reply); the right ones are those on
      the diagonal.
  """
  gain = logp - logp.mean(axis=1, keepdims=True)
  best = gain >= gain.max(axis=2, keepdims=True) - 1e-4
  right = np.diagonal(best, axis1=1, axis2=2)
  return right / best.sum(axis=2)


def around(
  value: Callable[[np.ndarray], float], count: int, draws: int, seed: int = 0
) -> tuple[float, float, float]:
  """Returns a value of all units and its 95 % interval: (value, low, high).

  Args:
    value: numbers of units -> value of these.
    count: units.
  """
  rng = np.random.default_rng(seed)
  whole = value(np.arange(count))
  drawn = np.array([value(rng.integers(count, size=count)) for _ in range(draws)])
  low, high = np.quantile(drawn - drawn.mean(), [0.025, 0.975])
  return whole, whole + float(low), whole + float(high)


def perplexity(
  model: LanguageModel, path: str, draws: int, limit: int
) -> tuple[float, float, float]:
  """Returns the perplexity of a token of held-out dialogues, and its interval."""
  encode, end = model.tokenizer.encode, start_of_text(model.tokenizer)
  pairs, owner = [], []
  for number, turns in enumerate(list(dialogues.read(path))[:limit]):
    encoded = [(encode(turn.text), turn.weight) for turn in turns]
    for row in dialogues.examples(encoded, end):
      at = next(i for i, weight in enumerate(row.weights) if weight)
      if len(row.ids) <= model.config.T:
        pairs.append((row.ids[: at + 1], row.targets[at:]))
        owner.append(number)
  scored = likelihood.score_continuations(model.params, model.gpt, pairs)
  count = max(owner) + 1
  nll, tokens = np.zeros(count), np.zeros(count)
  for number, one in zip(owner, scored, strict=True):
    nll[number] -= sum(one.logp)
    tokens[number] += len(one.logp)
  return around(lambda i: math.exp(nll[i].sum() / tokens[i].sum()), len(nll), draws)


def of_replies(
  name: str,
  replies: Sequence[str],
  truth: Sequence[str],
  right: np.ndarray,
  draws: int,
) -> list[Measured]:
  """Returns the metrics of a system's replies, with intervals."""
  columns: dict[str, Callable[[list[str], list[list[str]]], float]] = {
    'Dist-1': lambda r, _: metrics.distinct(r, 1),
    'Dist-2': lambda r, _: metrics.distinct(r, 2),
    'Entropy-4': lambda r, _: metrics.entropy(r, 4),
    'length': lambda r, _: metrics.mean_length(r),
  }
  if name != 'true':
    columns |= {
      'BLEU-2': lambda r, t: metrics.bleu(r, t, 2),
      'NIST-2': lambda r, t: metrics.nist(r, t, 2),
    }
  found = []
  for what, metric in columns.items():

    def of(i, metric=metric):
      return metric([replies[j] for j in i], [[truth[j]] for j in i])

    found.append(Measured(f'{name}: {what}', *around(of, len(replies), draws)))
  share = around(lambda i: float(right[i].mean()), len(right), 5 * draws)
  return [*found, Measured(f'{name}: recognised', *share)]


def chats(
  model: LanguageModel,
  backward: LanguageModel,
  openings: Sequence[str],
  *,
  turns: int,
  samples: int,
  longest: int,
  controls: bool,
) -> list[list[str]]:
  """Returns the turns that the model says to itself after each opening."""
  ranking = Ranking(fresh=controls)
  how = {'max_new_tokens': longest, 'top_k': 10, 'num_return': samples}
  if controls:
    how['fresh_ngram'] = 4
  said = [[opening] for opening in openings]
  for turn in range(turns):
    every = dialogue.replies_to_all(model, said, backward, ranking, seed=turn, **how)
    # A turn without text would be none.
    for one, candidates in zip(said, every, strict=True):
      best = next((each.text for each in candidates if each.text), '...')
      one.append(_line(best))
    print(f'turn {turn + 1} of {turns}', flush=True)
  return [one[1:] for one in said]


def repeats(openings: Sequence[str], said: Sequence[Sequence[str]]) -> np.ndarray:
  """Returns of each chat the share of turns whose words an earlier turn has."""
  shares = []
  for opening, turns in zip(openings, said, strict=True):
    texts = [dialogues.plain(text) for text in (opening, *turns)]
    again = [text in texts[:at] for at, text in enumerate(texts)][1:]
    shares.append(np.mean(again))
  return np.array(shares)


def dist2_at_equal_words(
  late: Sequence[str], early: Sequence[str]
) -> tuple[float, float]:
  """Returns Dist-2 of both, of as many replies' words as the shorter has."""
  words = min(sum(len(text.split()) for text in texts) for texts in (late, early))

  def of(texts):
    kept, left = [], words
    for text in texts:
      kept.append(' '.join(text.split()[:left]))
      left -= len(kept[-1].split())
    return metrics.distinct(kept, 2)

  return of(late), of(early)


def of_chats(
  name: str, openings: Sequence[str], said: Sequence[Sequence[str]], draws: int
) -> list[Measured]:
  """Returns how chats change from their first 5 turns to their last 5."""

  def ends(i):
    return [t for j in i for t in said[j][-5:]], [t for j in i for t in said[j][:5]]

  def length(i):
    late, early = map(metrics.mean_length, ends(i))
    return late / early

  def dist2(i):
    late, early = dist2_at_equal_words(*ends(i))
    return late / early

  share = repeats(openings, said)
  found = [
    (f'chats {name}: length, last 5 turns over first 5', length),
    (f'chats {name}: Dist-2, last 5 turns over first 5', dist2),
    (f'chats {name}: turns that repeat one', lambda i: float(share[i].mean())),
  ]
  return [Measured(what, *around(of, len(said), draws)) for what, of in found]


def kept(path: pathlib.Path, make: Callable[[], list[str]]) -> list[str]:
  """Returns the lines of a file, which is made if it is not there."""
  if not path.exists():
    write_whole(path, '\n'.join(make()) + '\n')
  return read_text(path).removesuffix('\n').split('\n')


def main(argv: list[str]) -> None:
  """Measures what the flags say."""
  if len(argv) > 1:
    raise app.UsageError(f'there is no argument {argv[1]!r}; all are flags')
  logging.set_verbosity(logging.FATAL)  # Orbax logs much
  target, draws = pathlib.Path(_TARGET.value), _DRAWS.value
  target.mkdir(parents=True, exist_ok=True)
  of = [_FORWARD, _BACKWARD, _DATA, _LIMIT, _CHATS, _TURNS, _SAMPLES, _LONGEST]
  settings = {each.name: each.value for each in of}
  about = target / 'settings.json'
  if about.exists() and read_json(about) != settings:
    raise UserError(f'{about} is of other flags; take another --target')
  write_json(about, settings)
  model, backward, judge = (
    gpt_jax.load(each.value) for each in (_FORWARD, _BACKWARD, _JUDGE)
  )
  asked = questions(_DATA.value, _LIMIT.value)
  truth = kept(target / 'true.txt', lambda: [_line(one.reply) for one in asked])
  measured = []

  def tell(some: list[Measured]) -> None:
    for one in some:
      print(f'{one.what}: {one.value:.4f} [{one.low:.4f}, {one.high:.4f}]', flush=True)
    measured.extend(some)

  ppl = perplexity(model, _DATA.value, 5 * draws, _LIMIT.value)
  tell([Measured('perplexity of a token, dev', *ppl)])
  rights = {}
  for system in ('true', *SYSTEMS):
    replies = truth
    if system != 'true':
      path = target / f'{system}.txt'
      of_system = system, model, backward, asked, _LONGEST.value
      replies = kept(path, lambda of_system=of_system: answered(*of_system))
    rights[system] = recognised(judge, asked, replies)
    tell(of_replies(system, replies, truth, rights[system], draws))
  for system in ('greedy', 'top-k', 'beams'):
    gap = (rights['MMI'] - rights[system]).mean(axis=1)
    value = around(lambda i, gap=gap: float(gap[i].mean()), len(gap), 5 * draws)
    tell([Measured(f'recognised, MMI less {system}', *value)])
  openings = [one.source[0] for one in asked[: _CHATS.value]]
  for controls, name in ((True, 'with controls'), (False, 'without controls')):
    lines = kept(
      target / f'chats {name}.jsonl',
      lambda controls=controls: [
        json.dumps({'turns': turns})
        for turns in chats(
          model,
          backward,
          openings,
          turns=_TURNS.value,
          samples=_SAMPLES.value,
          longest=_LONGEST.value,
          controls=controls,
        )
      ],
    )
    said = [json.loads(line)['turns'] for line in lines]
    tell(of_chats(name, openings, said, 5 * draws))
  if _RESULT.value:
    committed.of_script(_RESULT.value, __file__, measured)


if __name__ == '__main__':
  run_script(main)
