"""The settings of generation, the same for texts, ids and streams."""

import contextlib
import dataclasses
import numbers
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from gpt_jax.config import UserError, nearest
from gpt_jax.decoding import constraints, stops
from gpt_jax.decoding.beam import Beams
from gpt_jax.decoding.logit_rules import Rules
from gpt_jax.decoding.selection import Sampling
from gpt_jax.tokenizers import Tokenizer, encode_special

MOST_AHEAD = 63  # tokens: with the last one a block of rows
METHODS = 'auto', 'greedy', 'sample', 'beam', 'stochastic', 'minimum_risk'
Text = str | Sequence[int]  # a text or the ids of one

# How `launch.py sample` calls them: name, kind of flag, help.
FLAGS = (
  ('method', 'string', 'auto, greedy, sample, beam, stochastic or minimum_risk'),
  ('max_new_tokens', 'integer', 'length of a continuation (128)'),
  ('min_new_tokens', 'integer', 'no end of the text before'),
  ('num_return', 'integer', 'continuations of each prompt (1)'),
  ('temperature', 'float', 'divides the logits (0.8); 0 is greedy'),
  ('top_k', 'integer', 'draw from the k most likely'),
  ('top_p', 'float', 'draw from the most likely that have mass p'),
  ('openai_top_p', 'bool', 'top_p stops before the token that reaches p, as in GPT-2'),
  ('min_p', 'float', 'draw from those at least p times as likely as the best'),
  ('typical_p', 'float', 'draw from the most typical that have mass p'),
  ('repetition_penalty', 'float', 'of all tokens so far, as in CTRL; 1 is none'),
  ('presence_penalty', 'float', 'subtracted for each new token that occurred'),
  ('frequency_penalty', 'float', 'subtracted each time that it occurred'),
  ('no_repeat_ngram', 'integer', 'no sequence of so many tokens twice'),
  ('fresh_ngram', 'integer', 'the same, but of sequences that no turn ends in'),
  ('banned', 'multi_string', 'text that may not occur'),
  ('forced', 'string', 'text that a continuation begins with'),
  ('stop', 'multi_string', 'text that a continuation ends before'),
  ('eos', 'multi_integer', "id that ends a text, in place of the model's own"),
  ('special', 'bool', 'names such as <|endoftext|> in texts are these tokens'),
  ('truncate', 'bool', 'of a prompt longer than the context, read the end'),
  ('seed', 'multi_integer', 'another seed, other draws; one, or one for each prompt'),
  ('beams', 'integer', 'hypotheses to follow; several mean beam search'),
  ('groups', 'integer', "groups of beams that avoid each other's tokens"),
  ('diversity', 'float', 'how much they do (0.5)'),
  ('length_penalty', 'float', 'alpha (0.6); above 0 favours length'),
  ('penalty_form', 'string', 'gnmt: ((5 + n) / 6)^alpha (GPT-3), or hf: n^alpha'),
  ('early_stopping', 'string', 'as in Hugging Face: true, false or never'),
  ('one_of', 'multi_string', 'text that a continuation may be'),
  ('including', 'multi_string', 'text that a continuation must hold'),
  ('candidates', 'integer', 'samples that minimum_risk chooses from (16)'),
  ('speculate', 'integer', 'tokens looked up ahead and checked in one pass (0)'),
)


