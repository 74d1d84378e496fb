"""A trained model with its tokenizer: logits, scores and generated text."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gpt_jax.config import UserError
from gpt_jax.decoding import sample
from gpt_jax.decoding.rules import Sampling
from gpt_jax.evaluation import score
from gpt_jax.model.gpt import GPT, Shape
from gpt_jax.tokenizers import Tokenizer


class Generation(NamedTuple):
  """One continuation of a prompt.

  Attributes:
    prompt: its token ids.
    ids: new token ids; a last end-of-text is one of them.
    text: of the new tokens.
    token_logp: the model's log p of each new token, before any rule [nats].
  """

  prompt: list[int]
  ids: list[int]
  text: str
  token_logp: list[float]

  @property
  def logp(self) -> float:
    """log p of the whole continuation [nats]."""
    return sum(self.token_logp)

  @property
  def perplexity(self) -> float:
    """exp of the mean -log p of its tokens."""
    return math.exp(-self.logp / len(self.ids))


class Score(NamedTuple):
  """The likelihood of a continuation: log p [nats], whole and of each token."""

  logp: float
  token_logp: list[float]


@dataclasses.dataclass(frozen=True)
class LanguageModel:
  """A trained model and its tokenizer, ready to use.

  Attributes:
    params: the parameter tree (`model/gpt.py`).
    shape: of the model.
    tokenizer: text to ids and back.
    step: updates it was trained for.
  """

  params: dict
  shape: Shape
  tokenizer: Tokenizer
  step: int = 0

  def prompt_ids(self, text: str) -> list[int]:
    """Returns the ids of a prompt; the empty one is end-of-text, a new document."""
    return self.tokenizer.encode(text) or [self.tokenizer.eot]

  def logits(self, ids: Sequence[int] | np.ndarray) -> jax.Array:
    """Returns float32 logits of the next tokens.

    Args:
      ids: [T] or [B, T] token ids.

    Returns:
      [T, vocab] or [B, T, vocab].

    Raises:
      UserError: more ids than the context, or ids outside the vocabulary.
    """
    ids = np.asarray(ids, np.int32)
    if not 1 <= ids.shape[-1] <= self.shape.T:
      raise UserError(
        f'{ids.shape[-1]} ids do not fit: 1 .. {self.shape.T} are allowed'
      )
    if ids.min() < 0 or ids.max() >= self.shape.vocab:
      raise UserError(
        f'ids must be in 0 .. {self.shape.vocab - 1}, not {ids.min()} .. {ids.max()}'
      )
    logits = _logits(self.params, ids.reshape(-1, ids.shape[-1]), shape=self.shape)
    return logits.reshape(*ids.shape, -1)[..., : self.shape.vocab]

  def score(self, context: str, continuation: str) -> Score:
    """Returns the likelihood of `continuation` after `context` ('': a new document).

    The two are tokenized apart; what outgrows the model's context is cut off the
    beginning of `context`.
    """
    ids = self.tokenizer.encode(continuation)
    before = self.prompt_ids(context)
    logp = score.continuation_logp(self.params, self.shape, before, ids)
    return Score(sum(logp), logp)

  def generate(self, prompts: str | Sequence[str], **settings) -> list[Generation]:
    """Returns continuations of texts; settings as in `generate_ids`."""
    prompts = [prompts] if isinstance(prompts, str) else prompts
    return self.generate_ids([self.prompt_ids(p) for p in prompts], **settings)

  def generate_ids(
    self,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int = 128,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    num_return: int = 1,
    seed: int = 0,
  ) -> list[Generation]:
    """Returns continuations of token ids, `num_return` for each prompt, in order.

    Args:
      prompts: 1 .. T ids each.
      max_new_tokens: a continuation ends here or at end-of-text. One that outgrows the
        context goes on from its last T // 2 tokens.
      temperature: divides the logits; 0 is greedy.
      top_k: draw from the k likeliest tokens; 0 is all.
      top_p: draw from the smallest set of tokens with this mass; 1 is all.
      num_return: continuations of each prompt.
      seed: the draw of a continuation depends on it and on its number in the result.

    Raises:
      UserError: a setting out of its range, or a prompt longer than the context.
    """
    sampling = self._sampling(prompts, max_new_tokens, temperature, top_k, top_p)
    if num_return < 1:
      raise UserError(f'num_return={num_return} must be at least 1')
    rows = [list(p) for p in prompts for _ in range(num_return)]
    key = jax.random.key(seed)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(len(rows)))
    made = sample.generate(
      self.params,
      self.shape,
      rows,
      keys,
      max_new_tokens=max_new_tokens,
      sampling=sampling,
      eot=self.tokenizer.eot,
    )
    return [
      Generation(prompt, new.ids, self.tokenizer.decode(new.ids), new.logp)
      for prompt, new in zip(rows, made, strict=True)
    ]

  def stream(
    self,
    prompt: str,
    *,
    max_new_tokens: int = 128,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
  ) -> Iterator[str]:
    """Yields the text that `generate` would return, as it is decided.

    Never half a character: bytes that may be the beginning of one wait for the rest.
    """
    ids = self.prompt_ids(prompt)
    sampling = self._sampling([ids], max_new_tokens, temperature, top_k, top_p)
    key = jax.random.fold_in(jax.random.key(seed), 0)
    new, shown = [], ''
    for token in sample.stream(
      self.params,
      self.shape,
      ids,
      key,
      max_new_tokens=max_new_tokens,
      sampling=sampling,
      eot=self.tokenizer.eot,
    ):
      new.append(token)
      text = self.tokenizer.decode(new)
      ready = text.rstrip('\ufffd')
      if len(ready) > len(shown):
        yield ready[len(shown) :]
        shown = ready
    rest = self.tokenizer.decode(new)[len(shown) :]
    if rest:
      yield rest

  def _sampling(self, prompts, max_new_tokens, temperature, top_k, top_p) -> Sampling:
    """Returns the rules, after a check of everything that generation is given."""
    if max_new_tokens < 1:
      raise UserError(f'max_new_tokens={max_new_tokens} must be at least 1')
    if not prompts:
      raise UserError('there is no prompt; give one or more')
    for prompt in prompts:
      if not 1 <= len(prompt) <= self.shape.T:
        raise UserError(
          f'a prompt of {len(prompt)} tokens does not fit: the context is '
          f'{self.shape.T}; shorten it'
        )
    return Sampling(temperature, top_k, top_p)


@partial(jax.jit, static_argnames='shape')
def _logits(params, ids_BT, *, shape):
  return GPT(shape).apply({'params': params}, ids_BT)[0]
