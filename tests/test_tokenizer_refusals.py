"""Hugging Face folders: which token ends a text, what is said, what is refused."""

import json

import pytest
import tokenizer_folders
import tokenizers as theirs
from tokenizer_folders import CHAT, EOT, GPT1, SIZE, put, token

from gpt_jax import tokenizers
from gpt_jax.config import UserError


def opened(folder, name, eot=None, **files):
  tokenizer_folders.write(name, folder / name)
  put(folder / name, **files)
  return tokenizers.open_path(folder / name, 'basic', eot)


def test_the_end_of_text_is_what_the_folder_says(tmp_path):
  ends = {
    'plain': SIZE,
    'added_json': SIZE,
    'added_special': SIZE + 2,
    'added_named_twice': SIZE + 2,
    'added_decoder': SIZE + 2,
    'own_names': SIZE + 1,
    'metaspace': 2,
    'gpt1': len(GPT1),
    'gpt1_added': len(GPT1) + 1,
  }
  for name, end in ends.items():
    ours = opened(tmp_path, name)
    assert ours.eot == end, name
    assert ours.decode([end, *ours.encode('the'), end]).strip() == 'the'
    if end < len(GPT1):
      continue
    assert ours.eot not in ours.encode(ours.pieces([end])[0])


def test_the_end_of_the_models_config_counts(tmp_path):
  ours = opened(tmp_path, 'added_json', eot=CHAT['<|user|>'])
  assert ours.eot == CHAT['<|user|>']
  assert ours.facts.named['eos_token'] == EOT
  assert "ends texts with the id 271, '<|user|>', and not" in ours.facts.notes[0]
  assert ours.decode([*ours.encode('the'), ours.eot]) == 'the'
  assert tokenizers.encode_special(ours, EOT) == [SIZE]
  ours.save(tmp_path / 'saved')
  again = tokenizers.load(tmp_path / 'saved')
  assert (again.eot, again.facts.named['eos_token']) == (ours.eot, EOT)


def test_an_end_that_texts_have_too_is_said(tmp_path):
  ours = opened(tmp_path, 'neo', eot=63)
  assert ours.encode('a`') == [*ours.encode('a'), 63]
  assert ours.decode([64, 63]) == 'a'
  assert ours.decode([64, SIZE]) == 'a'
  assert any("63, is '`', an entry that texts have too" in n for n in ours.facts.notes)


def test_gpt1_may_end_with_an_entry(tmp_path):
  ours = opened(tmp_path, 'gpt1', eot=5)
  assert (ours.kind, ours.eot, ours.vocab) == ('gpt1', 5, len(GPT1) + 1)
  ours.save(tmp_path / 'saved')
  assert tokenizers.load(tmp_path / 'saved').eot == 5
  with pytest.raises(UserError, match=r'the id 99 of end-of-text must be in 0 \.\. 36'):
    opened(tmp_path / 'again', 'gpt1', eot=99)


def test_tokens_added_to_gpt1_leave_its_cleaning_to_transformers(tmp_path):
  tokenizer_folders.write('gpt1_added', tmp_path / 'a')
  with pytest.raises(UserError, match='cleaning=release is for those alone'):
    tokenizers.open_path(tmp_path / 'a', 'release')


@pytest.mark.parametrize('name', ['plain', 'added_json', 'metaspace'])
def test_an_end_outside_the_vocabulary_is_refused(tmp_path, name):
  with pytest.raises(UserError, match='the id 50256 of end-of-text must be in 0'):
    opened(tmp_path, name, eot=50256)


def test_what_the_model_has_no_row_for_is_no_id_of_the_tokenizer(tmp_path):
  """GPT-2's class adds <|endoftext|>, which no file of this folder names."""
  names = {'eos_token': '</s>'}
  ours = opened(tmp_path, 'own_names', tokenizer_config=names)
  assert ours.facts.named == names | dict.fromkeys(('bos_token', 'unk_token'), EOT)
  assert (ours.vocab, ours.eot, EOT in ours.added) == (SIZE + 3, SIZE + 1, False)
  assert tokenizers.encode_special(ours, EOT) == [ours.eot]


NOTES = {
  'gpt1_added': "text is cleaned as transformers does, not as GPT-1's release",
  'bos_passed_over': 'add_bos_token of tokenizer_config.json is passed over for the p',
  'bos_added': 'transformers puts <s> before each text and <|endoftext|> after each',
  'bos_of_file': 'transformers puts <s> before each text; encode leaves that to',
  'added_json': '<|user|>, <|im_end|> are no special tokens: they are found in every',
  'added_named_twice': "eos_token='<|im_end|>' counts and not '<|endoftext|>' of",
  'added_decoder': "eos_token='<|endoftext|>' is passed over for '<|im_end|>' of",
  'prefix_over_file': 'add_prefix_space=false is passed over for true of tokenizer_',
  'templates': 'the chat template is kept and written back; no prompt is made by it',
  'template_files': 'chat_template is passed over for chat_template.jinja, addit',
}


@pytest.mark.parametrize('name', NOTES)
def test_what_one_might_not_expect_is_said(tmp_path, name):
  assert NOTES[name] in '\n'.join(opened(tmp_path, name).facts.notes)


