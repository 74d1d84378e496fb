"""SST-2 with whole sentences held out, where dev is cut from the training part.

GLUE trains on phrases of sentences and asks, on dev, for other whole sentences. Where
only the phrases are at hand, holding some of them out at random asks for phrases of the
sentences that were trained on, so that words alone nearly tell the label. This makes
GLUE's kind of split again: a sentence is a phrase that lies in no other; some are held
out, and what is trained on are the phrases of the rest.

Claim: none. Source: Socher et al. 2013 (the phrases), GLUE (the split, 872 sentences).
Cost: 10 seconds.

  python experiments/gpt1/sst2_sentences.py --data=FOLDER --target=NEW

FOLDER holds train.tsv, and dev.tsv if there are more phrases in one; NEW gets both.
"""

import hashlib
import pathlib
import sys

from absl import flags

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
from gpt_jax.cli.messages import run_script
from gpt_jax.config import UserError
from gpt_jax.files import write_whole
from gpt_jax.tasks import labelled

_DATA = flags.DEFINE_string('data', None, "folder of SST-2's files", required=True)
_TARGET = flags.DEFINE_string('target', None, 'folder to write', required=True)
_SENTENCES = flags.DEFINE_integer('sentences', 872, 'how many are held out, at most')
_SHORTEST = 5  # words; a shorter phrase in no other is a stray rather than a sentence

Phrase = tuple[str, ...]


def split(
  labels: dict[Phrase, str], sentences: int
) -> tuple[dict[Phrase, str], dict[Phrase, str]]:
  """Returns labelled phrases to train on, and labelled sentences held out.

  Args:
    labels: of phrases, which are words.
    sentences: how many to hold out. Which ones, a hash of their words says.
  """
  within = {phrase: _parts(phrase, labels) for phrase in labels}
  covered = set().union(*within.values())
  whole = [p for p in labels if p not in covered and len(p) >= _SHORTEST]
  held = set(sorted(whole, key=_draw)[:sentences])
  kept = set().union(
    *({p} | within[p] for p in labels if p not in covered and p not in held)
  )
  return (
    {p: label for p, label in labels.items() if p in kept},
    {p: label for p, label in labels.items() if p in held},
  )


def _parts(phrase: Phrase, known: dict[Phrase, str]) -> set[Phrase]:
  """Returns the known phrases that lie within one, itself left out."""
  n = len(phrase)
  spans = (phrase[i:j] for i in range(n) for j in range(i + 1, n + 1) if j - i < n)
  return {span for span in spans if span in known}


def _draw(phrase: Phrase) -> str:
  return hashlib.sha256(' '.join(phrase).encode()).hexdigest()


def main(argv: list[str]) -> None:
  """Writes the two files."""
  del argv
  data, target = pathlib.Path(_DATA.value), pathlib.Path(_TARGET.value)
  parts = ['train', *(['dev'] if (data / 'dev.tsv').exists() else [])]
  found = [one for part in parts for one in labelled.read('sst2', data, part)]
  labels = {tuple(one.texts[0].split()): str(one.label) for one in found}
  train, dev = split(labels, _SENTENCES.value)
  if not train or not dev:
    raise UserError(f'{data}: {len(labels)} phrases are too few to hold any out')
  target.mkdir(parents=True, exist_ok=True)
  for name, rows in ('train', train), ('dev', dev):
    lines = [f'{" ".join(phrase)}\t{label}' for phrase, label in rows.items()]
    write_whole(target / f'{name}.tsv', '\n'.join(['sentence\tlabel', *lines, '']))
    print(f'{target / name}.tsv: {len(rows):,} of {len(labels):,} phrases')


if __name__ == '__main__':
  run_script(main)
