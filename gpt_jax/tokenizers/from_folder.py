"""The tokenizer of a Hugging Face folder, of the kind that fits it."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import tokenizers

from gpt_jax.config import UserError
from gpt_jax.files import listed, shown
from gpt_jax.tokenizers import byte_level, engines
from gpt_jax.tokenizers.assemble import pipeline
from gpt_jax.tokenizers.bpe_files import Merges
from gpt_jax.tokenizers.byte_level import ByteLevel
from gpt_jax.tokenizers.facts import Facts
from gpt_jax.tokenizers.folder import Folder, special
from gpt_jax.tokenizers.gpt1 import GPT1
from gpt_jax.tokenizers.protocol import EOT
from gpt_jax.tokenizers.sentencepiece_model import SentencePiece
from gpt_jax.tokenizers.tokenizer_json import TokenizerJson

# Ends of text in vocabularies of others, by preference, where no file says which.
_ENDS = EOT, '<|end_of_text|>', '</s>', '<eos>', '<s>', '<bos>'

FromFolder = ByteLevel | GPT1 | TokenizerJson


def opened(
  said: Folder, cleaning: str, eot: int | None, last: int | None = None
) -> FromFolder:
  """Returns the tokenizer of a tokenizer.json, or of vocab.json and merges.txt.

  Args:
    said: what the folder says.
    cleaning: as in `gpt1.GPT1`.
    eot, last: as in `kinds.open_path`.

  Raises:
    UserError: files don't fit each other, say what is not supported, or name no end.
  """
  encoder, facts, vocab = pipeline(said)
  about = json.loads(encoder.to_str())
  name = str(said.file if said.whole is not None else said.path)
  framed = facts.before or facts.after or about['padding'] or about['truncation']
  parts = None if framed else _of_gpt1(about)
  if parts:
    found = GPT1(*parts, cleaning=cleaning, eot=eot, name=name)
  else:
    end = _end(said, encoder, facts, vocab, eot, last)
    added = encoder.get_added_tokens_decoder()
    found = None
    if not framed and all(i == end and _is_plain(t) for i, t in added.items()):
      found = byte_level.of_json(about, encoder.id_to_token(end), name)
    if _cleans(about) and cleaning == 'release':
      raise UserError(
        f'{name}: has other tokens than those of GPT-1, and cleaning=release is for '
        'those alone; use --config.data.cleaning=basic, as transformers does'
      )
    found = found or TokenizerJson(encoder.to_str(), end, vocab, facts, name)
  given = said.settings or said.mapped or said.templates or said.kind
  if given or framed or said.notes:
    if _cleans(about) and found.kind == 'tokenizer_json':
      said.notes.append("text is cleaned as transformers does, not as GPT-1's release")
    notes = tuple(said.notes + _notes(found, facts, eot))
    found.facts = dataclasses.replace(facts, notes=notes)
  return found


def _is_plain(token: tokenizers.AddedToken) -> bool:
  """Returns whether a special token is found wherever its text is, and only that."""
  return token.special and not (token.lstrip or token.rstrip or token.single_word)


def _cleans(about: dict[str, Any]) -> bool:
  """Returns whether a tokenizer.json is of GPT-1's kind, with whatever else."""
  return about['model'].get('end_of_word_suffix') == '</w>'


def _of_gpt1(about: dict[str, Any]) -> tuple[dict[str, int], Merges] | None:
  """Returns vocabulary and merges of a tokenizer.json that is GPT-1's; None: of none.

  An <|endoftext|> after its vocabulary, as `hugging_face.write` adds it, is left out.
  """
  model = about['model']
  if model['type'] != 'BPE' or model.get('unk_token') != '<unk>':
    return None
  theirs = engines.of_class('OpenAIGPTTokenizer', {'<unk>': 0}, [], False, '<unk>')
  cut, same = (
    engines.parts(whole, 'tokenizer.json') | {'decoder': None}
    for whole in (about, json.loads(theirs.to_str()))
  )
  vocab = dict(model['vocab'])
  vocab |= {token['content']: token['id'] for token in about['added_tokens']}
  if vocab.get(EOT) == len(vocab) - 1:
    del vocab[EOT]
  added = {token['content'] for token in about['added_tokens'] if token['special']}
  fits = len(added) == len(about['added_tokens']) and added <= {'<unk>', EOT}
  joined = (about['decoder'] or {}).get('type') in ('BPEDecoder', 'Sequence')
  if not (fits and joined and cut == same):
    return None
  return vocab, [tuple(pair) for pair in model['merges']]


