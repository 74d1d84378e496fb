"""The tutorial: its runner on small pages, its corpus, and its two languages."""

import hashlib
import pathlib
import re

import pytest

from experiments.tutorial import corpus, run
from experiments.tutorial.words import ADJECTIVES, NOUNS

ROOT = pathlib.Path(__file__).resolve().parent.parent
ENGLISH, RUSSIAN = ROOT / 'docs/tutorial.md', ROOT / 'docs/tutorial.ru.md'


@pytest.fixture
def page(tmp_path):
  """A function that writes a page of (info, text) blocks and returns its path."""

  def write(*blocks):
    path = tmp_path / 'page.md'
    text = ''.join(f'Words.\n\n```{info}\n{code}```\n\n' for info, code in blocks)
    path.write_text(text, encoding='utf-8')
    return path

  return write


def test_a_page_that_prints_what_it_says_passes(page):
  run.check(
    page(
      ('python', 'x = 2\n'),
      ('python', 'print(x + 1, "кот")\n'),
      ('text', '3 кот\n'),
      ('bash', 'python -c "print(1)"\necho two\n'),
      ('text', '1\ntwo\n'),
      ('console', 'not run\n'),
    )
  )


def test_another_output_is_shown_with_its_line_and_both_values(page):
  path = page(('python', 'print("a")\nprint("b")\n'), ('text', 'a\nc\n'))
  with pytest.raises(run.Failed, match=rf'{path}:11 \(text\)(.|\n)*-c\n\+b'):
    run.check(path)


def test_every_mismatch_of_a_page_is_told_at_once(page):
  pair = ('python', 'print(1)\n'), ('text', '2\n')
  with pytest.raises(run.Failed) as error:
    run.check(page(*pair, *pair))
  assert str(error.value).count('-2\n+1') == 2


@pytest.mark.parametrize(
  ('info', 'printed', 'wrong'),
  [
    ('text', '1.00', True),
    ('text trained', '1.00', False),
    ('text trained', '1.06', False),  # 5 % and a unit of the last digit
    ('text trained', '1.09', True),
    ('text trained 20 %', '1.20', False),
    ('text trained 20 %', '1.40', True),
    ('text trained', '-1.01', True),
    ('text trained', '1', True),
    ('text drawn', 'anything', False),
    ('text drawn', 'two\nlines', True),
  ],
)
def test_numbers_and_words_are_compared_as_the_block_says(info, printed, wrong):
  assert run.differs('loss 1.01\n', f'loss {printed}\n', info) is wrong


def test_whole_numbers_and_words_of_a_trained_block_are_compared_to_the_letter():
  assert run.differs('7 + 5 = 12\n', '7 + 5 = 13\n', 'text trained')
  assert run.differs('cat 1.0\n', 'dog 1.0\n', 'text trained')
  assert run.differs('1.0\n', '1.0 1.0\n', 'text trained')


def test_a_command_that_fails_is_told_with_its_line_and_words(page):
  path = page(('bash', 'echo before\nls no_such_file | cat\necho after\n'))
  with pytest.raises(
    run.Failed, match=rf'{path}:4: .* ended with 2\nbefore\n.*no_such'
  ):
    run.check(path)


def test_an_error_of_python_names_the_line_of_the_page(page):
  path = page(('python', 'x = 1\nx / 0\n'))
  with pytest.raises(run.Failed, match=rf'"{path}", line 5(.|\n)*x / 0(.|\n)*by zero'):
    run.check(path)


def test_output_that_the_page_does_not_show_is_an_error(page):
  with pytest.raises(run.Failed, match='this printed, and no ```text block follows'):
    run.check(page(('python', 'print(1)\n'), ('python', '1\n')))
  with pytest.raises(run.Failed, match='output without code before it'):
    run.check(page(('text', '1\n')))


def test_a_picture_that_no_block_made_is_an_error(page):
  path = page(('python', 'pass\n'))
  path.write_text(path.read_text() + '![of nothing](tutorial/no_such.svg)\n')
  with pytest.raises(run.Failed, match='shows tutorial/no_such.svg'):
    run.check(path)


def test_update_writes_outputs_and_leaves_the_rest(page):
  path = page(
    ('python', 'print(1)\nprint(2)\n'),
    ('text', ''),
    ('bash', 'echo x\n'),
    ('text', 'y\n'),
  )
  before = path.read_text()
  run.update(path)
  after = path.read_text()
  assert after == before.replace('text\n```', 'text\n1\n2\n```').replace(
    '\ny\n', '\nx\n'
  )
  run.check(path)
  run.update(path)
  assert path.read_text() == after


def test_a_failing_page_is_exit_status_1(page, capsys):
  assert run.main([str(page(('python', 'print(1)\n'), ('text', '1\n')))]) == 0
  assert run.main([str(page(('python', 'print(1)\n'), ('text', '2\n')))]) == 1
  assert '+1' in capsys.readouterr().err


@pytest.fixture(scope='module')
def made():
  return corpus.documents()


def test_the_corpus_is_the_same_everywhere(made):
  digest = hashlib.sha256('\0'.join(made).encode()).hexdigest()
  assert digest == '3db50751c34e8a271bfb7842ba065de1fcf7b90078fde93a6aa6115853b1963e'
  assert corpus.documents(50, seed=1) != made[:50]


def test_held_out_combinations_do_not_occur(made):
  whole = '\n'.join(made)
  pairs = [(a, n) for a in ADJECTIVES for n in NOUNS if corpus.held_out_pair(a, n)]
  assert len(pairs) > 25
  for adjective, noun in pairs:
    for phrase in (
      f'{adjective.en} {noun.en}',
      f'{adjective.of(noun)} {noun.ru}',
      f'{adjective.it(noun)} {noun.it}',
    ):
      assert phrase not in whole
  sums = {
    (int(a), int(b)) for a, b in re.findall(r'(\d+) (?:\+|plus|плюс) (\d+)', whole)
  }
  assert len(sums) > 80
  assert not any(corpus.held_out_sum(a, b) for a, b in sums)
  lines = set(whole.splitlines())
  for noun in NOUNS:
    listed = lines & {f'{noun.ru} = {noun.en}', f'{noun.en} = {noun.ru}'}
    assert bool(listed) == (noun.en not in corpus.UNLISTED), noun
    assert f"'{noun.en}'" in whole  # but it is translated in words


def test_both_tutorials_have_the_same_blocks():
  english, russian = (
    [block.info for block in run.blocks(path.read_text(encoding='utf-8'))]
    for path in (ENGLISH, RUSSIAN)
  )
  assert english == russian and len(english) > 20


@pytest.mark.parametrize('path', [ENGLISH, RUSSIAN], ids=['en', 'ru'])
def test_every_picture_of_a_tutorial_is_there_and_small(path):
  names = re.findall(r'!\[[^\]]*\]\(([^)]+)\)', path.read_text(encoding='utf-8'))
  assert len(names) > 5
  for name in names:
    assert 0 < (path.parent / name).stat().st_size < 150_000, name
