"""Documents that are equal or nearly so, counted and left out."""

import dataclasses
import hashlib
import json
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt_jax import tokenizers
from gpt_jax.config import Data, UserError
from gpt_jax.data import duplicates, prepare, split, token_files

LONG = 'The third of them, a quiet one, stayed at home and read 12 books.'


def marks(*texts):
  found = duplicates.Marks()
  for text in texts:
    found.add(text, True)
  return found.arrays()


@pytest.mark.parametrize(
  ('other', 'near'),
  [
    (LONG, True),
    (LONG.upper(), True),
    (LONG.replace(' ', '\n\n'), True),
    ('\u201c' + LONG.replace(',', ' \u2014') + '\u201d', True),
    (LONG.replace('12', '13'), False),
    (LONG + ' Well.', False),
    (LONG.replace('12', '1 2'), True),
  ],
)
def test_nearly_equal_is_equal_in_letters_and_digits(other, near):
  whole, letters = marks(LONG, other)
  assert (whole[0] == whole[1]) == (other == LONG)
  assert (letters[0] == letters[1]) == near


def test_short_documents_are_equal_or_not():
  whole, letters = marks('1 + 1', '1 - 1', '1 + 1', '')
  assert duplicates.copies(letters).tolist() == [False, False, True, False]
  assert (whole == letters).all()
  # 31 letters and 32 of them.
  for size, near in ((31, False), (32, True)):
    _, letters = marks('a' * size, 'A' * size)
    assert (letters[0] == letters[1]) == near


@given(st.text(max_size=80), st.integers(0, 80))
@settings(max_examples=300, deadline=None)
def test_a_mark_does_not_depend_on_where_parts_end(text, at):
  text = text.encode('utf-8', 'replace').decode()
  parted = duplicates.Marks()
  parted.add(text[:at], True)
  parted.add(text[at:], False)
  for one, other in zip(parted.arrays(), marks(text), strict=True):
    np.testing.assert_array_equal(one, other)


@given(st.text(max_size=60))
@settings(max_examples=300, deadline=None)
def test_letters_are_those_that_isalnum_knows(text):
  text = text.encode('utf-8', 'replace').decode()
  wanted = ''.join(c for c in text.casefold() if c.isalnum())
  assert duplicates.letters_of(text).decode() == wanted


def test_a_mark_is_the_same_in_every_process():
  whole, _ = marks(LONG)
  digest = hashlib.blake2b(LONG.encode(), digest_size=8).digest()
  assert int(whole[0]) == int.from_bytes(digest, 'little')


def words(number):
  return ' '.join(random.Random(number).choices(LONG.split(), k=30)) + '\n'


def jsonl(path, texts):
  path.write_text(''.join(json.dumps({'text': text}) + '\n' for text in texts))
  return str(path)


def prepared(data, folder):
  """Returns the lines said, and the texts of the two files."""
  said = []
  prepare.prepare(data, folder, report=said.append)
  tokenizer, texts = tokenizers.load(folder / 'tokenizer'), []
  for name in ('train', 'valid'):
    file = token_files.open_tokens(folder / 'tokens' / name)
    ends = [*file.starts[1:], len(file.ids)]
    spans = zip(file.starts, ends, strict=True)
    texts.append([tokenizer.decode(file.ids[int(a) + 1 : int(b)]) for a, b in spans])
  return '\n'.join(said), *texts


def test_documents_given_twice_are_counted_and_can_be_left_out(tmp_path):
  once = [words(n) for n in range(65)]
  data = Data(source=jsonl(tmp_path / 'a.jsonl', [*once, *once]), tokenizer='bytes')
  said, train, valid = prepared(data, tmp_path / 'keep')
  assert set(valid) <= set(train) and len(valid) == 13
  assert (
    '65 of 130 documents are equal or nearly equal to an earlier one (65 letter for '
    'letter); 13 of 13 held-out documents are trained on too (13 letter for letter); '
    '--config.data.duplicates=drop leaves copies out'
  ) in said
  data.duplicates = 'drop'
  said, train, valid = prepared(data, tmp_path / 'drop')
  assert not set(valid) & set(train) and sorted(train + valid) == sorted(once)
  assert len(valid) == 6  # a tenth of what is kept
  assert ': 65 documents, ' in said
  assert (
    'left out 65 document(s) equal or nearly equal to an earlier one (65 letter for '
    'letter)'
  ) in said


