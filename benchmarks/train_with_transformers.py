"""Trains a GPT-2, a GPT-1 and a GPT-Neo with transformers' Trainer, for `make parity`.

  python -m benchmarks.train_with_transformers [--out=runs/parity]

Nothing of gpt_jax trains here; it gives the text (the documentation inside Python) and
names the folders. Each model has 4 layers of 128 features and a context of 128, and a
tokenizer that `tokenizers` trains on the same text: byte-level BPE, and BPE with ends
of words for GPT-1. Every tenth document is held out. A folder that is there and was
made with the settings of today is kept; a new one takes its name once it is whole.
tests/test_trained_imports.py opens them. On 2 CPU cores a model takes a few minutes.
"""

import argparse
import importlib.metadata
import json
import math
import shutil
from pathlib import Path

import numpy as np
import tokenizers
import torch
import transformers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from gpt_jax.cli.messages import shown
from gpt_jax.config import UserError
from gpt_jax.data import sources

OUT = Path(__file__).resolve().parent.parent / 'runs/parity'
T, VOCAB, UPDATES, ROWS = 128, 1500, 1200, 16
RECORD, HELD_OUT = 'trained.json', 'held_out.txt'
EOT = '<|endoftext|>'
# Held-out text that is worse than this means that something did not learn.
MOST_BITS_PER_BYTE = 2.5
KINDS = 'gpt2', 'openai-gpt', 'gpt_neo'


def config_of(kind: str, vocab: int) -> transformers.PretrainedConfig:
  """Returns the architecture of a kind, with transformers' own defaults elsewhere."""
  if kind == 'gpt_neo':
    return transformers.GPTNeoConfig(
      vocab_size=vocab,
      max_position_embeddings=T,
      hidden_size=128,
      num_layers=4,
      num_heads=4,
      attention_types=[[['global', 'local'], 2]],
      window_size=32,
      bos_token_id=vocab - 1,
      eos_token_id=vocab - 1,
    )
  sizes = {'n_positions': T, 'n_embd': 128, 'n_layer': 4, 'n_head': 4}
  if kind == 'openai-gpt':
    return transformers.OpenAIGPTConfig(vocab_size=vocab, **sizes)
  return transformers.GPT2Config(
    vocab_size=vocab, bos_token_id=vocab - 1, eos_token_id=vocab - 1, **sizes
  )


def documents() -> tuple[list[str], list[str]]:
  """Returns texts to train on, and texts held out."""
  texts = [document.text for document in sources.python_docs()]
  held_out = texts[::10]
  return [text for i, text in enumerate(texts) if i % 10], held_out


def train_tokenizer(kind: str, texts: list[str], folder: Path) -> tokenizers.Tokenizer:
  """Returns a tokenizer; writes it into the folder as transformers saves its own."""
  if kind == 'openai-gpt':
    pairs = models.BPE(unk_token='<unk>', end_of_word_suffix='</w>')
    made = tokenizers.Tokenizer(pairs)
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.BPEDecoder(suffix='</w>')
    form = {'special_tokens': ['<unk>'], 'end_of_word_suffix': '</w>'}
  else:
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    form = {'initial_alphabet': pre_tokenizers.ByteLevel.alphabet()}
  made.train_from_iterator(
    texts, trainers.BpeTrainer(vocab_size=VOCAB - 1, min_frequency=2, **form)
  )
  if kind != 'openai-gpt':  # after all pieces, as in GPT-2
    made.add_special_tokens([EOT])
  model = json.loads(made.to_str())['model']
  vocab = dict(model['vocab'])
  merges = [tuple(pair) for pair in model['merges']]
  if kind == 'openai-gpt':
    theirs = transformers.OpenAIGPTTokenizer(vocab=vocab, merges=merges)
    # As versions before 5 save it, and as GPT-1's own folder is on the hub.
    (folder / 'vocab.json').write_text(json.dumps(vocab), 'utf-8')
    lines = [' '.join(pair) for pair in merges]
    (folder / 'merges.txt').write_text(
      '\n'.join(['#version: 0.2', *lines, '']), 'utf-8'
    )
  else:
    theirs = transformers.GPT2Tokenizer(
      vocab=vocab | {EOT: len(vocab)}, merges=merges, eos_token=EOT
    )
  theirs.save_pretrained(folder)
  return made


