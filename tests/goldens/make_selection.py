"""Makes selection.json: which tokens transformers' warpers leave to draw from.

pip install torch transformers
python tests/goldens/make_selection.py
"""

import importlib.metadata
import json
import pathlib

import numpy as np

PATH = pathlib.Path(__file__).with_name('selection.json')
# Our setting, their class; a number each.
CASES = [
  ('top_k', 'TopKLogitsWarper', 7),
  ('top_p', 'TopPLogitsWarper', 0.9),
  ('top_p', 'TopPLogitsWarper', 0.3),
  ('min_p', 'MinPLogitsWarper', 0.05),
  ('typical_p', 'TypicalLogitsWarper', 0.8),
  ('typical_p', 'TypicalLogitsWarper', 0.2),
]


def logits() -> np.ndarray:
  """Returns what is chosen from, float32 [6, 120]; no two of a row are equal."""
  draw = np.random.RandomState(1).standard_normal((6, 120)) * 1.5
  return draw.astype(np.float32)


def kept() -> list[list[list[int]]]:
  """Returns the ids that are left, by case and row."""
  import torch
  from transformers.generation import logits_process

  given, found = torch.tensor(logits()), []
  for _, name, number in CASES:
    left = getattr(logits_process, name)(number)(None, given.clone())
    found.append([row.isfinite().nonzero()[:, 0].tolist() for row in left])
  return found


if __name__ == '__main__':
  names = 'torch', 'transformers'
  versions = {name: importlib.metadata.version(name) for name in names}
  made = {'made with': versions, 'kept': kept()}
  PATH.write_text(json.dumps(made, separators=(',', ':')) + '\n')
