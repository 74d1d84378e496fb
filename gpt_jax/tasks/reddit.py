"""Comments of Reddit as dialogues, filtered as DialoGPT's are; without jax.

Source: Zhang et al. 2020, section 3.1, and the release's reddit_extractor/src/reddit.py
with its Makefile.local. A dialogue is a path of comments from the first to a leaf, one
that nobody answered. `CLEANING` has both sets of filters: 'release' needs nltk, whose
tokenizer of tweets puts spaces between words and marks.
"""

import collections
import functools
import importlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from gpt_jax.config import UserError, nearest
from gpt_jax.files import LARGEST
from gpt_jax.tasks.dialogues import Dialogue, Turn

_URL = '__url__'
EXAMPLES = 3  # of each reason in a report
# The 50 most frequent words of English. Differs: the paper does not print its list.
_FREQUENT = frozenset(
  'the be to of and a in that have i it for not on with he as you do at this but his '
  'by from they we say her she or an will my one all would there their what so up out '
  'if about who get which go me'.split()
)


class Comment(NamedTuple):
  """A comment.

  Attributes:
    id: with its kind, as `parent` has it: t1_.
    parent: what it answers: a comment's id, or the submission's (t3_).
    link: the submission's id.
  """

  id: str
  parent: str
  link: str
  text: str
  score: int


class Settings(NamedTuple):
  """What is kept; the defaults are those of the release's Makefile.local.

  Attributes:
    words: of a turn at most; a longer one ends the path, which begins after it.
    least, most: turns of a dialogue.
    score: of its last comment, at least.
    cleaning: a name of `CLEANING`.
    blocked: phrases in lower case; a reply with one of them is left out. The release's
      lists are empty.
  """

  words: int = 30
  least: int = 2
  most: int = 5
  score: int = 1
  cleaning: str = 'release'
  blocked: frozenset[str] = frozenset()


class Report:
  """How many comments and dialogues were kept and left out, by reason.

  Attributes:
    counts: by reason; 'kept' are dialogues.
    examples: the first texts of each reason.
  """

  def __init__(self):
    self.counts: collections.Counter[str] = collections.Counter()
    self.examples: dict[str, list[str]] = {}

  def add(self, reason: str, text: str) -> None:
    """Counts a text."""
    self.counts[reason] += 1
    examples = self.examples.setdefault(reason, [])
    if len(examples) < EXAMPLES:
      examples.append(text)


def comment(about: dict[str, Any]) -> tuple[Comment | None, str]:
  """Returns the comment in a line of a dump, or why there is none.

  The reasons are the release's, for a comment alone: 'deleted', 'quotes' (it has a >)
  and 'one word'; and 'no comment' where a field is missing.
  """
  names = 'id', 'parent_id', 'link_id', 'body'
  values = [about.get(name) for name in names]
  score = about.get('score') or 0
  if not all(isinstance(value, str) for value in values) or not (
    isinstance(score, int) and abs(score) < LARGEST
  ):
    return None, 'no comment'
  number, parent, link, body = values
  if body in ('[deleted]', '[removed]'):
    return None, 'deleted'
  if '>' in body or '&gt;' in body:
    return None, 'quotes'
  text = ' '.join(body.replace('\\', '').split())
  if len(text.split()) < 2:
    return None, 'one word'
  return Comment(f't1_{number}', parent, link, text, score), ''


def paths(comments: Iterable[Comment], settings: Settings) -> Iterator[list[Comment]]:
  """Yields the path to each leaf, in order of the leaves' parents and ids.

  A path ends where a comment has too many words, after `settings.most` turns, or at the
  first comment that is there.

  Args:
    comments: all that were kept of one submission.
  """
  by_id = {each.id: each for each in comments}
  parents = {each.parent for each in by_id.values()}
  for leaf in sorted(by_id.values(), key=lambda each: (each.parent, each.id)):
    if leaf.id in parents:
      continue
    path: list[Comment] = []
    at: Comment | None = leaf
    while at and len(path) < settings.most and len(at.text.split()) <= settings.words:
      path.append(at)
      at = by_id.get(at.parent)
    yield path[::-1]


def extract(
  comments: Iterable[Comment], settings: Settings, report: Report
) -> Iterator[Dialogue]:
  """Yields the dialogues of one submission that no filter leaves out.

  Raises:
    UserError: there is no such cleaning, or it needs nltk.
  """
  cleaning = _cleaning(settings.cleaning)
  for path in paths(comments, settings):
    text = '\n'.join(each.text for each in path)
    if len(path) < settings.least:
      report.add('few turns', text)
      continue
    if path[-1].score < settings.score:
      report.add('low score', text)
      continue
    turns = [cleaning.normal(each.text) for each in path]
    reason = next(
      (name for name, drops in cleaning.filters.items() if drops(turns)), ''
    )
    if not reason and settings.blocked:
      blocked = _phrases(settings.blocked).search(turns[-1].lower())
      reason = 'blocked phrase' if blocked else ''
    report.add(reason or 'kept', text)
    if not reason:
      yield [Turn(turn) for turn in turns]


