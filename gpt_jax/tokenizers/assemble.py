"""The pipeline that `transformers` makes of a folder: its vocabulary and added tokens.

The rules are those of version 5: its classes for GPT-2 and GPT-1 take the vocabulary of
tokenizer.json and build the rest themselves; any other takes the file as it is.
"""

import json
from collections.abc import Iterable

import tokenizers
from tokenizers import AddedToken, processors

from gpt_jax.config import UserError
from gpt_jax.files import of_kind, shown
from gpt_jax.tokenizers import engines
from gpt_jax.tokenizers.bpe_files import Merges, check_bpe, read_bpe
from gpt_jax.tokenizers.byte_level import BYTE_CHARACTERS
from gpt_jax.tokenizers.facts import Facts
from gpt_jax.tokenizers.folder import OF_CLASSES, Folder, Named, special


def pipeline(said: Folder) -> tuple[tokenizers.Tokenizer, Facts, int]:
  """Returns what `transformers` makes of a folder, its facts, and its number of ids.

  Tokens that only a class names, and no file, have no place in the number: the model
  has none for them.

  Raises:
    UserError: files don't fit each other, or say what is not supported.
  """
  where, whole = said.file, said.whole
  if whole is not None:
    engines.check(whole, where)
  files = said.path / 'vocab.json', said.path / 'merges.txt'
  pair = read_bpe(*files) if all(file.exists() for file in files) else None
  if pair and whole is not None:
    _check_same(said, *pair)
  of_class = OF_CLASSES.get(said.kind, {})
  added, named, extra = special(said, of_class)
  if said.kind or whole is None:
    vocab, merges = pair if whole is None else engines.bpe_of(whole, where)
    kind, unknown = said.kind or class_of(vocab), str(named.get('unk_token', '<unk>'))
    needed = BYTE_CHARACTERS.values() if kind == 'GPT2Tokenizer' else (unknown,)
    check_bpe(vocab, merges, needed, str(said.path))
    with engines.said(f'{said.path}: its vocabulary can not be used'):
      encoder = engines.of_class(kind, vocab, merges, _prefix(said), unknown)
    if whole is not None:
      _compare(said, encoder)
      shell = engines.shell(whole, where)
      encoder.post_processor = shell.post_processor
      if shell.padding:
        encoder.enable_padding(**shell.padding)
      if shell.truncation:
        encoder.enable_truncation(**shell.truncation)
  else:
    encoder = engines.opened(whole, where)
  size = encoder.get_vocab_size(with_added_tokens=True)
  new = _add(encoder, added, named, extra)
  _check_ids(said, encoder, added)
  if whole is None or encoder.post_processor is None:
    _frame(said, encoder, named)
  idle = set(of_class.values())
  spoken = said.settings | said.mapped
  idle -= {str(each) for name, each in named.items() if name in spoken}
  idle -= set(map(str, extra))
  ids = [encoder.token_to_id(text) for text in new if text not in idle]
  size = max([size, *(number + 1 for number in ids if number is not None)])
  before, after = engines.frame(encoder)
  names = {name: str(token) for name, token in named.items()}
  # GPT-2's class has none by itself, also where a tokenizer.json pads.
  if encoder.padding and said.kind != 'GPT2Tokenizer' and 'pad_token' not in spoken:
    names['pad_token'] = encoder.padding['pad_token']
  facts = Facts(
    names,
    tuple(map(str, extra)),
    said.settings,
    said.templates,
    before,
    after,
    tuple(said.notes),
  )
  return encoder, facts, size


def _check_same(said: Folder, others: dict[str, int], pairs: Merges) -> None:
  """Raises a UserError unless tokenizer.json has what the two files of a BPE have."""
  model = said.whole['model']
  vocab, merges = model['vocab'], []
  if model.get('type', 'BPE') == 'BPE':
    vocab, merges = engines.bpe_of(said.whole, said.file)
  added = {token['content'] for token in said.whole.get('added_tokens') or []}
  ours, theirs = (
    {entry: number for entry, number in each.items() if entry not in added}
    for each in (vocab if isinstance(vocab, dict) else {}, others)
  )
  if ours != theirs or merges != pairs:
    apart = [entry for entry in ours | theirs if ours.get(entry) != theirs.get(entry)]
    what = f'the entry {shown(apart[0])}' if apart else 'the merges'
    raise UserError(
      f'{said.path}: tokenizer.json and vocab.json with merges.txt differ, first in '
      f'{what}: they are of two tokenizers; remove the wrong ones'
    )