def _end(
  said: Folder,
  encoder: tokenizers.Tokenizer,
  facts: Facts,
  vocab: int,
  eot: int | None,
  last: int | None,
) -> int:
  """Returns the id that ends a text.

  That is the given one, else `eos_token`, else what goes after each text, else one of
  the usual names, else what goes before each text, else `last`.
  """
  if eot is not None and not 0 <= eot < vocab:
    raise UserError(
      f'{said.path}: the id {eot} of end-of-text must be in 0 .. {vocab - 1}, the ids '
      "of its tokenizer; correct the model's config.json"
    )
  named = encoder.token_to_id(facts.named.get('eos_token', ''))
  usual = [encoder.token_to_id(end) for end in _ENDS]
  ids = [eot, named, *facts.after[-1:], *usual, *facts.before[:1], last]
  ids = [number for number in ids if number is not None and number < vocab]
  if not ids:
    raise UserError(
      f'{said.path}: has no entry {" or ".join(_ENDS)}, one of which must stand '
      'between documents; add one to the vocabulary, or name another as eos_token in '
      'tokenizer_config.json or as eos_token_id in config.json'
    )
  return ids[0]


def _notes(found: FromFolder, facts: Facts, eot: int | None) -> list[str]:
  """Returns what to say of a tokenizer that has been opened."""
  notes = []
  for flag, ids in (('add_bos_token', facts.before), ('add_eos_token', facts.after)):
    if facts.settings.get(flag) and not ids:
      notes.append(
        f'{flag} of tokenizer_config.json is passed over for the post_processor of '
        'tokenizer.json, as transformers does'
      )
  if facts.before or facts.after:
    around = ' and '.join(
      f'{listed(found.pieces(ids))} {where} each text'
      for ids, where in ((facts.before, 'before'), (facts.after, 'after'))
      if ids
    )
    notes.append(f'transformers puts {around}; encode leaves that to its caller')
  named = facts.named.get('eos_token')
  end = found.pieces([found.eot])[0]
  if eot is not None and named not in (None, end):
    notes.append(
      f'the model ends texts with the id {eot}, {shown(end)}, and not with the '
      f"tokenizer's eos_token={shown(named)}: the model's counts"
    )
  if isinstance(found, TokenizerJson):
    loose = [text for text in found.found_always if found.added[text] != found.eot]
    if loose:
      notes.append(
        f'{listed(loose)} are no special tokens: they are found in every text, as '
        'transformers does'
      )
  if found.eot not in found.added.values() and found.kind != 'gpt1':
    notes.append(
      f'end-of-text, the id {found.eot}, is {shown(end)}, an entry that texts have too'
    )
  if facts.settings.get('chat_template') is not None or facts.templates:
    notes.append('the chat template is kept and written back; no prompt is made by it')
  return notes


def with_model(said: Folder, path: Path, eot: int | None) -> SentencePiece:
  """Returns a SentencePiece model and what its folder says of it.

  Args:
    said: what the folder says. Its class of tokenizers is not asked for.
    eot: as in `kinds.open_path`.

  Raises:
    UserError: it is no such model, or the folder adds tokens to it.
  """
  model = path.read_bytes()
  found = SentencePiece(model, name=str(path))
  ids = {piece: i for i, piece in enumerate(found.pieces(range(found.vocab)))}
  added, named, extra = special(said, {})
  for number, token in added.items():
    if ids.get(token.content) != number:
      raise UserError(
        f'{said.path}: the added token {shown(token.content)} with the id {number} is '
        f'no such piece of {path.name}, and none can be added to it; save the '
        'tokenizer as a tokenizer.json'
      )
  names = {name: str(token) for name, token in named.items()}
  lost = [f'{n}={shown(t)}' for n, t in names.items() if t not in ids]
  lost += [shown(str(t)) for t in extra if str(t) not in ids]
  notes = list(said.notes)
  if lost:
    notes.append(f'{said.path}: {listed(lost)} is no piece of {path.name}')
  if name := said.settings.get('tokenizer_class'):
    notes.append(
      f'{said.path}: tokenizer_class={shown(name)} is kept only: ids are those of '
      f'{path.name} itself, without tokens around a text'
    )
  end = ids.get(names.get('eos_token', '')) if eot is None else eot
  if end is not None and end != found.eot:
    found = SentencePiece(model, name=str(path), eot=end)
  if said.settings or said.mapped or said.templates:
    found.facts = Facts(
      names,
      tuple(map(str, extra)),
      said.settings,
      said.templates,
      notes=tuple(notes),
    )
  return found