@functools.cache
def _phrases(blocked: frozenset[str]) -> re.Pattern[str]:
  either = '|'.join(re.escape(phrase) for phrase in sorted(blocked))
  return re.compile(rf'(?<!\w)(?:{either})(?!\w)')


def _has_url(turns: Sequence[str]) -> bool:
  return any('http' in turn.lower() or 'www.' in turn.lower() for turn in turns)


def _many_words(turns: Sequence[str]) -> bool:
  return sum(len(turn.split()) for turn in turns) > 200


def _repeats(turns: Sequence[str]) -> bool:
  """Returns whether the reply has a word three times in a row."""
  words = turns[-1].split()
  return any(len(set(words[i : i + 3])) == 1 for i in range(len(words) - 2))


def _repeated_anywhere(turns: Sequence[str]) -> bool:
  """Returns whether the reply has a word three times, as the paper's text says."""
  words = collections.Counter(turns[-1].lower().split())
  return max(words.values(), default=0) >= 3


def _no_frequent_word(turns: Sequence[str]) -> bool:
  return not _FREQUENT & set(re.findall(r"[a-z']+", turns[-1].lower()))


def _in_reply(pattern: str) -> Callable[[Sequence[str]], bool]:
  return lambda turns: bool(re.search(pattern, turns[-1]))


def _anywhere(pattern: str) -> Callable[[Sequence[str]], bool]:
  return lambda turns: any(re.search(pattern, turn) for turn in turns)


def normal(text: str) -> str:
  """Returns a comment as the release writes it: words and marks between spaces.

  Without #tags, an address as __url__, b/c and its like written out, and of all other
  characters letters A to Z, digits and ()[]:,.!?'“”. Differs: the release also takes
  the word URL for an address.

  Raises:
    UserError: nltk is not installed.
  """
  try:
    tweets = importlib.import_module('nltk.tokenize.casual')
  except ImportError as e:
    raise UserError(
      "cleaning='release' needs nltk: `pip install nltk`, or cleaning='paper'"
    ) from e
  words = [word for word in text.split() if not word.startswith('#')]
  text = ' '.join(re.sub(r'(?i)http.*', f' {_URL}', word).strip() for word in words)
  text = text.replace('\\', '')
  for short, long in _SHORT.items():
    text = text.replace(short, long)
  # The names of an address and of a person keep their marks.
  parts = re.split(r'(__url__|__mention__)', text)
  text = ''.join(
    part if i % 2 else re.sub(r"[^A-Za-z0-9()\[\]:,.!?'“” ]", ' ', part)
    for i, part in enumerate(parts)
  )
  return ' '.join(' '.join(tweets.TweetTokenizer().tokenize(text)).split())


_SHORT = {'b/c': 'because', 'j/k': 'just kidding', 'w/o': 'without', 'w/': 'with'}


class Cleaning(NamedTuple):
  """How comments are cleaned.

  Attributes:
    normal: what a comment becomes.
    filters: by their names, in order: whether turns are left out.
  """

  normal: Callable[[str], str]
  filters: dict[str, Callable[[Sequence[str]], bool]]


CLEANING = {
  'paper': Cleaning(
    lambda text: ' '.join(text.split()),
    {
      'address': _has_url,
      'repeated word': _repeated_anywhere,
      'no frequent word': _no_frequent_word,
      'brackets': _in_reply(r'[\[\]]'),
      'many words': _many_words,
    },
  ),
  'release': Cleaning(
    normal,
    {
      'empty reply': lambda turns: not turns[-1],
      'long word': _in_reply(r'\S{31}'),
      'many words': _many_words,
      'address': _anywhere(_URL),
      'brackets': _anywhere(r'[\[\]()]'),
      'capitals': _anywhere(r'[A-Z]{5}'),
      'repeated word': _repeats,
    },
  ),
}


def checked(settings: Settings) -> None:
  """Raises a UserError if there is no such cleaning, or it needs nltk."""
  _cleaning(settings.cleaning).normal('a b')


def _cleaning(name: str) -> Cleaning:
  if name not in CLEANING:
    raise UserError(
      f'cleaning={name!r} is none of {", ".join(CLEANING)}.{nearest(name, CLEANING)}'
    )
  return CLEANING[name]
