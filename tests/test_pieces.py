"""Documents in pieces: what divides them, wherever the pieces end."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt_jax.data import pieces, sources

END = '<|endoftext|>'


def divided(texts, separator=END):
  """Returns the documents, and whether there was no separator."""
  missed, found = [], []
  for part in pieces.divided('n', texts, separator, lambda: missed.append(1)):
    if part.first:
      found.append('')
    found[-1] += part.text
  return found, bool(missed)


@pytest.mark.parametrize(
  ('text', 'wanted'),
  [
    # As TinyStories has it: a line of its own goes with its line end.
    (f'One.\n{END}\nTwo.\n{END}\n', ['One.\n', 'Two.\n']),
    (f'One.\r\n{END}\r\nTwo.', ['One.\r\n', 'Two.']),
    (f'One.{END}Two.', ['One.', 'Two.']),
    (f'One.{END}\nTwo.', ['One.', '\nTwo.']),
    # Blank lines stay with their documents; documents of blanks are none.
    (f'One.\n\n{END}\n\nTwo.', ['One.\n\n', '\nTwo.']),
    (f'{END}\n{END}\n \n{END}\nOne.{END} ', ['One.']),
    (f'One.\n{END}Two.{END}', ['One.\n', 'Two.']),
    ('One.', ['One.']),
    ('', []),
  ],
)
def test_a_separator_divides_wherever_it_stands(text, wanted):
  for size in (1, 2, 3, 13, 14, 99):
    chunks = [text[i : i + size] for i in range(0, len(text), size)]
    assert divided(chunks) == (wanted, END not in text), size


@given(
  st.lists(
    st.sampled_from(['ab', 'a', 'b', '\n', '\r\n', ' ', 'x', 'aab']), max_size=30
  ),
  st.lists(st.integers(1, 5), min_size=1, max_size=20),
)
@settings(max_examples=300, deadline=None)
def test_documents_are_those_of_an_expression_over_the_whole_text(texts, sizes):
  text, chunks, at = ''.join(texts), [], 0
  for size in sizes:
    chunks.append(text[at : at + size])
    at += size
  chunks.append(text[at:])
  whole = re.split(r'(?m)^aab(?:\r?\n)?|aab', text)
  assert divided(chunks, 'aab')[0] == [each for each in whole if each.strip()]


def test_long_documents_come_in_parts_and_short_ones_do_not_run_together(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(pieces, 'PART', 1000)
  texts = [('The quick brown fox. ' * n).strip() for n in (1, 400, 2, 700)]
  (tmp_path / 'a.txt').write_text(f'\n{END}\n'.join(texts))
  parts = list(sources.parts(str(tmp_path / 'a.txt'), separator=END))
  assert len(parts) > 20
  found = list(sources.documents(str(tmp_path / 'a.txt'), separator=END))
  assert [each.text.strip() for each in found] == texts
  assert [each.name[-5:] for each in found] == [f'txt:{i}' for i in (1, 2, 3, 4)]


def test_a_separator_is_of_plain_text_only(tmp_path):
  (tmp_path / 'a.jsonl').write_text('{"text": "a<>b"}\n')
  (tmp_path / 'b.txt').write_text('c<>d')
  found = sources.documents(str(tmp_path), separator='<>')
  assert [each.text for each in found] == ['a<>b', 'c', 'd']
