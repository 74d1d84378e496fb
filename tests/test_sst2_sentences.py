"""experiments/gpt1/sst2_sentences.py: sentences are held out with their phrases."""

import pathlib
import subprocess
import sys

from scripts import EXPERIMENTS, opened

ROOT = pathlib.Path(__file__).resolve().parent.parent
PATH = EXPERIMENTS / 'gpt1/sst2_sentences.py'

SENTENCES = [
  'a gripping and funny film .',
  'a dull , overlong and tired film .',
  'the cast makes it a funny film .',
  'nothing here but tired jokes , sadly .',
]


def phrases():
  """Every span of two words or more of the sentences, and two strays."""
  found = ['well', 'so so']
  for sentence in SENTENCES:
    words = sentence.split()
    spans = range(len(words) + 1)
    found += [' '.join(words[i:j]) for i in spans for j in spans if j - i >= 2]
  return {tuple(p.split()): str(len(p) % 2) for p in found}


def inside(part, whole):
  return f' {" ".join(part)} ' in f' {" ".join(whole)} '


def test_what_is_held_out_is_whole_sentences_and_their_phrases():
  labels = phrases()
  train, dev = opened('gpt1/sst2_sentences.py').split(labels, 2)
  sentences = {tuple(s.split()) for s in SENTENCES}
  assert len(dev) == 2 and dev.keys() <= sentences
  trained = (sentences - dev.keys()) | {('well',), ('so', 'so')}
  want = {p for p in labels if any(inside(p, whole) for whole in trained)}
  assert train.keys() == want
  assert ('funny', 'film') in train and len(want) < len(labels) - 2
  assert all(labels[p] == y for p, y in (train | dev).items())


def test_files_are_written_and_can_be_trained_on(tmp_path):
  lines = [f'{" ".join(p)}\t{y}' for p, y in phrases().items()]
  for name, rows in ('train', lines[::2]), ('dev', lines[1::2]):
    (tmp_path / f'{name}.tsv').write_text('\n'.join(['sentence\tlabel', *rows, '']))
  command = [sys.executable, PATH, f'--data={tmp_path}', f'--target={tmp_path}/new']
  done = subprocess.run([*command, '--sentences=1'], capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  from gpt_jax.tasks import labelled

  assert len(labelled.read('sst2', tmp_path / 'new', 'dev')) == 1
  assert len(labelled.read('sst2', tmp_path / 'new', 'train')) > 20

  none = subprocess.run([*command, '--sentences=0'], capture_output=True, text=True)
  assert none.returncode == 1 and 'phrases are too few to hold any out' in none.stderr
