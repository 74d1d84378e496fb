"""Runs tasks of EleutherAI's lm-eval on our models, as its model 'gpt_jax'.

  pip install lm_eval
  python -m gpt_jax.cli.lm_eval --model_args path=WORKDIR --tasks lambada_openai

That is lm-eval's own command line, with `--model gpt_jax` set; its other flags work as
usual. `path` is what `gpt_jax.load` takes: a workdir, a Hugging Face folder or
hf:NAME@REVISION; `checkpoint=latest` or a number of updates chooses a checkpoint. In
Python, importing this module is enough:

  from gpt_jax.cli.lm_eval import GPTJax
  lm_eval.simple_evaluate(GPTJax('WORKDIR'), tasks=['lambada_openai'])

An extra: nothing else of gpt_jax imports it or needs lm-eval. PyTorch is not needed.
"""

import sys
from collections.abc import Callable, Sequence
from typing import Any

try:  # before what takes long
  import lm_eval.models  # noqa: F401  or lm-eval would know no model but ours
except ModuleNotFoundError as error:
  missing = f'{error.name} is not installed; install it: pip install lm_eval'
  if __name__ == '__main__':
    sys.exit(f'error: {missing}')
  raise ModuleNotFoundError(missing, name=error.name) from error

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from tqdm import tqdm

from gpt_jax.cli.messages import shown
from gpt_jax.inference import lm_eval_requests
from gpt_jax.runs.load import load


@register_model('gpt_jax')
class GPTJax(TemplateLM):
  """A model of ours behind lm-eval's interface.

  Attributes:
    max_length: the context [tokens].
    max_gen_toks: most tokens of an answer, unless the task says.
  """

  max_gen_toks = lm_eval_requests.MOST_TOKENS

  def __init__(
    self,
    path: str,
    checkpoint: str | int = 'best',
    batch_size: int | str | None = None,
    max_batch_size: int | None = None,
    device: str | None = None,
  ):
    """Opens a model.

    Args:
      path: as in `load`.
      checkpoint: of a workdir: 'best', 'latest' or a number of updates.
      batch_size, max_batch_size, device: lm-eval's command line passes them to every
        model; they have no effect. jax takes all devices, or those of JAX_PLATFORMS.

    Raises:
      UserError: there is no such model.
    """
    super().__init__()
    del batch_size, max_batch_size, device
    self._path = str(path)  # lm-eval makes a number of one that looks like it
    self._model = load(self._path, checkpoint)

  @property
  def max_length(self) -> int:
    return self._model.config.T

  @property
  def eot_token_id(self) -> int:
    return self._model.tokenizer.eot

  @property
  def tokenizer_name(self) -> str:
    """The path, as a name of a file."""
    return self._path.replace('/', '__')

  def tok_encode(
    self, string: str, add_special_tokens: bool | None = None, **kwargs
  ) -> list[int]:
    """Returns the ids of a text; there are no special ones to add."""
    del add_special_tokens, kwargs
    return self._model.tokenizer.encode(string)

  def _encode_pair(
    self, context: str, continuation: str
  ) -> tuple[list[int], list[int]]:
    """Returns the ids of both, as in `lm_eval_requests.encode_pair`."""
    return lm_eval_requests.encode_pair(self._model.tokenizer, context, continuation)

  def loglikelihood(
    self, requests: list[Instance], disable_tqdm: bool = False
  ) -> list[tuple[float, bool]]:
    """Returns (log p [nats], whether greedy decoding would give it) of continuations.

    Raises:
      UserError: a continuation is empty or longer than the context of the model.
    """
    with tqdm(
      total=len(requests), desc='gpt_jax: scoring', disable=disable_tqdm
    ) as bar:
      return lm_eval_requests.likelihoods(self._model, requests, self._keep(bar))

  def _loglikelihood_tokens(
    self,
    requests: Sequence[tuple[tuple[str, str] | None, list[int], list[int]]],
    disable_tqdm: bool = False,
    **kwargs,
  ) -> list[tuple[float, bool]]:
    """Returns what `loglikelihood` does, of (texts, ids before, ids)."""
    del disable_tqdm, kwargs
    results = [(0.0, False)] * len(requests)
    pairs = [(before, after) for _, before, after in requests]
    for i, scored in lm_eval_requests.token_likelihoods(self._model, pairs):
      results[i] = scored
    return results

  def loglikelihood_rolling(
    self, requests: list[Instance], disable_tqdm: bool = False
  ) -> list[float]:
    """Returns log p of whole texts [nats], in windows of the model's context.

    The windows are lm-eval's: every token is predicted once, the first after
    end-of-text, and the last window is full.
    """
    with tqdm(
      total=len(requests), desc='gpt_jax: scoring', disable=disable_tqdm
    ) as bar:
      keep = self._keep(bar)
      return lm_eval_requests.rolling_likelihoods(self._model, requests, keep)

  def generate_until(
    self, requests: list[Instance], disable_tqdm: bool = False
  ) -> list[str]:
    """Returns what the model writes, as in `lm_eval_requests.written`.

    Raises:
      UserError: a setting is unknown or out of its range.
    """
    with tqdm(
      total=len(requests), desc='gpt_jax: writing', disable=disable_tqdm
    ) as bar:
      return lm_eval_requests.written(self._model, requests, self._keep(bar))

  def _keep(self, bar: tqdm) -> Callable[[str, Any, Any], None]:
    """Returns a function that keeps an answer in lm-eval's cache and moves a bar."""

    def keep(kind: str, args: Any, answer: Any) -> None:
      self.cache_hook.add_partial(kind, args, answer)
      bar.update()

    return keep


def main() -> None:
  """Runs lm-eval's command line, whose `--model` is ours unless another is given."""
  from lm_eval.__main__ import cli_evaluate

  sys.argv[1:1] = ['--model', 'gpt_jax']
  with shown():
    cli_evaluate()


if __name__ == '__main__':
  main()