@pytest.mark.parametrize('name', ['plain', 'released', 'pad_is_eos', 'version4'])
def test_nothing_is_said_of_folders_that_are_as_usual(tmp_path, name):
  facts = opened(tmp_path, name).facts
  assert facts.notes == ()


def test_templates_are_written_as_they_were(tmp_path):
  from gpt_jax.tokenizers import hugging_face

  ours = opened(tmp_path, 'template_files')
  ours.save(tmp_path / 'saved')
  hugging_face.write(tokenizers.load(tmp_path / 'saved'), tmp_path / 'out', 64)
  for name in ('chat_template.jinja', 'additional_chat_templates/tool.jinja'):
    there = (tmp_path / 'out' / name).read_bytes()
    assert there == (tmp_path / 'template_files' / name).read_bytes()
  about = json.loads((tmp_path / 'out/tokenizer_config.json').read_text('utf-8'))
  assert about['chat_template'] == 'old'


def test_text_without_an_entry_of_its_own_is_known(tmp_path):
  ours = opened(tmp_path, 'metaspace')
  assert ours.unknown == {0, *(ours.encode('\0')[-1] + byte for byte in range(256))}
  ours = opened(tmp_path, 'unigram')
  assert ours.unknown == {0} < set(ours.encode('the \0'))
  assert opened(tmp_path, 'word_level').unknown == {0}
  assert opened(tmp_path, 'added_json').unknown == set()


def test_the_kind_is_our_own_where_that_has_all(tmp_path):
  kinds = {name: opened(tmp_path, name).kind for name in tokenizer_folders.FOLDERS}
  ours = {name for name, kind in kinds.items() if kind != 'tokenizer_json'}
  usual = {'plain', 'released', 'neo', 'pad_is_eos', 'templates', 'gpt1'}
  assert ours == usual | {'bos_passed_over'}


def whole(folder, change, **config):
  """Writes GPT-2's form with a change of its tokenizer.json."""
  folder.mkdir(exist_ok=True)
  about = json.loads(tokenizer_folders.gpt2().to_str())
  change(about)
  put(folder, tokenizer__json=about, tokenizer_config=config)
  put(folder, config={'model_type': 'gpt2'})
  return tokenizers.open_path(folder)


GENERIC = {'tokenizer_class': 'PreTrainedTokenizerFast'}


@pytest.mark.parametrize(
  ('files', 'says'),
  [
    ({'tokenizer_config': {'tokenizer_class': 'LlamaTokenizer'}}, 'Llama.*is none of'),
    ({'config': {'tokenizer_class': 'XFast'}}, "config.json: tokenizer_class='XFast'"),
    ({'tokenizer_config': {'auto_map': {'A': 'b'}}}, 'auto_map=.*a program of its own'),
    ({'tokenizer_config': {'vocab': {'a': 1}}}, 'vocab=.*is not supported'),
    ({'tokenizer_config': {'add_prefix_space': 'yes'}}, "add_prefix_space is 'yes'"),
    ({'tokenizer_config': {'add_bos_token': 1}}, 'add_bos_token is 1'),
    ({'tokenizer_config': {'eos_token': 3}}, '3 instead of an object'),
    ({'tokenizer_config': {'added_tokens_decoder': {'a': {}}}}, "'a' where an id must"),
    ({'tokenizer_config': {'added_tokens_decoder': {'1': {}}}}, "lacks 'content'"),
    ({'added_tokens': {'<x>': SIZE + 2}}, f'id {SIZE + 2}, but.*gives it {SIZE + 1}'),
    ({'added_tokens': {'<x>': 5}}, f'the id 5, but transformers gives it {SIZE + 1}'),
    ({'added_tokens': {'<x>': '5'}}, "'<x>' is '5' instead of a whole number"),
    (
      {'special_tokens_map': {'eos_token': {}}},
      "eos_token is damaged: it lacks 'con",
    ),
    (
      {'special_tokens_map': {'eos_token': token('a') | {'odd': True}}},
      'has odd=True, which is none of single_word',
    ),
    ({'tokenizer_config': {'eos_token': '\ud800'}}, 'half of a surrogate pair'),
    ({'tokenizer_config': {'eos_token': None}}, 'has no entry <|endoftext|>'),
  ],
)
def test_what_is_not_supported_is_refused_by_name(tmp_path, files, says):
  last = ('<s2>',) if 'has no entry' in says else (EOT,)
  tokenizer_folders.pair(tmp_path, *last)
  put(tmp_path, **files)
  with pytest.raises(UserError, match=says):
    tokenizers.open_path(tmp_path)


def test_an_end_that_only_the_model_names_is_taken(tmp_path):
  tokenizer_folders.pair(tmp_path, '<s2>')
  put(tmp_path, tokenizer_config={'eos_token': None})
  assert tokenizers.open_path(tmp_path, last=3).eot == 3
  tokenizer_folders.pair(tmp_path, EOT)
  assert tokenizers.open_path(tmp_path, last=3).eot == SIZE


