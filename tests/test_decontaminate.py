"""Texts of benchmarks are found in a corpus and cut, and nothing else."""

import json
import random
import re
import string

import prompt_files
import pytest

from gpt_jax.cli.curation import with_texts
from gpt_jax.config import UserError
from gpt_jax.data.curation import (
  decontaminate,
  dedup,
  engine,
  exact,
  grams,
  ingest,
  pipeline,
  shards,
)
from gpt_jax.data.curation.decontaminate import Decontaminate
from gpt_jax.data.curation.shards import Document, read_shard, write_shard
from gpt_jax.evaluation.contamination import texts_of

pytest.importorskip('zstandard')


def prose(seed: int, words: int) -> str:
  """Returns words with punctuation and capitals, that no other seed has."""
  rng = random.Random(seed)
  some = []
  for i in range(words):
    word = ''.join(rng.choices(string.ascii_lowercase, k=5)) + f'{seed}x{i}'
    some.append(rng.choice([word, word.title(), f'{word},', f'“{word}”', f'{word}.\n']))
  return ' '.join(some)


def cleaned(tmp_path, texts, against, number=50, **settings):
  """Returns the report, and the documents that are left."""
  documents = [Document(f'd#{i}', 's', text, {'i': i}) for i, text in enumerate(texts)]
  for i in range(0, len(documents), number):
    name = f'{i // number:05d}{shards.SUFFIX}'
    write_shard(tmp_path / 'in' / name, documents[i : i + number])
  file = tmp_path / 'against.jsonl'
  file.write_text(''.join(json.dumps({'text': each}) + '\n' for each in against))
  settings = Decontaminate(str(file), **settings)
  runs = engine.local(1, tmp_path / 'state')
  paths = shards.list_shards(tmp_path / 'in')
  report = decontaminate.run(runs, paths, str(tmp_path / 'out'), settings)
  out = [d for path in shards.list_shards(tmp_path / 'out') for d in read_shard(path)]
  return report, out


def oracle_words(text: str) -> list[tuple[str, int, int]]:
  """Returns words without punctuation, with begin and end of what they stand in."""
  found = []
  for match in re.finditer(r'\S+', text):
    bare = ''.join(c for c in match[0].lower() if c.isalnum())
    if bare:
      found.append((bare, *match.span()))
  return found


def test_a_planted_passage_is_cut_with_200_characters_on_each_side(tmp_path):
  passage = prose(1, 40)
  before, after = prose(2, 200), prose(3, 200)
  text = f'{before} {passage.upper()} {after}'
  clean = [prose(i, 100) for i in range(10, 130)]
  report, out = cleaned(tmp_path, [*clean[:60], text, *clean[60:]], [passage])
  begin, end = len(before) + 1, len(before) + 1 + len(passage.rstrip())
  assert [d.text for d in out if d.id.startswith('d#60.')] == [
    text[: begin - 200],
    text[end + 200 :],
  ]
  assert [d.id for d in out if '.' in d.id] == ['d#60.0', 'd#60.1']
  assert [d.text for d in out if '.' not in d.id] == clean
  assert report['documents'] == report['kept'] == 121
  assert (report['cut'], report['pieces'], report['grams_found']) == (1, 2, 28)
  assert report['dropped'] == {} and report['written'] == 122
  assert report['characters_cut'] == end - begin + 400
  assert report['examples']['cut'][0]['id'] == 'd#60'


def test_a_clean_corpus_loses_nothing(tmp_path):
  texts = [prose(i, 60) for i in range(120)] + ['', ' ', 'short']
  # Twelve words of each are not thirteen.
  against = [' '.join(text.split()[:12]) + ' ' + prose(999, 5) for text in texts[:50]]
  report, out = cleaned(tmp_path, texts, [*against, 'a short one'])
  assert [d.text for d in out] == texts
  assert [d.meta for d in out] == [{'i': i} for i in range(len(texts))]
  assert report['kept'] == report['documents'] == len(texts)
  assert 'cut' not in report and report['grams_found'] == 0
  assert report['characters'] == sum(map(len, texts))
  assert (report['texts'], report['texts_without_a_gram']) == (51, 1)


def test_what_is_cut_is_what_brute_force_finds():
  rng = random.Random(0)
  words = [*'abcdefg', '—', 'A.', '“b”', 'c,', 'd\n\n', '...']
  n = 5
  for _ in range(200):
    texts = [' '.join(rng.choices(words, k=rng.randint(0, 40))) for _ in range(2)]
    known = decontaminate.Index(decontaminate.index(texts[:1], n)[0])
    given, mine = map(oracle_words, texts)
    grams_given = {tuple(w for w, *_ in given[i : i + n]) for i in range(len(given))}
    expected = [
      (mine[i][1], mine[i + n - 1][2])
      for i in range(len(mine) - n + 1)
      if tuple(w for w, *_ in mine[i : i + n]) in grams_given
    ]
    assert decontaminate.spans(texts[1], known, n) == expected


