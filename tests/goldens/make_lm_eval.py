"""Makes lm_eval.json: what lm-eval asks of a small GPT-2, and what its own model says.

  pip install torch transformers lm_eval accelerate
  python tests/goldens/make_lm_eval.py

lm-eval runs five small tasks, whose questions are below, on its class for Hugging
Face's models; each request and its answer are recorded. Requests that tasks seldom make
are added. The model has the weights of make_generate.py, and a byte-level BPE that
`tokenizers` trains here; nothing of gpt_jax is used.
"""

import importlib.metadata
import json
import os
import pathlib
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import make_generate
import numpy as np

PATH = pathlib.Path(__file__).with_name('lm_eval.json')
EOT, VOCAB, SEED = '<|endoftext|>', 320, 0
TEXT = """The ferry leaves the harbour at nine. Most people on it carry bread, cheese
and a book. The captain knows the weather by the colour of the sky, and he is seldom
wrong. In winter the ferry stays at home, since the ice is too thick for the old
engine. Then the children walk over the ice to the island, and the teacher counts them
twice."""
QUESTIONS = [
  {
    'question': 'Who knows the weather',
    'options': ['the captain', 'the cheese', 'the teacher'],
    'right': 0,
  },
  {
    'question': 'When does the ferry stay at home?',
    'options': ['in winter', 'at nine', 'twice', 'never'],
    'right': 0,
  },
  {
    'question': 'Why? \n The ice is too',
    'options': ['thick for it', 'old'],
    'right': 0,
  },
  {'question': 'Children walk', 'options': ['over', 'home'], 'right': 1},
]
# No empty context to write from: alone it is an error in lm-eval, in a batch padding.
LINES = [line for line in TEXT.split('\n') if ' ' in line]
DOCUMENTS = [{'text': text} for text in [*LINES, TEXT]]
BEFORE, LAST = "{{text.split(' ')[:-1]|join(' ')}}", "{{' '+text.split(' ')[-1]}}"
TASKS = {
  'choices': {
    'output_type': 'multiple_choice',
    'doc_to_text': '{{question}}',
    'doc_to_target': 'right',
    'doc_to_choice': 'options',
    'metric_list': [{'metric': 'acc'}, {'metric': 'acc_norm'}],
  },
  'shots': {
    'output_type': 'multiple_choice',
    'doc_to_text': 'Question: {{question}}\nAnswer:',
    'doc_to_target': 'right',
    'doc_to_choice': 'options',
    'fewshot_split': 'test',
    'num_fewshot': 1,
    'metric_list': [{'metric': 'acc'}],
  },
  'last_word': {
    'output_type': 'loglikelihood',
    'doc_to_text': BEFORE,
    'doc_to_target': LAST,
    'metric_list': [{'metric': 'perplexity'}, {'metric': 'acc'}],
  },
  'passages': {
    'output_type': 'loglikelihood_rolling',
    'doc_to_text': '',
    'doc_to_target': '{{text}}',
    'metric_list': [{'metric': 'bits_per_byte'}],
  },
  'written': {
    'output_type': 'generate_until',
    'doc_to_text': BEFORE,
    'doc_to_target': LAST,
    'generation_kwargs': {'until': ['\n', 'e'], 'max_gen_toks': 12},
    'metric_list': [{'metric': 'exact_match'}],
  },
}
# Of kinds that the tasks above do not ask.
MORE = {
  'loglikelihood': [
    ('', 'The ferry'),
    ('The ferry ', 'leaves'),
    # The whole's pieces are not the context's.
    ('The f', 'erry leaves the harbour'),
    ('The captain kn', 'ows the weather'),
    (TEXT, ' and so on'),  # longer than the context of the model
  ],
  'loglikelihood_rolling': [('',), ('a',)],
  'generate_until': [
    (TEXT, {'until': ['\n'], 'max_gen_toks': 8}),
    ('Bread', {'until': 'a', 'max_new_tokens': 5}),
    ('Ice', {'until': [], 'max_gen_toks': 6, 'do_sample': False}),
    ('Ice', {'until': ['\n'], 'max_gen_toks': 9, 'temperature': 0.0}),
  ],
}


def weights(vocab: dict[str, int]) -> dict[str, np.ndarray]:
  """Returns parameters by our names; bytes that TEXT does not have are unlikely."""
  made = make_generate.weights(SEED, len(vocab))
  seen = {*TEXT.replace(' ', '\u0120').replace('\n', '\u010a')}
  odd = [i for entry, i in vocab.items() if len(entry) == 1 and entry not in seen]
  made['wte'][[*odd, vocab[EOT]]] = -made['ln_f/bias']
  return made


