"""Greedy decoding and sampling with a KV cache, in one compiled loop.

Any model that offers the contract of `contract.Model` will do.
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

from gpt_jax.decoding.contract import Model, model_of
from gpt_jax.decoding.logit_rules import NO_RULES, History, Rules, next_tokens
from gpt_jax.decoding.rows import (
  batches,
  bucket,
  filled,
  padded,
  power_of_two,
  room_after,
  shared,
)
from gpt_jax.decoding.selection import Sampling
from gpt_jax.model.gpt import GPT

_CHUNK = 16  # tokens between two checks for a stop


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
    n: int32, tokens drawn a row: a scalar, or [B] where rows differ.
    history: the text so far; None if no rule needs it.
    passes_B: int32, forward passes that a row's tokens took; None: one each.
  """

  cache: Any
  ids_BG: jax.Array
  logp_BG: jax.Array
  done_B: jax.Array
  key_B: jax.Array
  n: jax.Array
  history: History | None
  passes_B: jax.Array | None = None


class Loop(NamedTuple):
  """How tokens after the first are made: one a pass, or several (`speculation.py`).

  Attributes:
    run: as `compiled_run`; one that looks ahead takes the most tokens of a row,
      `room`, too.
    ahead: tokens that a pass may read beyond those that it keeps; 0: a token a pass.
  """

  run: Callable[..., Decoding]
  ahead: int = 0


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
  ids_B = next_tokens(logits_BV, key_B, state.history, ends_V, sampling, rules, eot)
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
  ahead: int = 0,
  shared_1C: jax.Array | None = None,
) -> Decoding:
  """Returns the state after the first new token of each row, with room for G.

  Args:
    length_B: tokens of each; a row of none is padding and done at once.
    history: of the prompts, with room for G more; needed if any rule is on.
    ends_V: bool, ids that end a text, `eot` among them; None: it alone.
    G: tokens to make room for.
    ahead: as in `Loop`.
    shared_1C: tokens that stand before all prompts, which are 1 token or more; None:
      none.
  """
  B, S = len(length_B), ids_BP.shape[1] + G + ahead
  if shared_1C is None:
    logits_BV, cache = model.prefill(ids_BP, length_B, S)
  else:
    C = shared_1C.shape[1]
    _, cache = model.prefill(shared_1C, jnp.array([C]), C)
    logits_BV, cache = model.extend(model.share(cache, B, S), ids_BP, length_B)
  state = Decoding(
    cache=cache,
    ids_BG=jnp.full((B, G), eot, jnp.int32),
    logp_BG=jnp.zeros((B, G)),
    done_B=length_B == 0,
    key_B=key_B,
    n=jnp.int32(0),
    history=history,
  )
  state = _add(state, logits_BV, ends_V, sampling=sampling, rules=rules, eot=eot)
  if not ahead:
    return state
  each_B = jnp.ones_like(length_B)
  return state.replace(cache=model.ragged(state.cache), n=each_B, passes_B=each_B)


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


@partial(jax.jit, static_argnames=('gpt', 'G', 'sampling', 'rules', 'eot', 'ahead'))
def compiled_begin(
  params,
  ids_BP,
  length_B,
  key_B2,
  drawn,
  history,
  ends_V,
  shared_1C=None,
  *,
  gpt,
  **static,
):
  """Returns the state after one more token of each row; `opening` gives arguments."""
  model = model_of(params, gpt)
  key_B = _fold(jax.random.wrap_key_data(key_B2, impl='threefry2x32'), drawn)
  of = ids_BP, length_B, key_B, history, ends_V
  return begin(model, *of, shared_1C=shared_1C, **static)


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
  ahead: int,
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
  if rules != NO_RULES or ahead:
    # As wide as the whole text will be, so that later rounds share a program; but one
    # without a limit may end soon.
    prompt = max(map(len, texts)) - new
    W = bucket(prompt) + bucket(min(max_new_tokens, max(new + G, 8 * T)))
    ids_BW, length_B = filled(texts, B, W)
    history = History(ids_BW, length_B, np.maximum(length_B - new, 0))
  C = shared(read)
  ids_BP, length_B = padded([text[C:] for text in read], B)
  key_B2 = np.resize(key_B2, (B, 2))
  static |= {'gpt': gpt, 'rules': rules, 'G': G, 'ahead': ahead}
  shared_1C = np.array([read[0][:C]], np.int32) if C else None
  arrays = ids_BP, length_B, key_B2, new, history, ends_V, shared_1C
  return arrays, static, min(max_new_tokens - new, T - longest + 1)