def test_pieces_overlap_and_end_with_the_text():
  text = ''.join(chr(97 + i % 26) for i in range(100))
  assert decontaminate.pieces(text, [(40, 50)], 10) == [text[:30], text[60:]]
  assert decontaminate.pieces(text, [(55, 60), (40, 50)], 10) == [text[:30], text[70:]]
  assert decontaminate.pieces(text, [(5, 20), (80, 95)], 10) == [text[30:70]]
  assert decontaminate.pieces(text, [(0, 100)], 0) == []
  assert decontaminate.pieces(text, [(30, 40)], 30) == [text[70:]]


def test_short_pieces_and_documents_in_many_pieces_are_dropped(tmp_path):
  passage = prose(1, 13)
  short = f'{prose(2, 40)} {passage}'[-len(passage) - 390 :]
  gap = prose(3, 70)  # more than 600 characters: a piece is left of it
  texts = [
    short,
    f'{gap} ' + f'{passage} {gap} ' * 9,  # 10 pieces
    f'{gap} ' + f'{passage} {gap} ' * 10,  # 11
  ]
  report, out = cleaned(tmp_path, texts, [passage])
  assert report['dropped'] == {'too_many_pieces': 1, 'nothing_left': 1}
  assert [d.id for d in out] == [f'd#1.{i}' for i in range(10)]
  assert all(len(d.text) >= 200 for d in out)
  assert report['pieces'] == 10 and report['pieces_too_short'] == 0
  assert (report['documents'], report['kept'], report['written']) == (3, 1, 10)
  assert len(report['examples']['nothing_left']) == 1


@pytest.mark.parametrize('documents', [10, 11])
def test_a_gram_that_more_than_10_documents_have_is_left(tmp_path, documents):
  law = prose(1, 13)
  # Twice in a document is once.
  texts = [f'{prose(i, 60)} {law} {prose(i + 50, 90)} {law}' for i in range(documents)]
  texts = [*texts, *(prose(i, 30) for i in range(200, 220))]
  report, out = cleaned(tmp_path, texts, [law], number=4)
  assert report['grams_found'] == 1
  assert report['grams_frequent'] == (documents == 11)
  assert report.get('cut', 0) == (10 if documents == 10 else 0)
  if documents == 11:
    assert [d.text for d in out] == texts


def test_other_texts_need_another_folder_of_marks(tmp_path):
  texts = [prose(i, 60) for i in range(5)]
  cleaned(tmp_path, texts, [texts[0]])
  with pytest.raises(UserError, match='of other settings or another input'):
    cleaned(tmp_path, texts, [texts[1]])


def test_curate_takes_out_copies_and_the_texts_of_tasks(tmp_path):
  data = prompt_files.write(tmp_path / 'tasks')
  (seen,) = list(texts_of(['lambada'], data))[:1]
  texts = [f'{prose(i, 90)} {seen * (i == 3)} {prose(i + 50, 90)}' for i in range(6)]
  texts += [texts[0].upper(), f'{texts[1]} and', 'short']
  (tmp_path / 'text').mkdir()
  for i, text in enumerate(texts):
    (tmp_path / f'text/{i}.txt').write_text(text)
  curation = pipeline.Curation(
    (ingest.Source('web', str(tmp_path / 'text')),),
    (
      exact.Exact(),
      dedup.Dedup(),
      exact.Passages(),
      Decontaminate(tasks=('lambada',), data=str(data)),
    ),
  )
  workdir = str(tmp_path / 'out')
  curation = with_texts(curation, workdir)
  done = pipeline.run(curation, workdir, engine.local(1, f'{workdir}/state'))
  reports = {each.name: each.report for each in done}
  assert reports['exact']['dropped'] == reports['dedup']['dropped'] == {'copy': 1}
  assert 'cut' not in reports['passages'] and reports['decontaminate']['cut'] == 1
  left = [
    d.text for path in shards.list_shards(done[-1].folder) for d in read_shard(path)
  ]
  assert [text for text in texts[:6] if text in left] == texts[:3] + texts[4:6]
  assert len(left) == 8 and not any(seen in text for text in left)


def test_wrong_settings_are_named():
  with pytest.raises(UserError, match='n=0 must be 1 or more; against= names no texts'):
    Decontaminate(n=0).check()


def test_an_empty_index_finds_nothing():
  known = decontaminate.Index(decontaminate.index(['too short'], 13)[0])
  assert decontaminate.spans(prose(1, 50), known, 13) == []
  assert grams.words([], grams.BARE).numbers.size == 0
