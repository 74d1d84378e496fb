"""Token files of dialogues: what is held out of them, and the examples of the rest.

A document of such a file is an example of `dialogues.examples`: its ids, the last
target among them, and of each id whether it is a target with a loss. What is held out,
and which dialogues are left out as copies, is decided as for texts (data/split.py).
"""

import contextlib
import dataclasses
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from gpt_jax import config, tokenizers
from gpt_jax.config import UserError
from gpt_jax.data import encode, prepare, sources, split
from gpt_jax.data.fidelity import Fidelity, described
from gpt_jax.data.pieces import Part
from gpt_jax.data.token_files import Writer
from gpt_jax.files import sync
from gpt_jax.tasks import dialogues
from gpt_jax.tasks.dialogues import Dialogue, Turn

_AT_ONCE = 64  # dialogues that a process encodes at a time


def fill(
  data: config.Data,
  stage: Path,
  wanted: dict,
  report: Callable[[str], None],
  original: str | Path | None = None,
) -> None:
  """Makes the tokenizer and the token files of dialogues in the folder `stage`.

  Args:
    wanted: the recipe, for the headers.
    original: folder of a tokenizer to copy instead of making one.

  Raises:
    UserError: a file can't be read, a line is no dialogue, a weight is not 0 or 1, or
      nothing is left to train on or to hold out.
  """
  data = dataclasses.replace(data, split='documents')
  text = split.look(data, lambda line: None, _parts)
  report(split.describe(data, text).replace('document', 'dialogue'))
  for line in text.lines:
    report(line.replace('document', 'dialogue'))
  shutil.rmtree(stage, ignore_errors=True)
  (stage / 'tokens').mkdir(parents=True)
  tokenizer = prepare.make_tokenizer(
    data, _texts(data, text), stage / 'tokenizer', original
  )
  report(f'tokenizer: {tokenizer.kind}, {tokenizer.vocab:,} ids')
  writers = {
    name: Writer(stage / 'tokens' / name, tokenizer, {}, weighted=True)
    for name in ('train', 'valid')
  }
  kept = {name: Fidelity(tokenizer, text.bytes) for name in writers}
  with contextlib.ExitStack() as stack:
    for writer in writers.values():
      stack.callback(writer.close)
    left_out = _write(data, text, stage, tokenizer, writers, kept, report)
    for name, writer in writers.items():
      what = f'{left_out[name]:,} dialogue(s) that have none'
      if not writer.documents:
        raise UserError(
          f'no example is left {"to train on" if name == "train" else "to hold out"}: '
          f'there are {what}, as an example needs a turn that answers another, weighs '
          f'1 and is at most data.dialogues={data.dialogues} tokens; give more '
          'dialogues, or change data.holdout or data.dialogues'
        )
      writer.finish(prepare.about(data, text, stage, wanted, name, kept[name]))
      report(
        f'{name}: {writer.documents:,} examples of {writer.tokens:,} tokens; left out '
        f'{what}; {described(kept[name].record, writer.tokens)}'
      )
  for path in [*stage.rglob('*'), stage]:
    sync(path)


def _write(
  data: config.Data,
  text: split.Text,
  stage: Path,
  tokenizer: tokenizers.Tokenizer,
  writers: dict[str, Writer],
  kept: dict[str, Fidelity],
  report: Callable[[str], None],
) -> dict[str, int]:
  """Writes the examples; returns how many dialogues have none, by file."""
  end = tokenizers.start_of_text(tokenizer)
  if end >= tokenizer.vocab:
    raise UserError(
      f'data.tokenizer={data.tokenizer} has no end of text, which dialogues put behind '
      'each turn; choose another'
    )

  def jobs() -> Iterator[tuple[list, list[str], float, int]]:
    pieces = split.divide(data, text, _parts)
    while some := list(itertools.islice(pieces, _AT_ONCE)):
      labels = [(each, _turns(data, each.text)) for each in some]
      yield labels, [turn.text for _, turns in labels for turn in turns], 0.0, 0

  processes = data.processes or os.cpu_count()
  processes = 1 if text.bytes < prepare.WORTH_PROCESSES else processes
  left_out, done = dict.fromkeys(writers, 0), 0
  encoded = encode.encoded(jobs(), stage / 'tokenizer', processes, tokenizer)
  with prepare.progress(text.bytes, 0, report) as advance, contextlib.closing(encoded):
    for labels, ids in encoded:
      own = iter(ids)
      for piece, turns in labels:
        weighted = []
        for turn in turns:
          turn_ids = next(own)
          kept[piece.file].watch(piece.name, turn.text, turn_ids, done)
          weighted.append((turn_ids.tolist(), turn.weight))
        rows = dialogues.examples(weighted, end, data.dialogues)
        for row in rows:
          size = sum(len(turns[i].text.encode()) for i in row.learnt)
          whole = np.array([*row.ids, row.targets[-1]])
          weights = np.array([0, *row.weights])
          writers[piece.file].add(whole, size, True, piece.name, weights)
        left_out[piece.file] += not rows
        done += len(piece.text.encode())
      advance(done)
  if done != text.bytes:
    raise UserError(f'data.source={data.source} changed while it was read; try again')
  return left_out


def _texts(data: config.Data, text: split.Text) -> Iterator[str]:
  """Yields what a tokenizer is trained on: turns, none held out but of `chars`."""
  for piece in split.divide(data, text, _parts):
    if data.tokenizer == 'chars' or piece.file == 'train':
      yield from (turn.text for turn in _turns(data, piece.text))


def _parts(data: config.Data, field: str, *_) -> Iterator[Part]:
  """Yields the dialogues of data.source or data.valid, each as one text."""
  for entry in sources.listing(getattr(data, field)):
    if len(entry) == 1:
      raise UserError(
        f'data.{field}: {entry[0]} is no file of dialogues on this machine; give .tsv, '
        '.jsonl or .txt files, or data.dialogues=0 for text'
      )
    number = 0
    for number, turns in enumerate(dialogues.read(entry[0]), 1):
      name = f'{entry[0]}:{number}'
      if not turns:
        raise UserError(f'{name}: this dialogue has no turn; take it out')
      for turn in turns:
        if turn.weight not in (0, 1):
          raise UserError(
            f'{name}: a turn has weight {turn.weight:g}, which must be 0 or 1; mend it'
          )
      yield Part(name, _packed(turns), True)
    if not number:
      raise UserError(f'{entry[0]} has no dialogue; give another file')


def _packed(turns: Dialogue) -> str:
  """Returns a dialogue as a text with a line for each turn."""
  each = (turn.text if turn.weight else [turn.text, 0] for turn in turns)
  return '\n'.join(json.dumps(one, ensure_ascii=False) for one in each)


def _turns(data: config.Data, text: str) -> Dialogue:
  """Returns the dialogue of such a text, in the order in which it is read."""
  each = map(json.loads, text.split('\n'))
  turns = [Turn(one) if isinstance(one, str) else Turn(*one) for one in each]
  return dialogues.reverse(turns) if data.reverse else turns