def tokenizer(folder: pathlib.Path) -> tuple[dict[str, int], list[list[str]]]:
  """Returns vocabulary and merges; writes them where transformers opens them."""
  import tokenizers
  import transformers
  from tokenizers import pre_tokenizers, trainers

  made = tokenizers.Tokenizer(tokenizers.models.BPE())
  made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  alphabet = pre_tokenizers.ByteLevel.alphabet()
  made.train_from_iterator(
    [TEXT], trainers.BpeTrainer(vocab_size=VOCAB - 1, initial_alphabet=alphabet)
  )
  made.add_special_tokens([EOT])
  model = json.loads(made.to_str())['model']
  vocab = model['vocab'] | {EOT: made.token_to_id(EOT)}
  merges = [tuple(pair) for pair in model['merges']]
  theirs = transformers.GPT2Tokenizer(vocab=vocab, merges=merges, eos_token=EOT)
  theirs.save_pretrained(folder)
  return vocab, [list(pair) for pair in merges]


def tasks(folder: pathlib.Path) -> None:
  """Writes the tasks in lm-eval's form."""
  for name, task in TASKS.items():
    rows = QUESTIONS if task['output_type'] == 'multiple_choice' else DOCUMENTS
    lines = folder / f'{name}.jsonl'
    lines.write_text(''.join(json.dumps(row) + '\n' for row in rows), 'utf-8')
    about = task | {
      'task': f'golden_{name}',
      'dataset_path': 'json',
      'dataset_kwargs': {
        'data_files': {'test': [str(lines)]},
        'cache_dir': str(folder / 'cache'),
      },
      'test_split': 'test',
    }
    (folder / f'{name}.yaml').write_text(json.dumps(about))  # JSON is YAML


def asked(folder: pathlib.Path) -> list[dict]:
  """Returns every request: its kind, arguments and lm-eval's answer."""
  os.environ['HF_HUB_OFFLINE'] = os.environ['HF_DATASETS_OFFLINE'] = '1'
  import lm_eval
  from lm_eval.api.instance import Instance
  from lm_eval.models.huggingface import HFLM
  from lm_eval.tasks import TaskManager

  model = HFLM(pretrained=str(folder), device='cpu', dtype='float32', batch_size=4)
  found = []
  for kind in MORE:
    answer = getattr(model, kind)

    def noted(requests, *args, kind=kind, answer=answer, **kwargs):
      answers = answer(requests, *args, **kwargs)
      for request, each in zip(requests, answers, strict=True):
        each = list(each) if isinstance(each, tuple) else each
        found.append({'kind': kind, 'args': list(request.args), 'answer': each})
      return answers

    setattr(model, kind, noted)
  lm_eval.simple_evaluate(
    model,
    tasks=[f'golden_{name}' for name in TASKS],
    task_manager=TaskManager(include_path=str(folder), include_defaults=False),
    bootstrap_iters=0,
  )
  # And what greedy decoding gives, which is known as such.
  own = [
    (each['args'][0], each['answer'][:3])
    for each in found
    if each['kind'] == 'generate_until' and each['answer']
  ]
  for kind, arguments in MORE.items():
    arguments = [*arguments, *(own if kind == 'loglikelihood' else [])]
    requests = [Instance(kind, {}, each, i) for i, each in enumerate(arguments)]
    getattr(model, kind)(requests, disable_tqdm=True)
  return found


def made() -> dict:
  """Returns all that the file holds."""
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    vocab, merges = tokenizer(folder)
    net = make_generate.hugging_face(weights(vocab), vocab[EOT])
    net.save_pretrained(folder)
    tasks(folder)
    requests = asked(folder)
  names = 'torch', 'transformers', 'lm_eval', 'tokenizers'
  return {
    'made with': {each: importlib.metadata.version(each) for each in names},
    'seed': SEED,
    'vocab': vocab,
    'merges': merges,
    'requests': requests,
  }


if __name__ == '__main__':
  golden = made()
  requests = ',\n '.join(json.dumps(each) for each in golden.pop('requests'))
  PATH.write_text(f'{json.dumps(golden)[:-1]}, "requests": [\n {requests}\n]}}\n')