def ids_of(made: tokenizers.Tokenizer, texts: list[str]) -> np.ndarray:
  """Returns the ids of all texts in a row, each after end-of-text if there is one."""
  eot = made.token_to_id(EOT)
  start = [] if eot is None else [eot]
  encoded = made.encode_batch(texts, add_special_tokens=False)
  return np.concatenate([np.array([*start, *each.ids]) for each in encoded])


def bits_per_byte(model, made: tokenizers.Tokenizer, texts: list[str]) -> float:
  """Returns -log2 p of texts over the UTF-8 bytes that their ids give back.

  A tokenizer that loses text (GPT-1's) is not helped by the bytes that it lost.
  """
  ids = ids_of(made, texts)
  whole = ids[: len(ids) // T * T].reshape(-1, T)
  nats, targets = 0.0, 0
  with torch.no_grad():
    for rows in torch.tensor(whole).split(32):
      logits = model(rows).logits[:, :-1].flatten(0, 1)
      nats += torch.nn.functional.cross_entropy(
        logits, rows[:, 1:].flatten(), reduction='sum'
      ).item()
      targets += rows[:, 1:].numel()
  given_back = sum(len(made.decode(row.tolist()).encode()) for row in whole)
  return nats / math.log(2) / (given_back * targets / whole.size)


def settings_of(kind: str) -> dict:
  """Returns what a folder depends on."""
  names = 'torch', 'transformers', 'tokenizers', 'accelerate'
  return {
    'kind': kind,
    'T': T,
    'vocab': VOCAB,
    'updates': UPDATES,
    'rows': ROWS,
    'versions': {name: importlib.metadata.version(name) for name in names},
  }


def train(kind: str, out: Path) -> dict:
  """Trains one model into OUT/KIND and returns its record.

  Raises:
    UserError: it learned too little to be worth comparing.
  """
  folder, unfinished = out / kind, out / f'{kind}.unfinished'
  record = folder / RECORD
  if record.exists():
    found = json.loads(record.read_text('utf-8'))
    if {name: found.get(name) for name in settings_of(kind)} == settings_of(kind):
      bits = found['bits_per_byte']
      print(f'{kind}: {folder} is there, {bits} bits/byte', flush=True)
      return found
  shutil.rmtree(unfinished, ignore_errors=True)
  unfinished.mkdir(parents=True)
  transformers.set_seed(0)
  texts, held_out = documents()
  made = train_tokenizer(kind, texts, unfinished)
  model = transformers.AutoModelForCausalLM.from_config(
    config_of(kind, made.get_vocab_size())
  )
  ids = ids_of(made, texts)
  rows = ids[: len(ids) // T * T].reshape(-1, T)
  trainer = transformers.Trainer(
    model,
    transformers.TrainingArguments(
      output_dir=str(unfinished / 'trainer'),
      max_steps=UPDATES,
      per_device_train_batch_size=ROWS,
      learning_rate=2e-3,
      lr_scheduler_type='cosine',
      warmup_steps=50,
      weight_decay=0.1,
      use_cpu=True,
      report_to=[],
      save_strategy='no',
      logging_steps=100,
      seed=0,
    ),
    train_dataset=[{'input_ids': row, 'labels': row} for row in torch.tensor(rows)],
  )
  trainer.train()
  model.eval()
  model.save_pretrained(unfinished)
  shutil.rmtree(unfinished / 'trainer', ignore_errors=True)
  bits = round(bits_per_byte(model, made, held_out), 4)
  if bits >= MOST_BITS_PER_BYTE:
    raise UserError(
      f'{kind}: {bits} bits/byte of held-out text is not below {MOST_BITS_PER_BYTE}; '
      'see its losses above'
    )
  (unfinished / HELD_OUT).write_text('\n'.join(held_out), encoding='utf-8')
  found = settings_of(kind) | {'bits_per_byte': bits}
  (unfinished / RECORD).write_text(json.dumps(found, indent=1) + '\n', 'utf-8')
  shutil.rmtree(folder, ignore_errors=True)
  unfinished.rename(folder)
  print(f'{kind}: {bits} bits/byte of held-out text, in {folder}', flush=True)
  return found


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--out', type=Path, default=OUT, help=f'a folder ({OUT})')
  parser.add_argument('--threads', type=int, default=2, help='of PyTorch (2)')
  args = parser.parse_args()
  torch.set_num_threads(args.threads)
  for kind in KINDS:
    train(kind, args.out)


if __name__ == '__main__':
  with shown():
    main()
