"""A trained model with its tokenizer: logits, scores and generated text."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from gpt_jax.config import UserError, nearest
from gpt_jax.decoding import (
  beam,
  lowered,
  reranking,
  sampling,
  speculation,
  stochastic_beam,
)
from gpt_jax.decoding import stops as stop_texts
from gpt_jax.decoding.generation_config import GenerationConfig
from gpt_jax.decoding.guidance import Guidance
from gpt_jax.evaluation import introspection, likelihood
from gpt_jax.inference.continued import Continued, before_stop, first_stop, stop_begun
from gpt_jax.inference.generation import Generation, Score
from gpt_jax.model.decode_form import decode_form, is_fused
from gpt_jax.model.gpt import GPT, unembed
from gpt_jax.model.gpt_config import GPTConfig
from gpt_jax.model.quantize import quantized, transposed
from gpt_jax.tokenizers import Tokenizer, encode_special, start_of_text
from gpt_jax.tokenizers.spelling import Spelling, spelling


@dataclasses.dataclass(frozen=True)
class LanguageModel:
  """A trained model and its tokenizer, ready to use.

  Attributes:
    params: the parameter tree (`model/gpt.py`).
    step: updates it was trained for.
    ends: ids that end a text, besides the tokenizer's end-of-text.
  """

  params: dict
  gpt: GPT
  tokenizer: Tokenizer
  step: int = 0
  ends: tuple[int, ...] = ()

  @property
  def config(self) -> GPTConfig:
    """The architecture of the model."""
    return self.gpt.config

  def prompt_ids(self, text: str, special: bool = False) -> list[int]:
    """Returns the ids of a prompt; the empty one is end-of-text, a new document.

    Args:
      special: names of special tokens, such as <|endoftext|>, are these tokens.
    """
    ids = (
      encode_special(self.tokenizer, text) if special else self.tokenizer.encode(text)
    )
    return ids or [start_of_text(self.tokenizer)]

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
    if not 1 <= ids.shape[-1] <= self.config.T:
      raise UserError(
        f'{ids.shape[-1]} ids do not fit: 1 .. {self.config.T} are allowed'
      )
    if ids.min() < 0 or ids.max() >= self.config.vocab:
      raise UserError(
        f'ids must be in 0 .. {self.config.vocab - 1}, not {ids.min()} .. {ids.max()}'
      )
    logits = _logits(self.params, ids.reshape(-1, ids.shape[-1]), gpt=self.gpt)
    return logits.reshape(*ids.shape, -1)[..., : self.config.vocab]

  def score(self, context: str, continuation: str) -> Score:
    """Returns the likelihood of `continuation` after `context` ('': a new document).

    The two are tokenized apart; if they outgrow the model's context, the beginning of
    `context` is cut off.
    """
    ids = self.tokenizer.encode(continuation)
    before = self.prompt_ids(context)
    logp = likelihood.continuation_logp(self.params, self.gpt, before, ids)
    return Score(sum(logp), logp)

  def explain(self, text: str) -> introspection.Explanation:
    """Returns attention, states and likelihoods of a text that starts a document.

    Raises:
      UserError: the text is empty, or longer than the context less one.
    """
    self._check_stored('explain')
    ids = [start_of_text(self.tokenizer), *self.tokenizer.encode(text)]
    pieces = ['', *(self._decode([i]) for i in ids[1:])]
    return introspection.explained(self.params, self.gpt, ids, pieces)

  def generate(self, prompts: str | Sequence[str], **settings) -> list[Generation]:
    """Returns continuations of texts, `num_return` for each, in order.

    Args:
      **settings: fields of `GenerationConfig`: max_new_tokens, temperature, top_k,
        top_p, seed, num_return, stop, beams and others.

    Raises:
      UserError: settings that are unknown, out of their range or don't go together, or
        a prompt longer than the context; all in one message.
    """
    prompts = [prompts] if isinstance(prompts, str) else prompts
    special = bool(settings.get('special'))
    ids = [self.prompt_ids(prompt, special) for prompt in prompts]
    return self.generate_ids(ids, **settings)

  def generate_ids(
    self,
    prompts: Sequence[Sequence[int]],
    guidance: Guidance | None = None,
    **settings,
  ) -> list[Generation]:
    """Returns continuations of token ids; all else is as in `generate`.

    Args:
      guidance: of beams; it says nothing to other methods.
    """
    prompts, how = self._checked(prompts, settings)
    beams = functools.partial(self._beams, guidance=guidance)
    searches = {'beam': beams, 'stochastic': self._stochastic}
    search = searches.get(how.chosen(), self._drawn)
    results, stops = [], how.stops()
    for number, candidates in enumerate(search(prompts, how)):
      prompt, generations = prompts[number], []
      text_of = self._continued(prompt, how).text
      for ids, logp, value, *passes in candidates:
        cut = before_stop(ids, stops, text_of)
        n, used, text = cut or (len(ids), len(ids), text_of(ids))
        value = sum(logp[:n]) if value is None else value
        rest = tuple(logp[n:used])
        generations.append(
          Generation(prompt, ids[:n], text, logp[:n], value, number, rest, *passes)
        )
      if stops and how.chosen() == 'beam':
        # Bytes that are no character may differ, and have one text.
        first = {}
        for one in generations:
          first.setdefault(one.text, one)
        generations = list(first.values())
      if how.chosen() == 'minimum_risk':
        ranked = reranking.minimum_risk(
          generations, lambda a, b: reranking.unigram_f1(a.ids, b.ids)
        )
        generations = [one._replace(score=value) for one, value in ranked]
      results += generations[: how.num_return]
    return results

  def _drawn(
    self, prompts: list[list[int]], how: GenerationConfig
  ) -> list[list[tuple]]:
    """Returns ids, log p, no score and passes of the draws of each prompt."""
    stops, n = how.stops(), how.draws()
    rows = [prompt for prompt in prompts for _ in range(n)]
    continued = [self._continued(prompt, how) for prompt in rows]

    def stopped(row, ids):
      return first_stop(continued[row].text(ids), stops) is not None

    continuations = sampling.generate(
      self._decode_params,
      self.gpt,
      rows,
      sampling.keys_of(how.seed, len(prompts), n),
      sampling=how.sampling(),
      stopped=stopped if stops else None,
      **self._loop(how),
      **self._limits(how),
    )
    drawn = [(one.ids, one.logp, None, one.passes) for one in continuations]
    return [drawn[at : at + n] for at in range(0, len(drawn), n)]

  def _beams(
    self, prompts: list[list[int]], how: GenerationConfig, guidance: Guidance | None
  ) -> list[list[tuple]]:
    """Returns the best hypotheses of each prompt, without hashes of their texts."""
    found = beam.generate(
      self._decode_params,
      self.gpt,
      prompts,
      num_return=how.num_return,
      guidance=guidance,
      **self._search(prompts, how),
    )
    return [[one[:3] for one in rows] for rows in found]

  def _search(self, prompts: list[list[int]], how: GenerationConfig) -> dict:
    """Returns the arguments of a beam search."""
    ends, stops, of_stops = self._ends(how), how.stops(), {}
    if stops:
      tails = [self._continued(prompt, how).tail for prompt in prompts]
      of_stops = {
        'stops': stop_texts.automaton(stops, self._spelling, self.config.V, ends),
        'starts': [stop_texts.start(stops, self._spelling, tail) for tail in tails],
      }
    constraint = how.constraint(self.tokenizer, self.config.vocab, ends)
    searching = {'beams': how.searching(), 'constraint': constraint}
    return searching | of_stops | self._limits(how)

  def lowered(
    self,
    prompts: Sequence[Sequence[int]],
    shapes: Callable[[Any], Any],
    **settings,
  ) -> dict[str, tuple[jax.stages.Lowered, int]]:
    """Returns the programs that `generate_ids` runs for its first batch, not compiled.

    'prompt' and 'tokens', which is a loop, or for beams 'search', which does both;
    each with how many rows, or searches, it computes.
    Parameters may be shapes, on one device that may be absent.

    Args:
      shapes: arrays -> their shapes on that device.

    Raises:
      UserError: as in `generate_ids`; or beams are drawn, or tokens drafted, which is
        left out.
    """
    prompts, how = self._checked(prompts, settings)
    if how.speculate:
      raise UserError(
        f'speculate={how.speculate} is not compiled for absent devices; leave it out'
      )
    if how.chosen() == 'stochastic':
      raise UserError(
        "method='stochastic' is not compiled for absent devices; use beam"
      )
    form = jax.eval_shape(lambda params: decode_form(params, self.gpt), self.params)
    of = shapes(form), self.gpt
    if how.chosen() == 'beam':
      search = self._search(prompts, how)
      return {'search': lowered.searched(*of, prompts, shapes, **search)}
    rows = [prompt for prompt in prompts for _ in range(how.draws())]
    keys = sampling.keys_of(how.seed, len(prompts), how.draws())
    limits = self._limits(how)
    begin, run, number = lowered.sampled(
      *of, rows, keys, shapes, sampling=how.sampling(), **limits
    )
    return {'prompt': (begin, number), 'tokens': (run, number)}

  @functools.cached_property
  def _spelling(self) -> Spelling:
    """What each entry of the vocabulary writes."""
    return spelling(self.tokenizer)

  def _ends(self, how: GenerationConfig) -> tuple[int, ...]:
    """Returns the ids that end a text."""
    return how.ends(self.tokenizer, self.ends, self.config.vocab)

  def _continued(self, prompt: Sequence[int], how: GenerationConfig) -> Continued:
    """Returns what new ids write after a prompt."""
    return Continued.of(self.tokenizer, prompt, self._ends(how))

  def _stochastic(
    self, prompts: list[list[int]], how: GenerationConfig
  ) -> list[list[tuple]]:
    """Returns hypotheses of each prompt, drawn without replacement."""
    drawn = stochastic_beam.generate(
      self._decode_params,
      self.gpt,
      prompts,
      sampling.keys_of(how.seed, len(prompts)),
      beams=how.beams,
      temperature=how.temperature,
      **self._limits(how),
    )
    return [[one[:3] for one in rows] for rows in drawn]

  def stream(self, prompt: str, **settings) -> Iterator[str]:
    """Yields the text that `generate` would return, as soon as it is known.

    Bytes that may begin a character wait for the rest of it, and text that may begin a
    stop waits too.

    Args:
      **settings: as in `generate`, for one continuation by 'greedy' or 'sample'.

    Raises:
      UserError: as in `generate`.
    """
    ids = self.prompt_ids(prompt, bool(settings.get('special')))
    yield from self.stream_ids(ids, **settings)

  def stream_ids(self, prompt: Sequence[int], **settings) -> Iterator[str]:
    """Yields the text that follows token ids; all else is as in `stream`."""
    prompts, how = self._checked([prompt], settings)
    if how.num_return > 1 or how.chosen() not in ('greedy', 'sample'):
      raise UserError(
        'a stream is one continuation, drawn token by token; num_return='
        f'{how.num_return} and method={how.chosen()!r} need generate'
      )
    stops, text_of = how.stops(), self._continued(prompts[0], how).text
    new, shown, text = [], 0, ''
    (key,) = sampling.keys_of(how.seed, 1)
    for token in sampling.stream(
      self._decode_params,
      self.gpt,
      prompts[0],
      key,
      sampling=how.sampling(),
      **self._loop(how),
      **self._limits(how),
    ):
      new.append(token)
      text = text_of(new)
      if found := first_stop(text, stops):
        text = text[: found[0]]
        break
      ready = text.rstrip('\ufffd')
      ready = ready[: len(ready) - stop_begun(ready, stops)]
      if len(ready) > shown:
        yield ready[shown:]
        shown = len(ready)
    if len(text) > shown:
      yield text[shown:]

  def _loop(self, how: GenerationConfig) -> dict:
    """Returns how tokens are drawn: one a pass, or several."""
    if how.speculate:
      return {'loop': speculation.loop(how.speculate)}
    return {'row_params': self._row_params}

  @functools.cached_property
  def _decode_params(self) -> dict:
    """The parameters as decoding reads them, made on demand."""
    return decode_form(self.params, self.gpt)

  @functools.cached_property
  def _row_params(self) -> dict | None:
    """The parameters in the form that decodes one row fastest; None: unchanged.

    On a CPU they take as much memory again as the kernels, so they are made on demand.
    """
    cpu = jax.default_backend() == 'cpu'
    return transposed(self._decode_params) if cpu else None

  def for_decoding(self) -> 'LanguageModel':
    """Returns the model with its weights as decoding reads them, and no others.

    It takes half the memory in bfloat16, once this model is let go of. It generates,
    scores and has logits; `explain` and `int8` may need the weights as they are stored.
    """
    return dataclasses.replace(self, params=self._decode_params)

  def _check_stored(self, what: str) -> None:
    if is_fused(self.gpt, self.params):
      raise UserError(
        f'{what} needs the weights as they are stored, and a model made by '
        'for_decoding has them in another form: call it on the model as it was loaded'
      )

  def int8(self) -> 'LanguageModel':
    """Returns the model with its weights in 8 bits; see `quantized`."""
    return self.quantized('int8')

  def quantized(self, weights: str) -> 'LanguageModel':
    """Returns the model with linear layers and output matrix in few bits.

    Args:
      weights: 'int8', or 'int4' for 4 bits in linear layers (`model/quantize.py`); '':
        as they are.

    Raises:
      UserError: it is neither, or the model's shape does not allow it.
    """
    bits = {'': 0, 'int8': 8, 'int4': 4}
    if weights not in bits:
      raise UserError(f"weights={weights!r} must be int8, int4 or '' (as trained)")
    if not weights:
      return self
    self._check_stored('quantized')
    if {'wte_int8', 'lm_head_int8'} & self.params.keys():
      raise UserError(
        f'weights={weights}: the weights are in few bits already; start from the model '
        'as it was loaded'
      )
    params = jax.jit(quantized, static_argnums=1)(self.params, bits[weights])
    return dataclasses.replace(self, params=params)

  def _limits(self, how: GenerationConfig) -> dict:
    """Returns the arguments that every decoding method takes."""
    ends = self._ends(how)
    return {
      'max_new_tokens': how.max_new_tokens,
      'rules': how.rules(self.tokenizer),
      'eot': ends[0],
      'ends_V': np.isin(np.arange(self.config.V), ends) if len(ends) > 1 else None,
    }

  def _decode(self, ids: Sequence[int]) -> str:
    """Returns the text of ids; a model may know more than its tokenizer."""
    return self.tokenizer.decode([i for i in ids if i < self.tokenizer.vocab])

  def _checked(
    self, prompts: Sequence[Sequence[int]], settings: dict
  ) -> tuple[list[list[int]], GenerationConfig]:
    """Returns prompts and settings, checked."""
    names = [f.name for f in dataclasses.fields(GenerationConfig)]
    wrong = [
      f'there is no setting {name}.{nearest(name, names)}'
      for name in settings
      if name not in names
    ]
    how = GenerationConfig(**{k: v for k, v in settings.items() if k in names})
    T, vocab = self.config.T, self.config.vocab
    wrong += how.wrong(len(prompts), self.tokenizer, vocab, self.ends)
    if not len(prompts):
      wrong.append('there is no prompt; give one or more')
    prompts = [[int(i) for i in p] for p in prompts]
    for i, prompt in enumerate(prompts):
      if not prompt:
        wrong.append(f'prompt {i} has no ids; for a new document give end-of-text')
      elif not 0 <= min(prompt) <= max(prompt) < vocab:
        wrong.append(
          f'prompt {i} has ids outside 0 .. {vocab - 1}, which are all that the model '
          'knows'
        )
      if len(prompt) > T and not how.truncate:
        wrong.append(
          f'a prompt of {len(prompt)} tokens does not fit: the context is {T}; shorten '
          'it, or set truncate to read its last tokens only'
        )
    if wrong:
      raise UserError('\n'.join(wrong))
    return [prompt[-T:] for prompt in prompts], how


@functools.partial(jax.jit, static_argnames='gpt')
def _logits(params, ids_BT, *, gpt: GPT):
  return unembed(gpt, params, gpt.apply({'params': params}, ids_BT)[0])