def test_of_near_copies_the_first_stays(tmp_path):
  once = [words(n) for n in range(20)]
  other = [once[19].upper(), *once, once[3].replace(' ', '  ')]
  data = Data(source=jsonl(tmp_path / 'a.jsonl', other), tokenizer='bytes')
  said, train, valid = prepared(data, tmp_path / 'keep')
  # Held out are documents 9 and 19 of the 22; document 0 is the copy of 20.
  assert (
    '2 of 22 documents are equal or nearly equal to an earlier one (0 letter' in said
  )
  assert '0 of 2 held-out documents' in said
  data.duplicates = 'drop'
  _, train, valid = prepared(data, tmp_path / 'drop')
  assert sorted(train + valid) == sorted([once[19].upper(), *once[:19]])


def test_what_data_valid_holds_out_stays_and_its_copies_are_not_trained_on(tmp_path):
  once, held = [words(n) for n in range(5)], [words(n) for n in (3, 9, 9)]
  data = Data(
    source=jsonl(tmp_path / 'a.jsonl', [*once, once[0]]),
    valid=jsonl(tmp_path / 'b.jsonl', held),
    tokenizer='bytes',
  )
  said = prepared(data, tmp_path / 'keep')[0]
  assert (
    '2 of 6 documents are equal or nearly equal to a held-out or an earlier one (2 '
    'letter for letter); 1 of 3 held-out documents are trained on too (1 letter for '
    'letter)'
  ) in said
  data.duplicates = 'drop'
  _, train, valid = prepared(data, tmp_path / 'drop')
  assert (train, valid) == ([once[i] for i in (0, 1, 2, 4)], held)


def test_documents_cut_by_position_have_nothing_of_each_others_ends(tmp_path):
  texts = [words(1), words(2), words(1)]
  data = Data(source=jsonl(tmp_path / 'a.jsonl', texts), tokenizer='bytes')
  said, *_ = prepared(data, tmp_path / 'keep')
  assert '1 of 3 documents are' in said and 'held-out documents' not in said


def test_text_without_copies_says_nothing_and_drop_then_changes_nothing(tmp_path):
  source = jsonl(tmp_path / 'a.jsonl', [words(n) for n in range(20)])
  data = Data(source=source, tokenizer='bytes')
  kept = split.look(data, print)
  assert kept.lines == []
  dropped = split.look(dataclasses.replace(data, duplicates='drop'), print)
  assert (kept.digests, kept.bytes) == (dropped.digests, dropped.bytes)


def test_copies_make_another_recipe_and_another_digest(tmp_path):
  source = jsonl(tmp_path / 'a.jsonl', [words(n) for n in (0, 1, 0, 1)])
  data = Data(source=source, tokenizer='bytes')
  prepared(data, tmp_path / 'w')
  data.duplicates = 'drop'
  with pytest.raises(UserError, match="data.duplicates: 'keep' there, 'drop' now"):
    prepared(data, tmp_path / 'w')
  other = split.look(data, print).digests
  assert (
    other != split.look(dataclasses.replace(data, duplicates='keep'), print).digests
  )


def test_dropping_all_but_too_little_is_an_error(tmp_path):
  source = jsonl(tmp_path / 'a.jsonl', [words(1)] * 12)
  data = Data(source=source, valid=source, tokenizer='bytes', duplicates='drop')
  with pytest.raises(UserError, match='no text is left.* keep data.duplicates'):
    prepared(data, tmp_path / 'w')
