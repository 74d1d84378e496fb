"""Makes generate.json: what Hugging Face generates greedily under rules.

  pip install torch transformers
  python tests/goldens/make_generate.py

The model is a tiny GPT-2 with the weights of `weights`, which numpy promises never to
change, so that tests can make the same model without torch.
"""

import json
import pathlib

import numpy as np

L, D, N, T, VOCAB, EOS = 2, 32, 4, 64, 60, 44
PROMPTS = [[1, 2, 3], [59], [5, 6, 5, 6, 5, 6, 5], list(range(10, 30))]
RULES = [
  {'min_new_tokens': 12},
  {'no_repeat_ngram_size': 2},
  {'repetition_penalty': 1.3},
  {'repetition_penalty': 0.8, 'no_repeat_ngram_size': 3, 'min_new_tokens': 25},
  {'bad_words_ids': [[20], [51, 51], [5, 6, 5, 51]], 'min_new_tokens': 25},
  {'eos_token_id': [44, 28]},
  {'eos_token_id': [28, 20, 51], 'min_new_tokens': 12},
]


def weights(seed: int, vocab: int = VOCAB) -> dict[str, np.ndarray]:
  """Returns the parameters by the names of `model/gpt.py`, layers joined by '/'."""
  draw = np.random.RandomState(seed).standard_normal
  made = {'wte': draw((vocab, D)) * 0.3, 'wpe': draw((T, D)) * 0.3}
  norms, linears = ['ln_f'], {}
  for h in (f'h_{i}' for i in range(L)):
    norms += [f'{h}/ln_1', f'{h}/ln_2']
    linears |= {f'{h}/attn/{name}': (D, D) for name in 'qkvo'}
    linears |= {f'{h}/mlp/up': (D, 4 * D), f'{h}/mlp/down': (4 * D, D)}
  for name in norms:
    made[f'{name}/scale'] = 1 + draw(D) * 0.2
    made[f'{name}/bias'] = draw(D) * 0.2
  for name, (rows, columns) in linears.items():
    made[f'{name}/kernel'] = draw((rows, columns)) * rows**-0.5
    made[f'{name}/bias'] = draw(columns) * 0.2
  return {name: array.astype(np.float32) for name, array in made.items()}


def hugging_face(ours: dict[str, np.ndarray], eos: int = EOS):
  """Returns Hugging Face's GPT-2 with weights as those of `weights`."""
  import torch
  import transformers

  config = transformers.GPT2Config(
    vocab_size=len(ours['wte']),
    n_positions=T,
    n_embd=D,
    n_layer=L,
    n_head=N,
    bos_token_id=eos,
    eos_token_id=eos,
    pad_token_id=eos,
  )
  model = transformers.GPT2LMHeadModel(config).eval()
  theirs = {'wte.weight': ours['wte'], 'wpe.weight': ours['wpe']}
  for part, to in (('scale', 'weight'), ('bias', 'bias')):
    theirs[f'ln_f.{to}'] = ours[f'ln_f/{part}']
  for i in range(L):
    for part, to in (('scale', 'weight'), ('bias', 'bias')):
      for name in ('ln_1', 'ln_2'):
        theirs[f'h.{i}.{name}.{to}'] = ours[f'h_{i}/{name}/{part}']
    for part, to in (('kernel', 'weight'), ('bias', 'bias')):
      qkv = [ours[f'h_{i}/attn/{name}/{part}'] for name in 'qkv']
      theirs[f'h.{i}.attn.c_attn.{to}'] = np.concatenate(qkv, axis=-1)
      theirs[f'h.{i}.attn.c_proj.{to}'] = ours[f'h_{i}/attn/o/{part}']
      theirs[f'h.{i}.mlp.c_fc.{to}'] = ours[f'h_{i}/mlp/up/{part}']
      theirs[f'h.{i}.mlp.c_proj.{to}'] = ours[f'h_{i}/mlp/down/{part}']
  tensors = {name: torch.tensor(array) for name, array in theirs.items()}
  model.transformer.load_state_dict(tensors)
  return model


def generate(model, prompt: list[int], rules: dict) -> dict:
  """Returns the new ids that greedy search gives, and log p of each before rules."""
  import torch

  made = model.generate(
    torch.tensor([prompt]),
    attention_mask=torch.ones(1, len(prompt), dtype=int),
    max_new_tokens=30,
    do_sample=False,
    return_dict_in_generate=True,
    output_logits=True,
    **rules,
  )
  ids = made.sequences[0, len(prompt) :].tolist()
  logp = torch.cat(made.logits).log_softmax(-1)[range(len(ids)), ids]
  return {'ids': ids, 'logp': [round(x, 5) for x in logp.tolist()]}


def cases(seed: int) -> list[dict]:
  """Returns what Hugging Face makes of every prompt under all rules."""
  model = hugging_face(weights(seed))
  return [
    {'prompt': prompt, 'rules': rules} | generate(model, prompt, rules)
    for rules in RULES
    for prompt in PROMPTS
  ]


if __name__ == '__main__':
  import transformers

  made = {'transformers': transformers.__version__, 'seed': 0, 'cases': cases(0)}
  path = pathlib.Path(__file__).with_name('generate.json')
  lines = ',\n '.join(json.dumps(case) for case in made.pop('cases'))
  path.write_text(f'{json.dumps(made)[:-1]}, "cases": [\n {lines}\n]}}\n')
