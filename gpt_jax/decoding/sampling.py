"""Greedy decoding and sampling with a KV cache, in one compiled loop.

Any model that offers the contract of `Model` will do; `model_of` gives that of a GPT.
Prompts of different lengths share a batch without effect on each other: padding follows
a prompt and is masked, and positions count real tokens only. There are two programs:
`compiled_begin` reads the prompts, `compiled_run` draws tokens up to a limit. Shapes
are rounded up, so that calls share programs.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from gpt_jax.decoding.logit_rules import NO_RULES, History, Rules, adjust
from gpt_jax.decoding.selection import Sampling, draw
from gpt_jax.model.cache import Cache
from gpt_jax.model.gpt import GPT, empty_cache, last_token, unembed

_CHUNK = 16  # tokens between two checks for a stop
_ROWS = 64  # of a batch; more prompts make more batches


class Model(NamedTuple):
  """What decoding needs of a model.

  Attributes:
    prefill: (ids_BT, length_B, S) -> (logits_BV, cache of S slots): logits of the
      token after each row's `length` real tokens.
    step: (cache, ids_B) -> (logits_BV, cache): one more token a row.
    branch: (cache, K) -> cache of K beams a row, for which a token takes K slots.
    step_beams: (cache, parent_BK, ids_BK) -> (logits_BKV, cache): beam k continues the
      text of beam parent_BK with a token.
  """

  prefill: Callable[[jax.Array, jax.Array, int], tuple[jax.Array, Any]]
  step: Callable[[Any, jax.Array], tuple[jax.Array, Any]]
  branch: Callable[[Any, int], Any]
  step_beams: Callable[[Any, jax.Array, jax.Array], tuple[jax.Array, Any]]


def model_of(params: dict, gpt: GPT) -> Model:
  """Returns the decoding contract of a GPT."""
  variables = {'params': params}

  def last_logits(cache, ids_BT, length_B):
    x_BTD, cache = gpt.apply(variables, ids_BT, cache=cache, length_B=length_B)
    return unembed(gpt, params, last_token(x_BTD, length_B)), cache

  def prefill(ids_BT, length_B, S):
    return last_logits(empty_cache(gpt, ids_BT.shape[0], S), ids_BT, length_B)

  def step(cache, ids_B):
    return last_logits(cache, ids_B[:, None], jnp.ones_like(ids_B))

  def step_beams(cache, parent_BK, ids_BK):
    x_BKD, cache = gpt.apply(variables, ids_BK, cache=cache.follow(parent_BK))
    return unembed(gpt, params, x_BKD), cache

  return Model(prefill, step, Cache.branch, step_beams)


@flax.struct.dataclass
class Decoding:
  """The state of a batch.

  Attributes:
    cache: the model's, with all tokens but the last one drawn.
    ids_BG: int32, new tokens; end-of-text after the first that ends the text.
    logp_BG: float32, the model's own log p of each (before the rules) [nats]; 0 after
      the end.
    done_B: bool, rows that need no more tokens.
    key_B: each row's PRNG key; the token at n is drawn with its n-th fold.
    n: int32 scalar, tokens drawn a row.
    history: the text so far; None if no rule needs it.
  """

  cache: Any
  ids_BG: jax.Array
  logp_BG: jax.Array
  done_B: jax.Array
  key_B: jax.Array
  n: jax.Array
  history: History | None


def _add(
  state: Decoding,
  logits_BV: jax.Array,
  ends_V: jax.Array | None,
  *,
  sampling: Sampling,
  rules: Rules,
  eot: int,
) -> Decoding:
  """Returns the state with one more token a row, drawn from the logits."""
  key_B = _fold(state.key_B, state.n)
  scores_BV = adjust(logits_BV, state.history, rules, eot, ends_V)
  ids_B = draw(scores_BV, key_B, sampling)
  if state.history is not None:
    # Where the rules leave no token at all, the text ends.
    ids_B = jnp.where(jnp.isneginf(scores_BV.max(axis=-1)), eot, ids_B)
  ids_B = jnp.where(state.done_B, eot, ids_B)
  logp_BV = jax.nn.log_softmax(logits_BV)
  logp_B = jnp.take_along_axis(logp_BV, ids_B[:, None], axis=-1)[:, 0]
  logp_B = jnp.where(state.done_B, 0, logp_B)
  put = partial(jax.lax.dynamic_update_slice_in_dim, start_index=state.n, axis=1)
  return state.replace(
    ids_BG=put(state.ids_BG, ids_B[:, None]),
    logp_BG=put(state.logp_BG, logp_B[:, None]),
    done_B=state.done_B | (ids_B == eot if ends_V is None else ends_V[ids_B]),
    n=state.n + 1,
    history=state.history and state.history.add(ids_B),
  )


def _fold(key_B: jax.Array, n: jax.Array) -> jax.Array:
  return jax.vmap(jax.random.fold_in, (0, None))(key_B, n)


def begin(
  model: Model,
  ids_BP: jax.Array,
  length_B: jax.Array,
  key_B: jax.Array,
  history: History | None = None,
  ends_V: jax.Array | None = None,
  *,
  G: int,
  sampling: Sampling,
  rules: Rules = NO_RULES,
  eot: int,
) -> Decoding:
  """Returns the state after the first new token of each row, with room for G.

  Args:
    length_B: tokens of each; a row of none is padding and done at once.
    history: of the prompts, with room for G more; needed if any rule is on.
    ends_V: bool, ids that end a text, `eot` among them; None: it alone.
    G: tokens to make room for.
  """
  B, P = ids_BP.shape
  logits_BV, cache = model.prefill(ids_BP, length_B, P + G)
  state = Decoding(
    cache=cache,
    ids_BG=jnp.full((B, G), eot, jnp.int32),
    logp_BG=jnp.zeros((B, G)),
    done_B=length_B == 0,
    key_B=key_B,
    n=jnp.int32(0),
    history=history,
  )
  return _add(state, logits_BV, ends_V, sampling=sampling, rules=rules, eot=eot)


def advance(
  model: Model,
  state: Decoding,
  ends_V: jax.Array | None = None,
  *,
  sampling: Sampling,
  rules: Rules = NO_RULES,
  eot: int,
) -> Decoding:
  """Returns the state after one more token of each row."""
  last_B = jax.lax.dynamic_index_in_dim(state.ids_BG, state.n - 1, 1, keepdims=False)
  logits_BV, cache = model.step(state.cache, last_B)
  state = state.replace(cache=cache)
  return _add(state, logits_BV, ends_V, sampling=sampling, rules=rules, eot=eot)


@partial(jax.jit, static_argnames=('gpt', 'G', 'sampling', 'rules', 'eot'))
def compiled_begin(
  params, ids_BP, length_B, key_B2, drawn, history, ends_V, *, gpt, **static
):
  """Returns the state after one more token of each row; `opening` gives arguments."""
  model = model_of(params, gpt)
  key_B = _fold(jax.random.wrap_key_data(key_B2, impl='threefry2x32'), drawn)
  return begin(model, ids_BP, length_B, key_B, history, ends_V, **static)


@partial(
  jax.jit,
  static_argnames=('gpt', 'sampling', 'rules', 'eot'),
  donate_argnames='state',
)
def compiled_run(params, state, limit, ends_V, *, gpt, **static):
  """Returns the state with `limit` tokens a row, or all rows done."""
  model = model_of(params, gpt)
  return jax.lax.while_loop(
    lambda state: (state.n < limit) & ~state.done_B.all(),
    lambda state: advance(model, state, ends_V, **static),
    state,
  )


def power_of_two(n: int) -> int:
  """Returns the least power of two that is n or more: shapes share programs."""
  return 1 << (n - 1).bit_length()


def bucket(n: int) -> int:
  """Returns the power of two, at least 16, that holds n tokens."""
  return max(16, power_of_two(n))


def room_after(length: int, max_new_tokens: int, T: int) -> int:
  """Returns slots for the new tokens after prompts of `length` tokens or more.

  They suffice for the shortest prompt of its bucket, so all prompts in it share a
  program. The last token needs none, since it is not read again.
  """
  P = bucket(length)
  return bucket(min(max_new_tokens, T - (P // 2 if P > 16 else 0)))


def filled(
  texts: Sequence[Sequence[int]], B: int, W: int
) -> tuple[np.ndarray, np.ndarray]:
  """Returns ids [B, W] and lengths [B]; rows without a text are empty."""
  length_B = np.zeros(B, np.int32)
  length_B[: len(texts)] = [len(text) for text in texts]
  ids_BW = np.zeros((B, W), np.int32)
  for row, text in zip(ids_BW, texts, strict=False):
    row[: len(text)] = text
  return ids_BW, length_B


def padded(
  texts: Sequence[Sequence[int]], B: int, room: int = 0
) -> tuple[np.ndarray, np.ndarray]:
  """Returns ids and lengths as `filled`, as wide as the bucket of lengths and room."""
  return filled(texts, B, bucket(max(map(len, texts))) + room)


def keys_of(seed: int | Sequence[int], prompts: int, num_return: int = 1) -> np.ndarray:
  """Returns the data of a PRNG key for each continuation, uint32 [N, 2].

  Args:
    seed: a number, or one for each prompt: then a prompt's keys depend on nothing else.
  """
  if np.ndim(seed):
    first = [(int(one), 0) for one in seed]
  else:
    first = [(int(seed), i) for i in range(prompts)]
  seeds = [np.random.SeedSequence((*x, j)) for x in first for j in range(num_return)]
  return np.stack([one.generate_state(2) for one in seeds])


def opening(
  gpt: GPT,
  texts: Sequence[Sequence[int]],
  key_B2: np.ndarray,
  *,
  new: int,
  max_new_tokens: int,
  rules: Rules,
  ends_V: np.ndarray | None,
  **static,
) -> tuple[tuple, dict, int]:
  """Returns what `compiled_begin` takes after the parameters, and the room for tokens.

  Its arrays, its static arguments, and how many tokens there is room for, that which it
  draws among them. The last token drawn needs no position, since it is not read again.
  Of a text longer than the context the last T // 2 tokens are read.

  Args:
    texts: prompt and new tokens so far; all of one length if they fill the context.
    key_B2: data of a PRNG key for each.
  """
  T = gpt.config.T
  B = power_of_two(len(texts))
  read = [text[-max(1, T // 2) :] if len(text) > T else text for text in texts]
  longest = max(map(len, read))
  G = room_after(longest, max_new_tokens, T)
  history = None
  if rules != NO_RULES:
    # As wide as the whole text will be, so that later rounds share a program; but one
    # without a limit may end soon.
    prompt = max(map(len, texts)) - new
    W = bucket(prompt) + bucket(min(max_new_tokens, max(new + G, 8 * T)))
    ids_BW, length_B = filled(texts, B, W)
    history = History(ids_BW, length_B, np.maximum(length_B - new, 0))
  ids_BP, length_B = padded(read, B)
  key_B2 = np.resize(key_B2, (B, 2))
  static |= {'gpt': gpt, 'rules': rules, 'G': G}
  arrays = ids_BP, length_B, key_B2, new, history, ends_V
  return arrays, static, min(max_new_tokens - new, T - longest + 1)


def _first(params: dict, **texts) -> tuple[Decoding, int]:
  """Returns the state after one more token of each text, and the room for tokens.

  Args:
    texts: the arguments of `opening`.
  """
  arrays, static, room = opening(**texts)
  return compiled_begin(params, *arrays, **static), room


class Continuation(NamedTuple):
  """New tokens of a row, up to and with one that ends it, and log p of each [nats]."""

  ids: list[int]
  logp: list[float]


def _until_end(ids: np.ndarray, logp: np.ndarray, ends: set[int]) -> Continuation:
  n = next((i + 1 for i, token in enumerate(ids.tolist()) if token in ends), len(ids))
  return Continuation(ids[:n].tolist(), logp[:n].tolist())


def _ending(eot: int, ends_V: np.ndarray | None) -> set[int]:
  """Returns the ids that end a text."""
  return {eot} if ends_V is None else set(np.flatnonzero(ends_V).tolist())


def batches(prompts: Sequence[Sequence[int]], new: int, T: int) -> Iterator[list[int]]:
  """Yields the numbers of prompts that share a batch."""
  groups = {}
  for i, prompt in enumerate(prompts):
    # Rows whose contexts fill up at different tokens cannot share one.
    outgrows = len(prompt) + new - 1 > T
    groups.setdefault(len(prompt) if outgrows else 0, []).append(i)
  for rows in groups.values():
    for at in range(0, len(rows), _ROWS):
      yield rows[at : at + _ROWS]


def generate(
  params: dict,
  gpt: GPT,
  prompts: Sequence[Sequence[int]],
  keys: np.ndarray,
  *,
  max_new_tokens: int,
  sampling: Sampling,
  rules: Rules = NO_RULES,
  eot: int,
  ends_V: np.ndarray | None = None,
  stopped: Callable[[int, list[int]], bool] | None = None,
  row_params: dict | None = None,
) -> list[Continuation]:
  """Returns the continuation of each prompt.

  A row's result does not depend on the other rows (up to rounding). When a text
  outgrows the context, decoding continues from its last T // 2 tokens.

  Args:
    prompts: token ids, 1 .. T of them each.
    keys: of `keys_of`, one for each prompt.
    max_new_tokens: fewer if one that ends the text is drawn.
    ends_V: bool, ids that end a text, `eot` among them; None: it alone.
    stopped: number and new tokens of a row -> whether they are enough; called every 16
      tokens.
    row_params: the parameters in the form that decodes one row fastest, or None.
  """
  static = {'gpt': gpt, 'sampling': sampling, 'rules': rules, 'eot': eot}
  ends = _ending(eot, ends_V)
  results = [Continuation([], []) for _ in prompts]
  for rows in batches(prompts, max_new_tokens, gpt.config.T):
    drawn = 0
    step_params = row_params if row_params and len(rows) == 1 else params
    while rows and drawn < max_new_tokens:
      texts = [[*prompts[i], *results[i].ids] for i in rows]
      of = {'new': drawn, 'max_new_tokens': max_new_tokens, 'ends_V': ends_V}
      state, room = _first(params, texts=texts, key_B2=keys[rows], **of, **static)
      live, n = dict(enumerate(rows)), 0
      while live and n < room:
        limit = room if stopped is None else min(room, n + _CHUNK)
        state = compiled_run(step_params, state, limit, ends_V, **static)
        ids_BG, logp_BG = np.asarray(state.ids_BG), np.asarray(state.logp_BG)
        for row, i in list(live.items()):
          new = _until_end(ids_BG[row, n:limit], logp_BG[row, n:limit], ends)
          results[i].ids.extend(new.ids)
          results[i].logp.extend(new.logp)
          if new.ids[-1] in ends or (stopped and stopped(i, results[i].ids)):
            del live[row]
        n = limit
      drawn += n
      rows = list(live.values())
  return results


def stream(
  params: dict,
  gpt: GPT,
  prompt: Sequence[int],
  key: np.ndarray,
  *,
  max_new_tokens: int,
  sampling: Sampling,
  rules: Rules = NO_RULES,
  eot: int,
  ends_V: np.ndarray | None = None,
  row_params: dict | None = None,
) -> Iterator[int]:
  """Yields the tokens of `generate` for one prompt, each as soon as it is drawn."""
  step_params = row_params or params
  static = {'gpt': gpt, 'sampling': sampling, 'rules': rules, 'eot': eot}
  ends, new = _ending(eot, ends_V), []
  while len(new) < max_new_tokens:
    of = {'new': len(new), 'max_new_tokens': max_new_tokens, 'ends_V': ends_V}
    state, room = _first(params, texts=[[*prompt, *new]], key_B2=key, **of, **static)
    for n in range(1, room + 1):
      # The first token is there already.
      state = compiled_run(step_params, state, n, ends_V, **static)
      new.append(int(np.asarray(state.ids_BG)[0, n - 1]))
      yield new[-1]
      if new[-1] in ends:
        return
