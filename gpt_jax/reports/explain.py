"""A page that shows how a model reads a text: one HTML file."""

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
from gpt_jax.inference.generation import Generation
from gpt_jax.inference.language_model import LanguageModel
from gpt_jax.reports import figures
from gpt_jax.training.metrics_log import read_metrics

_TEMPLATE = pathlib.Path(__file__).with_suffix('.html')
_SHOWN = 8  # most likely next tokens
_BEAMS = 4
_DEPTH = 6  # tokens of the tree


def write(
  model: LanguageModel, text: str, target: str | pathlib.Path, workdir: str = ''
) -> None:
  """Writes the page of a text, with the loss curve of `workdir` if it is not ''.

  Raises:
    UserError: the text does not fit (`LanguageModel.explain`).
  """
  reading = model.explain(text)
  data = {
    'about': f'{text[:80]!r}: {len(reading.ids) - 1} tokens, read by a model of '
    f'{model.config.L} layers of {model.config.N} heads, width {model.config.D}, after '
    f'{model.step:,} updates. Perplexity {np.exp(-reading.logp.mean()):.2f}.',
    'pieces': [_text(model, token) for token in reading.ids],
    'bits': [0.0, *(-reading.logp / np.log(2)).round(3).tolist()],
    'rank': _ranks(reading),
    'next': _next(model, reading),
    'layers': model.config.L,
    'heads': model.config.N,
    'attention': _packed(reading.attention),
    **_beams(model, reading),
    'curve': _curve(workdir),
  }
  packed = json.dumps(data, ensure_ascii=False).replace('<', '\\u003c')
  page = _TEMPLATE.read_text(encoding='utf-8').replace('/*DATA*/null', packed)
  write_whole(target, page)


def _ranks(reading: Explanation) -> list[int]:
  """Returns the rank of each token among the guesses, from 1; 0 for end-of-text."""
  before = reading.next_logp[:-1]
  return [0, *(1 + (before > reading.logp[:, None]).sum(-1)).tolist()]


def _next(model: LanguageModel, reading: Explanation) -> list[list]:
  """Returns (text, p, whether it came next) of the most likely tokens after each."""
  tables = []
  for t, logp in enumerate(reading.next_logp):
    best = np.argsort(-logp)[:_SHOWN].tolist()
    came = reading.ids[t + 1] if t + 1 < len(reading.ids) else None
    best += [] if came is None or came in best else [came]
    tables.append([[_text(model, i), float(np.exp(logp[i])), i == came] for i in best])
  return tables


def _text(model: LanguageModel, token: int) -> str:
  if token == model.tokenizer.eot:
    return ''
  known = token < model.tokenizer.vocab
  return tokenizers.text_of(model.tokenizer, token) if known else '?'


def _packed(attention: np.ndarray) -> str:
  """Returns attention weights as bytes in base64, 255 for a weight of 1."""
  return base64.b64encode((255 * attention).round().astype(np.uint8).tobytes()).decode()


def _beams(model: LanguageModel, reading: Explanation) -> dict:
  """Returns the tree of the hypotheses that beam search keeps after each step."""
  depth = min(_DEPTH, model.config.T - len(reading.ids))
  kept = {}
  for steps in range(1, depth + 1):
    kept[steps] = model.generate_ids(
      [reading.ids],
      beams=_BEAMS,
      num_return=_BEAMS,
      max_new_tokens=steps,
      length_penalty=0,
    )
  last = kept[depth] if kept else []
  words = (
    f'What {_BEAMS} beams keep after each step, by log p. The best, in bold, has '
    f'log p {last[0].logp:.2f} and perplexity {last[0].perplexity:.2f} a token; greedy '
    f'decoding finds log p {_greedy(model, reading, depth).logp:.2f}.'
    if last
    else 'The context has no room for a continuation.'
  )
  return {
    'beamwords': words,
    'tree': _tree(model, [g for x in kept.values() for g in x]),
  }


def _greedy(model: LanguageModel, reading: Explanation, depth: int) -> Generation:
  return model.generate_ids([reading.ids], temperature=0, max_new_tokens=depth)[0]


def _tree(model: LanguageModel, kept: Sequence[Generation]) -> list[dict]:
  """Returns hypotheses as a tree; the path to the best of the last step is marked."""
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
  """Returns the loss curve of a run as HTML, or ''."""
  if not workdir or not read_metrics(workdir):
    return ''
  buffer = io.BytesIO()
  try:
    figures.loss_figure(workdir).savefig(buffer, dpi=130, format='png')
  except UserError:
    return ''
  picture = base64.b64encode(buffer.getvalue()).decode()
  return (
    '<h2>How it was trained</h2><img alt="loss against updates" style="max-width:100%" '
    f'src="data:image/png;base64,{picture}">'
  )
