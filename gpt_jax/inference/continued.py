"""The text that new ids add to a prompt, and the stop that ends it."""

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence

from gpt_jax.tokenizers import Tokenizer, special_tokens

# Ids of a prompt that are decoded with the new ones, at least. What an id writes
# depends on fewer: a character has 4 bytes, and GPT-1's mark of a word's end, spelled
# out, 4 entries.
_TAIL = 16


@dataclasses.dataclass(frozen=True)
class Continued:
  """What new ids write after a prompt.

  It is the text of prompt and new ids together, without the prompt's: so a blank that a
  tokenizer writes between words stands there, also if it does not begin a text. A
  character that the prompt began and the new ids complete is theirs.

  Attributes:
    tail: the last ids of the prompt, enough to tell what is written after it: none from
      before a special token, since texts between those are encoded apart.
    ends: ids that end a text and write nothing there.
  """

  tokenizer: Tokenizer
  tail: list[int]
  ends: tuple[int, ...]

  @classmethod
  def of(
    cls, tokenizer: Tokenizer, prompt: Sequence[int], ends: Sequence[int]
  ) -> 'Continued':
    """Returns what is written after a prompt.

    Args:
      ends: ids that end a text.
    """
    special = set(special_tokens(tokenizer).values())
    start = next((i for i in range(len(prompt), 0, -1) if prompt[i - 1] in special), 0)
    known = [i for i in prompt[start:] if i < tokenizer.vocab]
    n = _TAIL
    # SentencePiece drops blanks at the beginning of a text, and only there.
    while n < len(known) and not tokenizer.decode(known[-n:]).strip():
      n *= 2
    return cls(tokenizer, known[-n:], tuple(ends))

  @functools.cached_property
  def _before(self) -> str:
    """The text of the prompt's last ids."""
    return self.tokenizer.decode(self.tail)

  def text(self, ids: Sequence[int]) -> str:
    """Returns the text of new ids; a last one that ends a text is no part of it."""
    if ids and ids[-1] in self.ends:
      ids = ids[:-1]
    # A model may know more ids than its tokenizer.
    ids = [i for i in ids if i < self.tokenizer.vocab]
    before = self._before
    whole = self.tokenizer.decode([*self.tail, *ids])
    if whole.startswith(before):
      return whole[len(before) :]
    return whole[len(os.path.commonprefix((before, whole))) :]


def first_stop(text: str, stops: Sequence[str]) -> tuple[int, int] | None:
  """Returns where in a text the first stop begins and ends; None: there is none.

  The first is the one that is complete first; of several that end there, the longest.
  So it does not depend on what follows.
  """
  found = [(at + len(stop), at) for stop in stops if (at := text.find(stop)) >= 0]
  if not found:
    return None
  end, start = min(found)
  return start, end


def before_stop(
  ids: Sequence[int], stops: Sequence[str], text_of: Callable[[Sequence[int]], str]
) -> tuple[int, int, str] | None:
  """Returns what is left of ids where the first stop in their text ends it.

  The text of more ids need not be longer: SentencePiece writes a mark for each byte of
  a character that is not complete. So ids are tried one by one, from the last on.

  Returns:
    how many ids lie wholly before the stop, with how many it is complete, and the text
    before it; None: there is no stop in the text of the ids.
  """
  if not (found := first_stop(text_of(ids), stops)):
    return None
  used = len(ids)
  while shorter := first_stop(text_of(ids[: used - 1]), stops):
    found, used = shorter, used - 1
  text = text_of(ids[:used])[: found[0]]
  kept = next(n for n in range(used, -1, -1) if text.startswith(text_of(ids[:n])))
  return kept, used, text


def stop_begun(text: str, stops: Sequence[str]) -> int:
  """Returns how many characters at the end of a text may be the beginning of a stop."""
  begun = [n for stop in stops for n in range(len(stop)) if text.endswith(stop[:n])]
  return max(begun, default=0)
