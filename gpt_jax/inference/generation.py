"""What a language model answers with: texts that it wrote, and likelihoods."""

import math
from typing import NamedTuple


class Generation(NamedTuple):
  """One continuation of a prompt.

  Attributes:
    ids: new token ids; a last end-of-text is one of them.
    text: what they add to the prompt's text: that of prompt and new tokens together
      without the prompt's. Where a stop ended it, the text before the stop; ids are
      those that lie wholly in it.
    token_logp: the model's log p of each new token, before any rule [nats].
    score: ranks the continuations of a prompt: log p; for 'minimum_risk', the expected
      utility. For beams, log p under the rules over the length penalty, of all tokens
      up to the one that ended it: also of those of a stop, as of end-of-text. Else a
      text would be likelier the sooner a stop cuts it.
    number: of the prompt, from 0.
    stop_logp: log p of each token after `ids` up to the one that completed the stop;
      empty: no stop ended it.
    passes: forward passes that its tokens took, by 'greedy' and 'sample': one a token,
      or fewer with `speculate`. They may have made more tokens than a stop left.
  """

  prompt: list[int]
  ids: list[int]
  text: str
  token_logp: list[float]
  score: float
  number: int
  stop_logp: tuple[float, ...] = ()
  passes: int = 0

  @property
  def logp(self) -> float:
    """log p of the whole continuation [nats]."""
    return sum(self.token_logp)

  @property
  def perplexity(self) -> float:
    """exp of the mean -log p of its tokens; 1 if there are none."""
    return math.exp(-self.logp / max(1, len(self.ids)))


class Score(NamedTuple):
  """The likelihood of a continuation: log p [nats], whole and of each token."""

  logp: float
  token_logp: list[float]
