"""Makes beam.json: what Hugging Face's beam search finds for random GPT-2 weights.

  pip install torch transformers
  python tests/goldens/make_beam.py

The weights are drawn by numpy, so that a test without torch has them too; they are
large, so that hypotheses differ and end-of-text comes early and late. Each prompt is
searched alone.
"""

import importlib.metadata
import json
import pathlib

import numpy as np

L, D, N, T, VOCAB = 2, 32, 2, 32, 50
EOT = VOCAB - 1
NEW = 12
PROMPTS = [[3, 1, 4], [15, 9, 2, 6, 5, 35, 8], [27], [11, 11, 12, 40, 41]]
PATH = pathlib.Path(__file__).with_name('beam.json')

CASES = [{'num_beams': 1}]
CASES += [
  {'num_beams': beams, 'length_penalty': alpha, 'early_stopping': stopping}
  for beams in (2, 4, 5)
  for alpha in (0.0, 1.0, 2.0, -1.0)
  for stopping in (True, False, 'never')
]
CASES += [
  {'num_beams': 4, **rules}
  for rules in (
    {'no_repeat_ngram_size': 2},
    {'repetition_penalty': 1.4},
    {'min_new_tokens': 6},
    {'no_repeat_ngram_size': 1, 'repetition_penalty': 0.7, 'length_penalty': 2.0},
    {'min_new_tokens': 3, 'repetition_penalty': 1.2, 'early_stopping': True},
  )
]
# Several ids end a text; of these 44 and 37 are likely.
CASES += [
  {'num_beams': beams, 'eos_token_id': ends, **how}
  for beams in (1, 4)
  for ends in ([EOT, 44], [37, EOT, 44])
  for how in ({}, {'min_new_tokens': 5})
]
CASES += [
  {'num_beams': 4, 'eos_token_id': [EOT, 44, 10], 'length_penalty': 0.0, **how}
  for how in ({'early_stopping': True}, {'early_stopping': 'never'})
]


def weights() -> dict[str, np.ndarray]:
  """Returns weights by Hugging Face's names, float32."""
  draw = np.random.RandomState(5)

  def normal(std, *shape):
    return (std * draw.standard_normal(shape)).astype(np.float32)

  made = {'wte.weight': normal(0.3, VOCAB, D), 'wpe.weight': normal(0.4, T, D)}
  for layer in range(L):
    for name, shape in [
      ('attn.c_attn', (D, 3 * D)),
      ('attn.c_proj', (D, D)),
      ('mlp.c_fc', (D, 4 * D)),
      ('mlp.c_proj', (4 * D, D)),
    ]:
      made[f'h.{layer}.{name}.weight'] = normal(0.3, *shape)
      made[f'h.{layer}.{name}.bias'] = normal(0.3, shape[1])
    for name in ('ln_1', 'ln_2'):
      made[f'h.{layer}.{name}.weight'] = 1 + normal(0.3, D)
      made[f'h.{layer}.{name}.bias'] = normal(0.3, D)
  made['ln_f.weight'] = 1 + normal(0.3, D)
  made['ln_f.bias'] = normal(0.3, D)
  # End-of-text is likelier than other tokens.
  made['wte.weight'][EOT] = 1.3 * made['ln_f.bias']
  return made


def hugging_face():
  """Returns the function from a case to what is found: (ids, score) of each prompt."""
  import torch
  import transformers

  config = transformers.GPT2Config(
    vocab_size=VOCAB,
    n_positions=T,
    n_embd=D,
    n_layer=L,
    n_head=N,
    bos_token_id=EOT,
    eos_token_id=EOT,
  )
  model = transformers.GPT2LMHeadModel(config).eval()
  state = {name: torch.tensor(value) for name, value in weights().items()}
  model.transformer.load_state_dict(state, strict=False)

  def search(case):
    return [one(case, prompt) for prompt in PROMPTS]

  def one(case, prompt):
    case = {'eos_token_id': EOT, **case}
    ends = np.ravel(case['eos_token_id']).tolist()
    ids = torch.tensor([prompt])
    found = model.generate(
      ids,
      attention_mask=torch.ones_like(ids),
      max_new_tokens=NEW,
      do_sample=False,
      pad_token_id=EOT,
      num_return_sequences=case['num_beams'],
      return_dict_in_generate=True,
      output_scores=True,
      **case,
    )
    rows = found.sequences[:, len(prompt) :].tolist()
    first = [next((i + 1 for i, x in enumerate(row) if x in ends), NEW) for row in rows]
    rows = [row[:n] for row, n in zip(rows, first, strict=True)]
    if case['num_beams'] == 1:  # greedy, which has no score
      return [[rows[0], None]]
    return [
      [row, round(score, 5)]
      for row, score in zip(rows, found.sequences_scores.tolist(), strict=True)
    ]

  return search


def main() -> None:
  search = hugging_face()
  golden = {
    'made with': {
      name: importlib.metadata.version(name) for name in ('torch', 'transformers')
    },
    'found': [search(case) for case in CASES],
  }
  PATH.write_text(json.dumps(golden, separators=(',', ':')) + '\n')


if __name__ == '__main__':
  main()
