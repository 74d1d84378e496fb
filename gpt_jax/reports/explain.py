"""A page that shows what a model does with a text; one file, for any browser."""

import base64
import io
import json
import pathlib
from collections.abc import Sequence

import numpy as np

from gpt_jax import tokenizers
from gpt_jax.config import UserError
from gpt_jax.evaluation.introspection import Explanation
from gpt_jax.files import write_whole
from gpt_jax.inference.language_model import Generation, LanguageModel
from gpt_jax.reports import figures
from gpt_jax.training.metrics_log import read_metrics

_TEMPLATE = pathlib.Path(__file__).with_suffix('.html')
_SHOWN = 8  # likeliest next tokens
_BEAMS = 4
_DEPTH = 6  # tokens of the tree


def write(
  model: LanguageModel, text: str, target: str | pathlib.Path, workdir: str = ''
) -> None:
  """Writes the page of a text.

  Args:
    model: that reads it.
    text: to read.
    target: the .html file to write.
    workdir: whose loss curve is shown; '': none.

  Raises:
    UserError: the text does not fit (`LanguageModel.explain`).
  """
  found = model.explain(text)
  data = {
    'about': f'{text[:80]!r}: {len(found.ids) - 1} tokens, read by a model of '
    f'{model.config.L} layers of {model.config.N} heads, width {model.config.D}, after '
    f'{model.step:,} updates. Perplexity {np.exp(-found.logp.mean()):.2f}.',
    'pieces': [_text(model, token) for token in found.ids],
    'bits': [0.0, *(-found.logp / np.log(2)).round(3).tolist()],
    'rank': _ranks(found),
    'next': _next(model, found),
    'layers': model.config.L,
    'heads': model.config.N,
    'attention': _packed(found.attention),
    **_beams(model, found),
    'curve': _curve(workdir),
  }
  packed = json.dumps(data, ensure_ascii=False).replace('<', '\\u003c')
  page = _TEMPLATE.read_text(encoding='utf-8').replace('/*DATA*/null', packed)
  write_whole(target, page)


def _ranks(found: Explanation) -> list[int]:
  """Returns of each token which guess it was, from 1; 0 for end-of-text."""
  before = found.next_logp[:-1]
  return [0, *(1 + (before > found.logp[:, None]).sum(-1)).tolist()]


def _next(model: LanguageModel, found: Explanation) -> list[list]:
  """Returns (text, p, whether it came) of the likeliest tokens after each."""
  tables = []
  for t, logp in enumerate(found.next_logp):
    best = np.argsort(-logp)[:_SHOWN].tolist()
    came = found.ids[t + 1] if t + 1 < len(found.ids) else None
    best += [] if came is None or came in best else [came]
    tables.append([[_text(model, i), float(np.exp(logp[i])), i == came] for i in best])
  return tables


def _text(model: LanguageModel, token: int) -> str:
  if token == model.tokenizer.eot:
    return ''
  known = token < model.tokenizer.vocab
  return tokenizers.text_of(model.tokenizer, token) if known else '?'


def _packed(attention: np.ndarray) -> str:
  """Returns weights as base64 of bytes, 255 for 1."""
  return base64.b64encode((255 * attention).round().astype(np.uint8).tobytes()).decode()


def _beams(model: LanguageModel, found: Explanation) -> dict:
  """Returns the tree of hypotheses that beam search keeps, step by step, in words."""
  depth = min(_DEPTH, model.config.T - len(found.ids))
  kept = {}
  for steps in range(1, depth + 1):
    kept[steps] = model.generate_ids(
      [found.ids],
      beams=_BEAMS,
      num_return=_BEAMS,
      max_new_tokens=steps,
      length_penalty=0,
    )
  last = kept[depth] if kept else []
  said = (
    f'What {_BEAMS} beams keep after each step, by log p. The best, in bold, has '
    f'log p {last[0].logp:.2f} and perplexity {last[0].perplexity:.2f} a token; greedy '
    f'decoding finds log p {_greedy(model, found, depth).logp:.2f}.'
    if last
    else 'The context has no room for a continuation.'
  )
  return {
    'beamwords': said,
    'tree': _tree(model, [g for x in kept.values() for g in x]),
  }


def _greedy(model: LanguageModel, found: Explanation, depth: int) -> Generation:
  return model.generate_ids([found.ids], temperature=0, max_new_tokens=depth)[0]


def _tree(model: LanguageModel, kept: Sequence[Generation]) -> list[dict]:
  """Returns the hypotheses as a tree; the way to the last step's best is marked."""
  roots: list[dict] = []
  longest = max((len(one.ids) for one in kept), default=0)
  best = next((one.ids for one in kept if len(one.ids) == longest), [])
  for one in kept:
    nodes = roots
    for n, token in enumerate(one.ids, 1):
      ids = one.ids[:n]
      node = next((x for x in nodes if x['token'] == token), None)
      if node is None:
        node = {
          'token': token,
          'piece': _text(model, token),
          'logp': float(sum(one.token_logp[:n])),
          'best': ids == best[:n],
          'children': [],
        }
        nodes.append(node)
      nodes = node['children']
  return roots


def _curve(workdir: str) -> str:
  """Returns the loss curve of a run as HTML; '' if it has none."""
  if not workdir or not read_metrics(workdir):
    return ''
  buffer = io.BytesIO()
  try:
    figures.loss_curves(workdir, buffer)
  except UserError:
    return ''
  picture = base64.b64encode(buffer.getvalue()).decode()
  return (
    '<h2>How it was trained</h2><img alt="loss against updates" style="max-width:100%" '
    f'src="data:image/png;base64,{picture}">'
  )