@pytest.mark.parametrize(
  ('change', 'says'),
  [
    (
      lambda w: w.update(normalizer={'type': 'NFC'}),
      "normalizer={'type': 'NFC'} is not",
    ),
    (
      lambda w: w['pre_tokenizer'].update(use_regex=False),
      'pre_tokenizer=.*is not what',
    ),
    (lambda w: w.update(decoder=None), 'decoder=None is not what GPT2Tokenizer has'),
    (
      lambda w: w['model'].update(ignore_merges=True),
      'model.ignore_merges=True is not',
    ),
  ],
)
def test_a_class_and_its_tokenizer_json_that_differ_are_refused(tmp_path, change, says):
  with pytest.raises(UserError, match=says + '.* 4 goes by the one and 5 by the other'):
    whole(tmp_path, change)
  assert whole(tmp_path, change, **GENERIC).kind == 'tokenizer_json'


@pytest.mark.parametrize(
  ('change', 'says'),
  [
    (lambda w: w['model'].update(dropout=0.1), 'dropout=0.1 would draw the ids'),
    (lambda w: w['model'].update(type='WordPiece'), "model.type='WordPiece'"),
    (lambda w: w['added_tokens'][0].update(id=999), 'must be 0 .. 270, each once'),
    (lambda w: w['added_tokens'].append(token('b') | {'id': 'c'}), "id is 'c' instead"),
    (lambda w: w.update(normalizer={'type': 'Odd'}), 'nor another tokenizer.json'),
    (
      lambda w: w.update(normalizer={'type': 'Replace', 'pattern': {'Regex': '('}}),
      'nor another tokenizer.json',
    ),
    (
      lambda w: w.update(
        post_processor={
          'type': 'TemplateProcessing',
          'single': [{'SpecialToken': {'id': '<s>', 'type_id': 0}}],
          'pair': [{'Sequence': {'id': 'A', 'type_id': 0}}],
          'special_tokens': {},
        }
      ),
      'nor another tokenizer.json|post_processor can not be used',
    ),
  ],
)
def test_a_tokenizer_json_that_can_not_be_used_is_refused(tmp_path, change, says):
  with pytest.raises(UserError, match=says):
    whole(tmp_path, change, **GENERIC)


def test_files_of_two_tokenizers_are_refused(tmp_path):
  tokenizer_folders.write('released', tmp_path / 'a')
  vocab = tokenizer_folders.vocabulary('<|other|>', EOT)
  put(tmp_path / 'a', vocab=vocab)
  with pytest.raises(UserError, match=r"differ, first in the entry '<\|(other|endof)"):
    tokenizers.open_path(tmp_path / 'a')


def test_a_saved_tokenizer_that_is_damaged_is_an_error(tmp_path):
  opened(tmp_path, 'flags').save(tmp_path / 'saved')
  (tmp_path / 'saved/tokenizer.json').write_text('3')
  with pytest.raises(UserError, match='tokenizer.json is damaged: 3 instead of an obj'):
    tokenizers.load(tmp_path / 'saved')


def test_text_without_an_id_is_an_error_with_the_text(tmp_path):
  made = theirs.Tokenizer(theirs.models.WordLevel({'a': 0, '</s>': 1}, unk_token='?'))
  tokenizer_folders.whole(tmp_path, made, eos_token='</s>')
  ours = tokenizers.open_path(tmp_path)
  assert ours.encode('a') == [0]
  with pytest.raises(UserError, match="it has no ids for 'b'"):
    ours.encode('b')


def test_a_sentencepiece_folder_keeps_what_it_says(tmp_path, trained):
  trained['unigram'].save(tmp_path)
  (tmp_path / 'kind.json').unlink()
  names = {'eos_token': EOT, 'unk_token': '<unk>', 'pad_token': '[PAD]'}
  about = {'tokenizer_class': 'T5Tokenizer', 'model_max_length': 77} | names
  put(tmp_path, tokenizer_config=about)
  ours = tokenizers.open_path(tmp_path)
  assert ours.encode('hello') == trained['unigram'].encode('hello')
  assert (ours.facts.named, ours.added) == (names, {EOT: ours.eot})
  notes = '\n'.join(ours.facts.notes)
  assert "pad_token='[PAD]' is no piece of sentencepiece.model" in notes
  assert "tokenizer_class='T5Tokenizer' is kept only" in notes
  ours.save(tmp_path / 'saved')
  assert tokenizers.load(tmp_path / 'saved').facts.settings == about
  one = ours.encode('e')[-1]
  assert tokenizers.open_path(tmp_path, eot=one).decode([one]) == ''
  put(tmp_path, added_tokens={'<|user|>': ours.vocab})
  with pytest.raises(UserError, match=r"'<\|user\|>' with the id \d+ is no such piece"):
    tokenizers.open_path(tmp_path)


def test_how_a_file_cuts_and_pads_is_kept(tmp_path):
  for name in ('cut_off', 'class_with_frame'):
    ours = opened(tmp_path, name)
    assert len(ours.encode('the model returns')) > 3
    about = json.loads(ours.whole)
    assert about['truncation']['max_length'] == 3
    assert about['padding']['strategy'] == {'Fixed': 20}
