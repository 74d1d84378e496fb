"""Several tokens a forward pass: drafts looked up in the text, and checked.

The draft is what followed the last n-gram where the text had it before (prompt lookup
decoding: Saxena 2023). A pass reads the last token and the draft, and draws a token
after each of them, with the key that the token in this place has without drafts. As
long as these are what the draft says, the next was drawn after the right text; the
first that is not is kept, and the rest dropped.

That is speculative sampling (Leviathan et al. 2023, algorithm 1) with a draft that is
certain: a drafted token x is accepted with probability p(x), and what takes its place
is drawn from p without x, normalised, so that tokens have the distribution p (their
appendix A.1). As both come from one draw here, a text is even the one that its seed
gives without drafts, but for rounding.
"""

from functools import partial

import jax
import jax.numpy as jnp

from gpt_jax.decoding.contract import Model, model_of
from gpt_jax.decoding.logit_rules import NO_RULES, History, Rules, next_tokens
from gpt_jax.decoding.sampling import Decoding, Loop
from gpt_jax.decoding.selection import Sampling

_NGRAM = 3  # tokens of the text's end that are looked up; fewer where they are new


def drafted(text: History, K: int) -> jax.Array:
  """Returns K tokens that may follow each text, int32 [B, K].

  They are what followed the longest n-gram of the text's end, up to `_NGRAM`, where it
  stood before, the last time; a text that is short of K tokens there goes on as one
  that repeats itself.
  """
  ids_BW, length_B1 = text.ids_BW, text.length_B[:, None]
  w = jnp.arange(ids_BW.shape[1])
  alike_BW, longest_BW = jnp.bool_(True), 0
  for back in range(1, _NGRAM + 1):
    alike_BW &= jnp.roll(ids_BW, back, axis=1) == text.last(back)[:, :1]
    alike_BW &= (w >= back) & (length_B1 > back)
    longest_BW += alike_BW
  score_BW = jnp.where((w < length_B1) & (w > 0), longest_BW * len(w) + w, -1)
  from_B1 = score_BW.argmax(axis=1)[:, None]
  at_BK = from_B1 + jnp.arange(K) % jnp.maximum(length_B1 - from_B1, 1)
  return jnp.take_along_axis(ids_BW, at_BK, axis=1)


def advance(
  model: Model,
  state: Decoding,
  ends_V: jax.Array | None,
  room: jax.Array,
  *,
  K: int,
  sampling: Sampling,
  rules: Rules = NO_RULES,
  eot: int,
) -> Decoding:
  """Returns the state after one more pass: 1 .. K + 1 more tokens of each row.

  Rows that are done, or have `room` tokens, stay as they are.

  Args:
    state: with tokens counted by row, and a history.
  """
  text, T, rows = state.history, K + 1, jnp.arange(len(state.done_B))[:, None]
  t = jnp.arange(T)
  draft_BK = drafted(text, K)
  ids_BT = jnp.concatenate([text.last(1), draft_BK], axis=1)
  logits_BTV, cache = model.step_ahead(state.cache, ids_BT)

  flat = lambda x_BT: x_BT.reshape(-1, *x_BT.shape[2:])  # noqa: E731
  history = None
  if rules != NO_RULES:
    ahead_BW = text.ids_BW.at[rows, text.length_B[:, None] + t[:-1]].set(
      draft_BK, mode='drop'
    )
    length_BT = text.length_B[:, None] + t
    history = History(
      jnp.repeat(ahead_BW, T, axis=0), flat(length_BT), jnp.repeat(text.prompt_B, T)
    )
  key_BT = jax.vmap(lambda key, n: jax.vmap(partial(jax.random.fold_in, key))(n + t))(
    state.key_B, state.n
  )
  new_X = next_tokens(
    flat(logits_BTV), flat(key_BT), history, ends_V, sampling, rules, eot
  )
  new_BT = new_X.reshape(-1, T)

  end_BT = new_BT == eot if ends_V is None else ends_V[new_BT]
  on_BK = (new_BT[:, :-1] == draft_BK) & ~end_BT[:, :-1]
  count_B = 1 + jnp.cumprod(on_BK, axis=1).sum(axis=1)
  live_B = ~state.done_B & (state.n < room)
  count_B = jnp.where(live_B, jnp.minimum(count_B, room - state.n), 0)
  kept_BT = t < count_B[:, None]

  def put(old_BX, new_BT, first_B):
    at_BT = jnp.where(kept_BT, first_B[:, None] + t, old_BX.shape[1])
    return old_BX.at[rows, at_BT].set(new_BT, mode='drop')

  logp_BTV = jax.nn.log_softmax(logits_BTV)
  logp_BT = jnp.take_along_axis(logp_BTV, new_BT[..., None], axis=-1)[..., 0]
  return state.replace(
    cache=model.forget(cache, T - count_B),
    ids_BG=put(state.ids_BG, new_BT, state.n),
    logp_BG=put(state.logp_BG, logp_BT, state.n),
    done_B=state.done_B | (end_BT & kept_BT).any(axis=1),
    n=state.n + count_B,
    passes_B=state.passes_B + live_B,
    history=text.replace(
      ids_BW=put(text.ids_BW, new_BT, text.length_B), length_B=text.length_B + count_B
    ),
  )


@partial(
  jax.jit,
  static_argnames=('gpt', 'K', 'sampling', 'rules', 'eot'),
  donate_argnames='state',
)
def _run(params, state, limit, ends_V, room, *, gpt, **static):
  """Returns the state with `limit` tokens a row or more, up to `room`, or all done."""
  model = model_of(params, gpt)
  return jax.lax.while_loop(
    lambda state: ((state.n < jnp.minimum(limit, room)) & ~state.done_B).any(),
    lambda state: advance(model, state, ends_V, room, **static),
    state,
  )


def loop(K: int) -> Loop:
  """Returns the loop that drafts K tokens a pass."""
  return Loop(partial(_run, K=K), K)
