"""Tokenizers of Hugging Face folders: ids, texts and facts as transformers has them."""

import dataclasses
import json
import pathlib
import random

import pytest
import tokenizer_folders
from tokenizer_folders import EOT, FOLDERS, TEXTS

from gpt_jax import tokenizers
from gpt_jax.tokenizers import hugging_face

ROOT = pathlib.Path(__file__).resolve().parent.parent
GOLDEN = json.loads((ROOT / 'tests/goldens/tokenizer_folders.json').read_text('utf-8'))


@pytest.fixture(scope='session', params=FOLDERS)
def case(request, tmp_path_factory):
  """Its golden, its folder and what we open it as."""
  name = request.param
  folder = tokenizer_folders.write(name, tmp_path_factory.mktemp('folders') / name)
  return GOLDEN[name], folder, tokenizers.open_path(folder, 'basic')


def check_ids(golden, ours):
  for text, row in zip(TEXTS, golden['rows'], strict=True):
    assert ours.encode(text) == ours.encode_array(text).tolist()
    special = tokenizers.encode_special(ours, text)
    if EOT in text and EOT not in ours.added:
      continue  # for us a name of end-of-text everywhere
    assert special == row['special'], text
    if ours.kind != 'gpt1':  # whose <unk> has always been shown
      assert ours.decode(special) == row['text']
    if EOT in text and ours.added[EOT] in row['split']:
      continue  # a file that has it as no special token
    assert ours.encode(text) == row['split'], text


def test_ids_and_texts_are_those_of_transformers(case):
  golden, _, ours = case
  check_ids(golden, ours)


def test_what_is_saved_is_loaded_again(case, tmp_path):
  golden, _, ours = case
  ours.save(tmp_path / 'a')
  again = tokenizers.load(tmp_path / 'a')
  check_ids(golden, again)
  names = 'kind', 'vocab', 'eot', 'added', 'unknown'
  assert [getattr(again, n) for n in names] == [getattr(ours, n) for n in names]
  assert (again.facts is None) == (ours.facts is None)
  if ours.facts:
    assert again.facts == dataclasses.replace(ours.facts, notes=())
  again.save(tmp_path / 'b')
  assert tokenizers.digest(tmp_path / 'a') == tokenizers.digest(tmp_path / 'b')


def written(golden, folder):
  """Returns what a folder should be found as after it was written again."""
  about = folder / 'tokenizer_config.json'
  about = json.loads(about.read_text('utf-8')) if about.exists() else {}
  said = {'model_max_length': about.get('model_max_length', 128)}
  return golden | {'facts': golden['facts'] | said}


def test_transformers_finds_in_a_written_folder_what_it_found_before(case, tmp_path):
  pytest.importorskip('transformers')
  from goldens import make_tokenizer_folders

  golden, folder, ours = case
  hugging_face.write(ours, tmp_path, 128)
  found, wanted = make_tokenizer_folders.found(tmp_path), written(golden, folder)
  if ours.kind == 'gpt1':  # which gets an end of text
    found['named'] = {'unk_token': found['named']['unk_token']}
    found['added'].pop(EOT)
    for row, text in zip(wanted['rows'], TEXTS, strict=True):
      row |= found['rows'][TEXTS.index(text)] if EOT in text else {}
  assert found == wanted


PARTS = 'the hello <|user|> <|im_end|> <mask> NOT not nOt <s> </s> <unk> [PAD] words'
PARTS = [*PARTS.split(), *" \n\u2581\u00a0\u200d12éﬁ日👍ÅİA<|'.,"]
PARTS += ['  ', "n't", 'e\u0301']


def test_any_text_has_the_ids_of_transformers(case):
  transformers = pytest.importorskip('transformers')
  _, folder, ours = case
  read = transformers.AutoTokenizer.from_pretrained(folder)
  how, draw = {'add_special_tokens': False}, random.Random(0)
  for _ in range(60):
    text = ''.join(draw.choices(PARTS, k=draw.randrange(12)))
    split = read(text, split_special_tokens=True, **how)['input_ids']
    assert ours.encode(text) == split, text
    whole = read(text, split_special_tokens=False, **how)['input_ids']
    assert tokenizers.encode_special(ours, text) == whole, text
    ids = [i for i in draw.choices(range(ours.vocab), k=8) if i != ours.eot]
    if ours.kind != 'gpt1':
      assert ours.decode(ids) == read.decode(ids, skip_special_tokens=True)


def test_what_is_written_is_opened_again(case, tmp_path):
  golden, _, ours = case
  hugging_face.write(ours, tmp_path, 128)
  again = tokenizers.open_path(tmp_path, 'basic')
  assert (again.kind, again.vocab, again.eot) == (ours.kind, ours.vocab, ours.eot)
  check_ids(golden, again)
  if ours.facts:
    ends = dict.fromkeys(('bos_token', 'eos_token'), EOT) if ours.kind == 'gpt1' else {}
    assert again.facts.named == ours.facts.named | ends
    assert again.facts.extra == ours.facts.extra


def test_facts_are_those_of_transformers(case):
  golden, folder, ours = case
  if ours.facts is None:
    assert set(golden['named'].values()) <= {EOT}
    return
  assert ours.facts.named == golden['named']
  assert list(ours.facts.extra) == golden['facts']['extra_special_tokens']
  whole = [*ours.facts.before, *ours.encode('the'), *ours.facts.after]
  assert whole == golden['frame']
  known = {t: i for t, i in golden['added'].items() if i < ours.vocab}
  assert known.items() <= ours.added.items()
