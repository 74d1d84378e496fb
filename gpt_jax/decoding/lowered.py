"""The programs of decoding, lowered and not compiled, for devices that may be absent.

They are those that `sampling.generate` and `beam.generate` run for the first batch of
prompts. Parameters may be shapes, on one device; `shapes` gives those of other arrays.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from gpt_jax.decoding import beam, sampling
from gpt_jax.decoding.beam_state import ROWS
from gpt_jax.decoding.rows import batches
from gpt_jax.model.gpt import GPT


def sampled(
  params: dict,
  gpt: GPT,
  prompts: Sequence[Sequence[int]],
  keys: np.ndarray,
  shapes: Callable[[Any], Any],
  *,
  max_new_tokens: int,
  **how,
) -> tuple[jax.stages.Lowered, jax.stages.Lowered, int]:
  """Returns the program that reads prompts, the loop over new tokens, and their rows.

  Args:
    keys, how: as in `sampling.generate`.
  """
  rows = next(batches(prompts, max_new_tokens, gpt.config.T))
  arrays, static, room = sampling.opening(
    gpt,
    [prompts[i] for i in rows],
    keys[rows],
    new=0,
    max_new_tokens=max_new_tokens,
    ahead=0,
    **how,
  )
  arrays = shapes(arrays)
  state = shapes(sampling.compiled_begin.eval_shape(params, *arrays, **static))
  begin = sampling.compiled_begin.lower(params, *arrays, **static)
  del static['G'], static['ahead']
  going_on = shapes((np.int32(room), how['ends_V']))
  run = sampling.compiled_run.lower(params, state, *going_on, **static)
  return begin, run, len(rows)


def searched(
  params: dict,
  gpt: GPT,
  prompts: Sequence[Sequence[int]],
  shapes: Callable[[Any], Any],
  *,
  beams: beam.Beams,
  starts: Sequence[int] = (),
  **how,
) -> tuple[jax.stages.Lowered, int]:
  """Returns the program of a beam search, prompts and tokens, and how many prompts.

  Args:
    starts, how: as in `beam.generate`.
  """
  size = min(len(prompts), max(1, ROWS // beams.beams))
  arrays, static = beam.arguments(
    gpt, prompts[:size], beams=beams, starts=starts[:size], **how
  )
  return beam.compiled_search.lower(params, *shapes(arrays), **static), size