@dataclasses.dataclass(frozen=True)
class GenerationConfig:
  """How prompts are continued.

  Fields that are not listed are as in `Rules`, `Sampling` and `Beams`.

  Attributes:
    method: 'greedy'; 'sample'; 'beam'; 'stochastic' (beams drawn without replacement);
      'minimum_risk' (of `candidates` samples those most like the others, by F1 of their
      tokens); 'auto' is beam search if there are several beams or a constraint, else
      greedy if temperature is 0, else sampling.
    max_new_tokens: a continuation ends here, at end-of-text or before a stop. One that
      outgrows the context continues from its last T // 2 tokens; with beams, it ends.
    num_return: continuations of each prompt, the best first where they are ranked;
      fewer where beam search finds fewer.
    seed: a number; or one for each prompt, whose draws then depend on nothing else.
    eos: id that ends a text, or several; None: the tokenizer's end-of-text and the
      model's own other ends. The last one of a text is no part of it.
    special: in prompts and in texts of other settings but `stop`, the names of special
      tokens (<|endoftext|>, added tokens) are these tokens; else they are plain text.
    truncate: of a prompt longer than the context the last T tokens are read; without
      it, such a prompt is an error.
    stop: a text or several, looked for in what is written after the prompt: a
      continuation ends before the first that is complete (of several at one place,
      before the longest). A hypothesis of beam search ends with the token that
      completes a stop, and its score counts the tokens up to that one. Then results
      differ in their texts; of hypotheses with one text the best counts. 'stochastic'
      takes none: it draws without replacement among tokens, not among cut texts.
    banned: texts and sequences of ids that do not occur. A text is banned as the
      tokens that it is encoded to, by itself and after a blank.
    forced: the beginning of every continuation, a text or ids.
    temperature: as in `Sampling`; 'greedy' takes 0.
    one_of: a continuation is one of these texts or sequences of ids, and end-of-text.
    including: texts or sequences of ids that a continuation must hold.
    candidates: samples that 'minimum_risk' chooses from.
    speculate: tokens that are drafted by prompt lookup and checked in one forward pass
      (`decoding/speculation.py`); the results are the same, and come faster where a
      text repeats itself or its prompt. 0: none.
  """

  method: str = 'auto'
  max_new_tokens: int = 128
  num_return: int = 1
  seed: int | Sequence[int] = 0
  eos: int | Sequence[int] | None = None
  special: bool = False
  truncate: bool = False
  stop: str | Sequence[str] = ()
  banned: Sequence[Text] = ()
  forced: Text = ()
  min_new_tokens: int = 0
  no_repeat_ngram: int = 0
  repetition_penalty: float = 1.0
  presence_penalty: float = 0.0
  frequency_penalty: float = 0.0
  fresh_ngram: int = 0
  temperature: float = 1.0
  top_k: int = 0
  top_p: float = 1.0
  min_p: float = 0.0
  typical_p: float = 1.0
  openai_top_p: bool = False
  beams: int = 1
  groups: int = 1
  diversity: float = 0.5
  length_penalty: float = 0.6
  penalty_form: str = 'gnmt'
  early_stopping: bool | str = False
  one_of: Sequence[Text] = ()
  including: Sequence[Text] = ()
  candidates: int = 16
  speculate: int = 0

  def chosen(self) -> str:
    """Returns the method, 'auto' resolved."""
    if self.method != 'auto':
      return self.method
    if self.beams != 1 or self.one_of or self.including:
      return 'beam'
    return 'sample' if self.temperature else 'greedy'

  def draws(self) -> int:
    """Returns how many continuations of each prompt are drawn."""
    return self.candidates if self.chosen() == 'minimum_risk' else self.num_return

  def sampling(self) -> Sampling:
    """Returns how tokens are drawn."""
    fields = _fields_of(self, Sampling)
    if self.chosen() == 'greedy':
      fields['temperature'] = 0
    return Sampling(**fields)

  def searching(self) -> Beams:
    """Returns how beams are searched for."""
    return Beams(**_fields_of(self, Beams))

  def rules(self, tokenizer: Tokenizer) -> Rules:
    """Returns the rules on scores, in ids."""
    banned = {self._ids(text, tokenizer) for text in self.banned}
    for text in self.banned:
      if isinstance(text, str):
        with contextlib.suppress(UserError):  # of characters without the blank
          banned.add(self._ids(' ' + text, tokenizer))
    forced = self._ids(self.forced, tokenizer)
    return Rules(tuple(sorted(banned)), forced, **_fields_of(self, Rules))

  def constraint(
    self, tokenizer: Tokenizer, vocab: int, ends: Sequence[int]
  ) -> constraints.Automaton | None:
    """Returns the constraint on hypotheses, if there is one."""
    of = {'vocab': vocab, 'ends': ends}
    if self.one_of:
      return constraints.one_of([self._ids(x, tokenizer) for x in self.one_of], **of)
    if self.including:
      phrases = [self._ids(x, tokenizer) for x in self.including]
      return constraints.including(phrases, **of)
    return None

  def ends(
    self, tokenizer: Tokenizer, others: Sequence[int], vocab: int
  ) -> tuple[int, ...]:
    """Returns the ids that end a text, the first for what has to be one.

    Args:
      others: the model's, besides the tokenizer's end-of-text.
    """
    ends = [tokenizer.eot, *others] if self.eos is None else _each(self.eos)
    # A tokenizer of numbers may have an end that its model does not predict.
    return tuple(dict.fromkeys(i for i in ends if 0 <= i < vocab)) or tuple(ends[:1])

  def _ids(self, text: Text, tokenizer: Tokenizer) -> tuple[int, ...]:
    """Returns the ids of a text, or the ids as they are."""
    if not isinstance(text, str):
      return tuple(map(int, text))
    return tuple(
      encode_special(tokenizer, text) if self.special else tokenizer.encode(text)
    )

  def stops(self) -> tuple[str, ...]:
    """Returns the texts before which a continuation ends."""
    return tuple(_each(self.stop))

  def wrong(
    self, prompts: int, tokenizer: Tokenizer, vocab: int, others: Sequence[int] = ()
  ) -> list[str]:
    """Returns what is wrong with the settings.

    Args:
      others: as in `ends`.
    """
    if wrong := self._wrong_kinds():
      return wrong
    ends = self.ends(tokenizer, others, vocab)
    if self.method not in METHODS:
      wrong.append(
        f'method={self.method!r} must be one of {", ".join(METHODS)}.'
        + nearest(self.method, METHODS)
      )
    for name in ('max_new_tokens', 'num_return', 'candidates'):
      if not getattr(self, name) >= 1:
        wrong.append(f'{name}={getattr(self, name)} must be at least 1')
    if not 0 <= self.speculate <= MOST_AHEAD:
      wrong.append(
        f'speculate={self.speculate} must be in 0 .. {MOST_AHEAD} (0 is off)'
      )
    if np.ndim(self.seed) and len(self.seed) != prompts:
      wrong.append(
        f'seed has {len(self.seed)} numbers for {prompts} prompts; give one, or one '
        'for each'
      )
    if min(_each(self.seed)) < 0:
      wrong.append(f'seed={self.seed} must be at least 0')
    if self.eos is not None and not all(0 <= i < vocab for i in _each(self.eos)):
      wrong.append(f'eos={self.eos} must be in 0 .. {vocab - 1}')
    if not all(self.stops()):
      wrong.append("stop='' would end every text at once; leave it out")
    if any('\ufffd' in stop for stop in self.stops()):
      wrong.append(
        'stop holds U+FFFD, which stands for bytes that are no character yet; leave it '
        'out'
      )
    size = sum(len(stop.encode(errors='surrogatepass')) for stop in self.stops())
    if size > stops.MOST and self.chosen() == 'beam':
      wrong.append(
        f'stop is of {size:,} bytes; give beam search {stops.MOST:,} at most'
      )
    for name in ('banned', 'forced'):
      texts = [self.forced] if name == 'forced' else self.banned
      ids = {i for text in texts for i in self._ids(text, tokenizer)}
      if ids and not 0 <= min(ids) <= max(ids) < vocab:
        wrong.append(f'{name} must be ids in 0 .. {vocab - 1}, not {sorted(ids)}')
    for make in (
      self.sampling,
      self.searching,
      lambda: self.rules(tokenizer),
      lambda: self.constraint(tokenizer, vocab, ends),
    ):
      try:
        make()
      except UserError as error:
        wrong.append(str(error))
    return wrong + self._wrong_together(tokenizer, ends)

  def _wrong_kinds(self) -> list[str]:
    """Returns which settings are not of their kind: numbers, texts, ids."""
    wrong = []
    for name, kind in ((f.name, f.type) for f in dataclasses.fields(self)):
      value = getattr(self, name)
      if kind is int and not isinstance(value, numbers.Integral):
        wrong.append(f'{name}={value!r} must be a whole number')
      elif kind is int and not abs(value) < 2**31:
        wrong.append(f'{name}={value} must be less than {2**31:,}')
      elif kind is float and not isinstance(value, numbers.Real):
        wrong.append(f'{name}={value!r} must be a number')
    for name, many in (('seed', self.seed), ('eos', self.eos)):
      ids = [0] if name == 'eos' and many is None else _each(many)
      if not ids or not all(isinstance(i, numbers.Integral) for i in ids):
        wrong.append(f'{name}={many!r} must be a whole number, or several')
    if not all(isinstance(stop, str) for stop in self.stops()):
      wrong.append(f'stop={self.stop!r} must be a text, or several')
    return wrong

  def _wrong_together(self, tokenizer: Tokenizer, ends: Sequence[int]) -> list[str]:
    """Returns which settings do not go together."""
    how = self.chosen()
    wrong = [
      f'{name}={getattr(self, name)!r} has no effect on method={how!r}; leave it out'
      for name in _without_effect(how)
      if self.method in METHODS
      and getattr(self, name) != getattr(GenerationConfig, name)
    ]
    if self.min_new_tokens > self.max_new_tokens:
      wrong.append(
        f'min_new_tokens={self.min_new_tokens} must be at most max_new_tokens='
        f'{self.max_new_tokens}'
      )
    forced = self._ids(self.forced, tokenizer)
    if len(forced) > self.max_new_tokens or set(ends) & set(forced):
      wrong.append(
        f'forced={self.forced!r} must be at most max_new_tokens={self.max_new_tokens} '
        'tokens, none of them end-of-text'
      )
    if self.one_of and self.including:
      wrong.append('one_of and including do not go together; leave one out')
    if (self.one_of or self.including) and self.groups > 1:
      wrong.append(f'groups={self.groups} must be 1 under a constraint')
    if (self.one_of or self.including) and self.stops():
      wrong.append(f'stop={self.stop!r} has no effect under a constraint; leave it out')
    of = 'candidates' if how == 'minimum_risk' else 'beams'
    if how not in ('greedy', 'sample') and self.num_return > getattr(self, of):
      wrong.append(
        f'num_return={self.num_return} must be at most {of}={getattr(self, of)}, which '
        'are all there is to choose from'
      )
    return wrong


def _without_effect(how: str) -> list[str]:
  """Returns the settings that have no effect on a method."""
  sampling, beams = _names(Sampling), _names(Beams) + ['one_of', 'including']
  if how == 'beam':
    return [*sampling, 'candidates', 'speculate']
  if how == 'stochastic':
    sampling.remove('temperature')
    beams.remove('beams')
    return [*sampling, *beams, 'stop', 'candidates', 'speculate']
  return beams if how == 'minimum_risk' else [*beams, 'candidates']


def _each(value: Any) -> list:
  """Returns the values of a setting that may be one or several."""
  several = isinstance(value, Iterable) and not isinstance(value, str)
  return [*value] if several else [value]


def _names(kind: type) -> list[str]:
  return [field.name for field in dataclasses.fields(kind)]


def _fields_of(settings: GenerationConfig, kind: type) -> dict:
  """Returns the settings that are fields of `kind` as they are."""
  kept = [name for name in _names(kind) if name not in ('forced', 'forbidden')]
  return {name: getattr(settings, name) for name in kept}