def class_of(vocab: dict[str, int]) -> str:
  """Returns the class whose vocabulary this is."""
  words = any(entry.endswith('</w>') for entry in vocab)
  return 'OpenAIGPTTokenizer' if words else 'GPT2Tokenizer'


def _prefix(said: Folder) -> bool:
  where = said.path / 'tokenizer_config.json'
  value = said.settings.get('add_prefix_space')
  return bool(value) and of_kind(value, bool, where, name='add_prefix_space')


def _compare(said: Folder, encoder: tokenizers.Tokenizer) -> None:
  """Raises a UserError where a class passes over a part of tokenizer.json.

  Version 4 of `transformers` goes by the file there, and version 5 by the class. Only
  `add_prefix_space` is that of tokenizer_config.json in both.
  """
  where = said.file
  theirs = engines.parts(said.whole, where)
  ours = engines.parts(json.loads(encoder.to_str()), where)
  for part, value in theirs.items():
    mine = ours[part]
    if value == mine:
      continue
    blank = {'add_prefix_space': None}
    if isinstance(value, dict) and mine and value | blank == mine | blank:
      said.notes.append(
        f'{where}: add_prefix_space={str(value["add_prefix_space"]).lower()} is passed '
        f'over for {str(_prefix(said)).lower()} of tokenizer_config.json, as '
        'transformers does'
      )
      continue
    raise UserError(
      f'{where}: {part}={shown(value)} is not what {said.kind} has, {shown(mine)}: '
      'transformers 4 goes by the one and 5 by the other; write '
      'tokenizer_class=PreTrainedTokenizerFast into tokenizer_config.json if the file '
      'is right'
    )


def _add(
  encoder: tokenizers.Tokenizer,
  added: dict[int, AddedToken],
  named: Named,
  extra: Iterable[AddedToken | str],
) -> list[str]:
  """Adds tokens in the order in which `transformers` does; returns the new ones."""
  there = encoder.get_added_tokens_decoder().values()
  same = {repr(token) for token in there}
  new = [token for _, token in sorted(added.items()) if repr(token) not in same]
  names = {token.content for token in (*there, *new)}
  for token in (*named.values(), *extra):
    if str(token) not in names:
      names.add(str(token))
      new.append(token)
  special = {str(token) for token in named.values()}
  tokens = []
  for token in new:
    if isinstance(token, str):
      token = AddedToken(token, special=True)
    elif token.content in special:
      token.special = True
    tokens.append(token)
  missing = [t.content for t in tokens if encoder.token_to_id(t.content) is None]
  encoder.add_tokens(tokens)
  return missing


def _check_ids(
  said: Folder, encoder: tokenizers.Tokenizer, added: dict[int, AddedToken]
) -> None:
  """Raises a UserError where a token has not the id that a file gives it."""
  given = [('added tokens', t.content, number) for number, t in added.items()]
  given += [('added_tokens.json', t, number) for t, number in said.added.items()]
  for token in (said.whole or {}).get('added_tokens') or []:
    given.append(('tokenizer.json', token['content'], token['id']))
  for file, text, number in given:
    found = encoder.token_to_id(text)
    if found != number:
      raise UserError(
        f'{said.path}: {file}: the added token {shown(text)} has the id {number}, but '
        f'transformers gives it {"none" if found is None else found}; give added '
        'tokens the ids after the vocabulary, without a gap, the same in all files'
      )


def _frame(said: Folder, encoder: tokenizers.Tokenizer, named: Named) -> None:
  """Has a pipeline put tokens around texts where only tokenizer_config.json says so."""
  where = said.path / 'tokenizer_config.json'
  around, tokens = {'bos': '', 'eos': ''}, []
  for name in around:
    flag = f'add_{name}_token'
    asked = of_kind(said.settings.get(flag) or False, bool, where, name=flag)
    token = named.get(f'{name}_token')
    # With a tokenizer.json it is that file which says so.
    if said.whole is None and asked and token is not None:
      around[name] = str(token)
      tokens.append((str(token), encoder.token_to_id(str(token))))

  def framed(text: str, number: int) -> list[str]:
    parts = around['bos'], text, around['eos']
    return [f'{part}:{number}' for part in parts if part]

  first, second = framed('$A', 0), framed('$B', 1)
  encoder.post_processor = processors.TemplateProcessing(
    single=first, pair=[*first, *second], special_tokens=tokens
  )
