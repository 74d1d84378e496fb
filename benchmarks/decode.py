"""Speed of decoding beside Hugging Face and CTranslate2.

  pip install -r benchmarks/requirements.txt
  python -m benchmarks.decode --gpt2=FOLDER > benchmarks/results/decode-cpu.md

GPT-2 124M with random weights, prompts of 32 tokens, 64 new ones, float32 unless
--dtype says otherwise. FOLDER holds GPT-2's vocab.json and merges.txt. Each peer lives
in a process of its own and they work in turn, round after round; medians of the rounds,
and a ratio is the median of the rounds' ratios. Peers that can't do a row say so in it.
"""

import argparse
import dataclasses
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks import turns
from gpt_jax.cli.messages import shown

PROMPT, NEW = 32, 64
ROWS = {
  f'{way}, batch {batch}': (way, batch)
  for batch in (1, 8)
  for way in ('greedy', 'top-k', '4 beams')
}
OURS, INT8, CT2 = 'gpt_jax', 'gpt_jax, int8', 'CTranslate2'
HF, HF_STATIC = 'Hugging Face', 'Hugging Face, static cache'
Job = Callable[[str, int], list]


def prompts(batch: int) -> list[list[int]]:
  """Returns the prompts of a batch."""
  return np.random.default_rng(0).integers(0, 50_256, (batch, PROMPT)).tolist()


def setup_gpt_jax(folder: Path, dtype: str, int8: bool) -> dict[str, Job]:
  """Returns our job: (way, batch) -> new ids of each prompt."""
  import jax

  from gpt_jax.inference import hugging_face
  from gpt_jax.model.gpt import GPT
  from gpt_jax.model.gpt_config import Execution

  shape, model, *_ = hugging_face.open_model(folder)
  how = Execution.of(dataclasses.replace(shape, dtype=dtype), jax.local_devices()[:1])
  model = dataclasses.replace(model, gpt=GPT(model.config, how))
  model = model.int8() if int8 else model
  ways = {
    'greedy': {'temperature': 0},
    'top-k': {'top_k': 40},
    '4 beams': {'beams': 4, 'length_penalty': 1.0, 'penalty_form': 'hf'},
  }

  def job(way, batch):
    made = model.generate_ids(
      prompts(batch), max_new_tokens=NEW, min_new_tokens=NEW, **ways[way]
    )
    return [generation.ids for generation in made]

  return {'job': job}


def setup_hugging_face(folder: Path, dtype: str, static: bool) -> dict[str, Job]:
  """Returns the job of transformers, with its dynamic or its static cache."""
  import torch
  import transformers

  torch.set_num_threads(os.cpu_count())
  transformers.logging.set_verbosity_error()
  device = 'cuda' if torch.cuda.is_available() else 'cpu'
  model = transformers.AutoModelForCausalLM.from_pretrained(
    folder, dtype=getattr(torch, dtype)
  )
  model = model.eval().to(device)
  ways = {
    'greedy': {'do_sample': False},
    'top-k': {'do_sample': True, 'top_k': 40},
    '4 beams': {'do_sample': False, 'num_beams': 4},
  }
  cache = {'cache_implementation': 'static'} if static else {}

  def job(way, batch):
    ids = torch.tensor(prompts(batch), device=device)
    with torch.inference_mode():
      made = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=NEW,
        min_new_tokens=NEW,
        pad_token_id=50_256,
        **ways[way],
        **cache,
      )
    return made[:, PROMPT:].tolist()

  return {'job': job}


def setup_ctranslate2(folder: Path, dtype: str) -> dict[str, Job]:
  """Returns the job of CTranslate2 on the same weights."""
  import ctranslate2
  import transformers

  transformers.logging.set_verbosity_error()
  converted = str(folder.with_name('ct2'))
  ctranslate2.converters.TransformersConverter(str(folder)).convert(
    converted, force=True
  )
  # Our tokenizer names no unknown token; CTranslate2 wants one, and meets none.
  about = Path(converted) / 'config.json'
  settings = json.loads(about.read_text()) | {'unk_token': '<|endoftext|>'}
  about.write_text(json.dumps(settings))
  generator = ctranslate2.Generator(
    converted,
    device='cuda' if ctranslate2.get_cuda_device_count() else 'cpu',
    compute_type=dtype,
    intra_threads=os.cpu_count(),
  )
  tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
  ways = {
    'greedy': {},
    'top-k': {'sampling_topk': 40},
    '4 beams': {'beam_size': 4},
  }

  def job(way, batch):
    start = [tokenizer.convert_ids_to_tokens(row) for row in prompts(batch)]
    made = generator.generate_batch(
      start,
      max_length=NEW,
      min_length=NEW,
      include_prompt_in_result=False,
      **ways[way],
    )
    return [result.sequences_ids[0] for result in made]

  return {'job': job}