def _first(params: dict, **texts) -> tuple[Decoding, int]:
  """Returns the state after one more token of each text, and the room for tokens.

  Args:
    texts: the arguments of `opening`.
  """
  arrays, static, room = opening(**texts)
  return compiled_begin(params, *arrays, **static), room


class Continuation(NamedTuple):
  """New tokens of a row, up to and with one that ends it, and log p of each [nats].

  Attributes:
    passes: forward passes that they took.
  """

  ids: list[int]
  logp: list[float]
  passes: int = 0


def _until_end(ids: np.ndarray, logp: np.ndarray, ends: set[int]) -> Continuation:
  n = next((i + 1 for i, token in enumerate(ids.tolist()) if token in ends), len(ids))
  return Continuation(ids[:n].tolist(), logp[:n].tolist())


def _counted(state: Decoding) -> np.ndarray:
  """Returns how many tokens each row has, [B]."""
  return np.broadcast_to(np.asarray(state.n), state.done_B.shape)


def _ending(eot: int, ends_V: np.ndarray | None) -> set[int]:
  """Returns the ids that end a text."""
  return {eot} if ends_V is None else set(np.flatnonzero(ends_V).tolist())


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
  loop: Loop | None = None,
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
    loop: how tokens are made; None: one a pass.
  """
  loop = loop or Loop(compiled_run)
  static = {'gpt': gpt, 'sampling': sampling, 'rules': rules, 'eot': eot}
  ends = _ending(eot, ends_V)
  results = [Continuation([], []) for _ in prompts]
  for rows in batches(prompts, max_new_tokens, gpt.config.T):
    drawn = 0
    step_params = row_params if row_params and len(rows) == 1 else params
    while rows and drawn < max_new_tokens:
      texts = [[*prompts[i], *results[i].ids] for i in rows]
      of = {'new': drawn, 'max_new_tokens': max_new_tokens, 'ends_V': ends_V}
      of |= {'ahead': loop.ahead}
      state, room = _first(params, texts=texts, key_B2=keys[rows], **of, **static)
      live, n_B = dict(enumerate(rows)), np.zeros(len(rows), int)
      while live and (n := min(n_B[row] for row in live)) < room:
        limit = room if stopped is None else min(room, n + _CHUNK)
        more = {'room': room} if loop.ahead else {}
        state = loop.run(step_params, state, limit, ends_V, **more, **static)
        ids_BG, logp_BG = np.asarray(state.ids_BG), np.asarray(state.logp_BG)
        before_B, n_B = n_B, _counted(state)
        for row, i in list(live.items()):
          here = row, slice(before_B[row], n_B[row])
          new = _until_end(ids_BG[here], logp_BG[here], ends)
          results[i].ids.extend(new.ids)
          results[i].logp.extend(new.logp)
          enough = stopped and stopped(i, results[i].ids)
          if enough or results[i].ids[-1] in ends:
            del live[row]
      for row, i in enumerate(rows):
        passes = len(results[i].ids)
        if state.passes_B is not None:
          passes = results[i].passes + int(state.passes_B[row])
        results[i] = results[i]._replace(passes=passes)
      drawn += room
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
  loop: Loop | None = None,
) -> Iterator[int]:
  """Yields the tokens of `generate` for one prompt, each as soon as it is drawn."""
  loop, step_params = loop or Loop(compiled_run), row_params or params
  static = {'gpt': gpt, 'sampling': sampling, 'rules': rules, 'eot': eot}
  ends, new = _ending(eot, ends_V), []
  while len(new) < max_new_tokens:
    of = {'new': len(new), 'max_new_tokens': max_new_tokens, 'ends_V': ends_V}
    of |= {'ahead': loop.ahead}
    state, room = _first(params, texts=[[*prompt, *new]], key_B2=key, **of, **static)
    more, n = {'room': room} if loop.ahead else {}, 0
    while n < room:
      # The first token is there already.
      state = loop.run(step_params, state, n + 1, ends_V, **more, **static)
      before, n = n, int(_counted(state)[0])
      for token in np.asarray(state.ids_BG)[0, before:n].tolist():
        new.append(token)
        yield token
        if token in ends:
          return