def make_weights(gpt2: str, folder: Path, tiny: bool = False) -> None:
  """Writes a GPT-2 124M, or a tiny one, with random weights as Hugging Face has it."""
  from gpt_jax import tokenizers
  from gpt_jax.config import papers
  from gpt_jax.inference import hugging_face
  from gpt_jax.inference.language_model import LanguageModel
  from gpt_jax.model.gpt import GPT, init_params
  from gpt_jax.model.gpt_config import GPTConfig

  shape = papers.gpt2('124M')
  if tiny:
    shape.L, shape.D, shape.N = 2, 64, 2
  cfg = GPTConfig.of(shape, 0)
  model = LanguageModel(init_params(cfg, 0), GPT(cfg), tokenizers.open_path(gpt2))
  hugging_face.export(model, 0.0, folder)


def setup_weights(*given: str | Path | bool) -> dict[str, Callable]:
  """Returns the job that calls `make_weights`."""
  return {'make': lambda: make_weights(*given)}


PEERS = {
  OURS: (setup_gpt_jax, False),
  INT8: (setup_gpt_jax, True),
  CT2: (setup_ctranslate2,),
  HF: (setup_hugging_face, False),
  HF_STATIC: (setup_hugging_face, True),
}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('--gpt2', required=True, help='folder of vocab.json, merges.txt')
  parser.add_argument('--dtype', choices=('float32', 'bfloat16'), default='float32')
  parser.add_argument('--peers', help='semicolons between: ' + '; '.join(PEERS))
  parser.add_argument('--rows', help='semicolons between: ' + '; '.join(ROWS))
  parser.add_argument('--rounds', type=int, default=5)
  parser.add_argument('--tiny', action='store_true', help='a rehearsal')
  flags = parser.parse_args()
  names = flags.peers.split(';') if flags.peers else list(PEERS)
  with tempfile.TemporaryDirectory() as place:
    folder = Path(place) / 'gpt2'
    # In a process that ends, so that it keeps no device's memory.
    maker = turns.Worker(setup_weights, flags.gpt2, folder, flags.tiny)
    maker.start('make')
    maker.wait()
    maker.close()
    workers = {}
    for name in names:
      setup, *more = PEERS[name]
      workers[name] = turns.Worker(setup, folder, flags.dtype, *more)
    print(f'{platform.machine()}, {os.cpu_count()} cores, Python', end=' ')
    print(f'{platform.python_version()}, {flags.dtype}', end='\n\n')
    others = ' | '.join(f'to {name}' for name in (CT2, HF) if name in names)
    print(f'| tokens/s | {" | ".join(workers)} | {others} | same ids |')
    print(f'|{"---|" * (len(workers) + 2 + others.count("to "))}', flush=True)
    for name in flags.rows.split(';') if flags.rows else ROWS:
      print(row(workers, *ROWS[name], flags.rounds), flush=True)
    for worker in workers.values():
      worker.close()


def row(workers: dict[str, turns.Worker], way: str, batch: int, rounds: int) -> str:
  """Returns a line of the table."""
  made, times = {}, {}
  for worker in workers.values():  # compiles, all side by side
    worker.start('job', way, batch)
  for name, worker in workers.items():
    try:
      made[name], times[name] = worker.wait(), []
    except RuntimeError:
      continue
  for _ in range(rounds):
    for name in times:
      time.sleep(0.3)  # until the threads of the one before have gone to sleep
      times[name].append(turns.seconds([workers[name]], 'job', way, batch))
  speed = {n: batch * NEW / statistics.median(t) for n, t in times.items()}
  cells = [f'{speed[n]:.1f}' if n in speed else 'can not' for n in workers]
  for peer in (CT2, HF):
    if peer in workers:
      both = peer in times and OURS in times
      ratio = turns.median_ratio(times[peer], times[OURS]) if both else None
      cells.append(f'{ratio:.2f}' if both else 'can not')
  if way == 'top-k':
    cells.append('drawn')
  elif OURS in made and HF in made:
    same = sum(a == b for a, b in zip(made[OURS], made[HF], strict=True))
    cells.append(f'{same} of {batch}')
  else:
    cells.append('can not')
  return f'| {way}, batch {batch} | {" | ".join(cells)} |'


if __name__ == '__main__':
  with shown():
    main()
