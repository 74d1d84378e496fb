"""The readers that benchmarks/fuzz.py damages files of, each with valid small files."""

import bz2
import csv
import dataclasses
import functools
import gzip
import io
import json
import lzma
import pathlib
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import prompt_files  # of tests/: the tasks' files as their authors publish them
import scripts  # of tests/: opens the scripts of experiments/
import tokenizer_folders  # of tests/: folders of Hugging Face's tokenizers
import zstandard

from benchmarks.fuzz import ROOT, Reader
from gpt_jax import config, files, tokenizers
from gpt_jax.data import prepare, sources, token_files
from gpt_jax.evaluation import benchmark
from gpt_jax.inference import hugging_face
from gpt_jax.reports import committed, sweep_tables, task_results
from gpt_jax.runs import benchmark as runs_benchmark
from gpt_jax.runs import finetune_results, workdir
from gpt_jax.sweep import grid, plan
from gpt_jax.tasks import labelled, prompted_files, templates
from gpt_jax.tasks.labelled_table import TASKS as LABELLED
from gpt_jax.tasks.prompted import TASKS, TEXTS
from gpt_jax.training import manifest, metrics_log, saved
from gpt_jax.weights import convert, facts

_TEXT = 'Two of them went home.\nThe third, a "quoted" one, stayed.\n\nÜber 3.5.\n' * 3
_GOLDENS = ROOT / 'tests/goldens'


def readers(hub: bool = True) -> list[Reader]:
  """Returns all readers; makes their files.

  Args:
    hub: also those of Hugging Face's `datasets`, which take seconds to import.
  """
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    made = [
      *_plain(),
      *_sources(),
      *_tokens(folder / 'tokens'),
      *_tokenizers(folder / 'tokenizers'),
      *_weights(folder / 'weights'),
      *_tasks(),
      *_sweeps(folder / 'sweep'),
      *_results(),
      *_experiments(),
      *_workdirs(folder / 'workdir'),
      *(_hub(folder / 'hub') if hub else []),
    ]
    return made


def _encoded(value: Any) -> bytes:
  return json.dumps(value, indent=1).encode()


def _lines(*rows: dict) -> bytes:
  return b''.join(json.dumps(row).encode() + b'\n' for row in rows)


def _files(folder: pathlib.Path) -> dict[str, bytes]:
  """Returns the contents of a folder by name."""
  return {
    path.relative_to(folder).as_posix(): path.read_bytes()
    for path in sorted(folder.rglob('*'))
    if path.is_file()
  }


def _plain() -> Iterable[Reader]:
  """Yields the readers of `files` and of templates."""
  about = {'name': 'a', 'sizes': [1, 2.5, None], 'inner': {'on': True, 'text': 'é'}}
  yield Reader(
    'json/object', {'a.json': _encoded(about)}, lambda f: files.read_json(f / 'a.json')
  )
  yield Reader(
    'json/lines',
    {'a.jsonl': _lines(about, about)},
    lambda f: files.read_json_lines(f / 'a.jsonl'),
  )

  def template(folder: pathlib.Path) -> str:
    made = templates.read(folder / 'a.txt')
    return made.fill(dict.fromkeys(made.fields, 'x'))

  text = b'Say {this} in {{other}} words, {that}: {answer}.\n'
  yield Reader('template/prompt', {'a.txt': text}, template)


def _tar(mode: str, members: dict[str, bytes]) -> bytes:
  out = io.BytesIO()
  with tarfile.open(fileobj=out, mode=f'w{mode}') as archive:
    for name, data in members.items():
      about = tarfile.TarInfo(name)
      about.size = len(data)
      archive.addfile(about, io.BytesIO(data))
  return out.getvalue()


def _zip(members: dict[str, bytes]) -> bytes:
  out = io.BytesIO()
  with zipfile.ZipFile(out, 'w', zipfile.ZIP_DEFLATED) as archive:
    for name, data in members.items():
      archive.writestr(name, data)
  return out.getvalue()


def _parquet(rows: list[dict]) -> bytes:
  import pyarrow
  import pyarrow.parquet

  out = io.BytesIO()
  pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), out)
  return out.getvalue()


def _sources() -> Iterable[Reader]:
  """Yields the readers of text to train on."""
  rows = [{'text': _TEXT, 'id': i} for i in range(4)]
  plain, lines = _TEXT.encode(), _lines(*rows)
  members = {'a.txt': plain, 'b/c.jsonl': lines}
  zst = zstandard.ZstdDecompressor().decompressobj, zstandard.compress
  unpack_zst = lambda data: zst[0]().decompress(data)  # noqa: E731
  contents = {
    'a.txt': (plain, None),
    'a.jsonl': (lines, None),
    'a.jsonl.gz': (gzip.compress(lines), (gzip.decompress, gzip.compress)),
    'a.txt.bz2': (bz2.compress(plain), (bz2.decompress, bz2.compress)),
    'a.txt.xz': (lzma.compress(plain), (lzma.decompress, lzma.compress)),
    'a.jsonl.zst': (zstandard.compress(lines), (unpack_zst, zst[1])),
    'a.tar': (_tar('', members), None),
    'a.tgz': (_tar(':gz', members), (gzip.decompress, gzip.compress)),
    'a.zip': (_zip(members), None),
    'a.parquet': (_parquet(rows), None),
    'a.json': (json.dumps(rows).encode(), None),
  }

  def read(folder: pathlib.Path, name: str, skip: Callable | None) -> int:
    how = {'errors': 'replace' if skip else 'strict', 'skip': skip}
    return sum(len(part.text) for part in sources.parts(str(folder / name), **how))

  for name, (data, packed) in contents.items():
    for skip in (None, lambda problem: None):
      yield Reader(
        f'source/{name}{" leniently" if skip else ""}',
        {name: data},
        functools.partial(read, name=name, skip=skip),
        packed={name: packed} if packed else {},
      )


def _tokens(folder: pathlib.Path) -> Iterable[Reader]:
  """Yields the readers of token files, and of what prepare left."""
  quiet = lambda text: None  # noqa: E731
  folder.mkdir()
  source = folder.parent / 'text.txt'
  source.write_text(_TEXT)

  def settings(there: pathlib.Path) -> config.Data:
    text = str(there / 'text.txt')
    return config.Data(source=text, tokenizer='bytes', split='position', processes=1)

  def again(there: pathlib.Path) -> None:
    prepare.prepare(dataclasses.replace(settings(there), source=str(source)), there)

  data = dataclasses.replace(settings(folder), source=str(source))
  prepare.prepare(data, folder, report=quiet)
  made = _files(folder)
  yield Reader(
    'tokens/open', made, lambda f: token_files.open_tokens(f / 'tokens/train')
  )

  def resumed(there: pathlib.Path) -> None:
    # A mark names the place of its text, so that goes with each folder.
    prepare.prepare(settings(there), there, report=quiet)
    token_files.open_tokens(there / 'tokens/train')

  recipe = json.loads(made['tokens/train.json'])
  mark = {'recipe': recipe['recipe'], 'format': token_files.FORMAT, 'pieces': 1}
  sums = {n: json.loads(made[f'tokens/{n}.json'])['source'] for n in ('train', 'valid')}
  counts = {'tokens': 0, 'documents': 0, 'bytes': 0}
  mark |= {'sources': sums, 'files': {'train': counts, 'valid': counts}}
  mark['fidelity'] = dict.fromkeys(('train', 'valid'), recipe['fidelity'])
  stage = {f'preparing/{name}': data for name, data in made.items()}
  stage |= {'preparing/mark.json': _encoded(mark), 'text.txt': _TEXT.encode()}
  yield Reader(
    'tokens/resume',
    stage,
    resumed,
    damaged=['preparing/mark.json', 'preparing/tokenizer/kind.json'],
  )
  header = [name for name in made if name.endswith('train.json')]
  yield Reader('tokens/prepared', made, again, damaged=header)


def _tokenizers(folder: pathlib.Path) -> Iterable[Reader]:
  """Yields the readers of tokenizers, ours and others'."""
  from gpt_jax.tokenizers import hugging_face as theirs

  text = (ROOT / 'README.md').read_text(encoding='utf-8')[:8000]

  def read(there: pathlib.Path, path: str = '') -> list[int]:
    opened = tokenizers.open_path(there / path, 'basic')
    ids = opened.encode('The 3 words of them' if opened.kind != 'numbers' else '1 2')
    opened.decode(ids)
    if opened.kind == 'tokenizer_json':
      opened.decode(opened.encode_special('the <|user|> <|endoftext|>'))
    return opened.pieces(ids)

  gpt1 = {'<unk>': 0, 'a</w>': 1, 'a': 2, 'b</w>': 3, 'b': 4, 'ab</w>': 5, 'the</w>': 6}
  made = {
    'chars': tokenizers.Characters(''.join(sorted({*text, *'Thewordsfm 3'}))),
    'bytes': tokenizers.Bytes(),
    'numbers': tokenizers.Numbers(9, 9),
    'bpe': tokenizers.train('bpe', [text], 400),
    'unigram': tokenizers.train('unigram', [text], 400),
    'byte_bpe': tokenizers.train('byte_bpe', [text], 300),
    'gpt1': tokenizers.GPT1(gpt1, [('a', 'b</w>')], cleaning='basic'),
  }
  for kind, tokenizer in made.items():
    tokenizer.save(folder / kind)
    yield Reader(f'tokenizer/{kind}', _files(folder / kind), read)
  letters = {'chars.json': json.dumps(sorted({*text, *'Thewordsfm 3'})).encode()}
  yield Reader(
    'tokenizer/chars.json', letters, functools.partial(read, path='chars.json')
  )
  saved = _files(folder / 'byte_bpe')
  release = {'encoder.json': 'vocab.json', 'vocab.bpe': 'merges.txt'}
  yield Reader('tokenizer/release', {n: saved[o] for n, o in release.items()}, read)
  model = {'a.model': _files(folder / 'unigram')['sentencepiece.model']}
  yield Reader('tokenizer/a.model', model, functools.partial(read, path='a.model'))
  theirs.write(made['byte_bpe'], folder / 'theirs', 128)
  named = {'tokenizer.json': _files(folder / 'theirs')['tokenizer.json']}
  yield Reader('tokenizer/tokenizer.json', named, read)
  own = json.loads(named['tokenizer.json'])
  split = {'type': 'Split', 'pattern': {'Regex': r'\p{L}+|[^\p{L}]+'}}
  split |= {'behavior': 'Isolated', 'invert': False}
  last = {'type': 'ByteLevel', 'add_prefix_space': False, 'use_regex': False}
  last['trim_offsets'] = True  # without which `tokenizers` reads none
  own['pre_tokenizer'] = {'type': 'Sequence', 'pretokenizers': [split, last]}
  yield Reader('tokenizer/own words', {'tokenizer.json': _encoded(own)}, read)
  for name in ('version4', 'template_files', 'flags', 'unigram', 'word_level', 'gpt1'):
    there = tokenizer_folders.write(name, folder / 'folders' / name)
    yield Reader(f'tokenizer/folder {name}', _files(there), read)
    tokenizers.open_path(there, 'basic').save(folder / 'folders' / f'{name} saved')
    made = _files(folder / 'folders' / f'{name} saved')
    yield Reader(f'tokenizer/folder {name} saved', made, read)


def _weights(folder: pathlib.Path) -> Iterable[Reader]:
  """Yields the readers of folders of weights."""
  import safetensors.numpy

  def read(there: pathlib.Path) -> None:
    convert.read(there)
    if (there / 'config.json').exists():
      hugging_face.architecture(there)

  for path in sorted((_GOLDENS / 'hugging_face').iterdir()):
    made = {n: d for n, d in _files(path).items() if not n.endswith('.npz')}
    yield Reader(f'weights/{path.name}', made, read)
  made = _files(_GOLDENS / 'hugging_face/gpt2')
  arrays = safetensors.numpy.load(made['model.safetensors'])
  shards = {'a.safetensors': list(arrays)[::2], 'b.safetensors': list(arrays)[1::2]}
  index = {'weight_map': {n: shard for shard, each in shards.items() for n in each}}
  sharded = {
    'config.json': made['config.json'],
    'model.safetensors.index.json': _encoded(index),
  } | {
    shard: safetensors.numpy.save({name: arrays[name] for name in names})
    for shard, names in shards.items()
  }
  yield Reader('weights/shards', sharded, read)
  made = _files(_GOLDENS / 'tf_checkpoint/gpt2')
  hparams = {'n_layer': 11, 'n_embd': 2, 'n_head': 1, 'n_ctx': 3, 'n_vocab': 5}
  yield Reader('weights/tensorflow', made | {'hparams.json': _encoded(hparams)}, read)
  D = 2
  layer = [[1, D, 3 * D], [3 * D], [1, D, D], [D], [D], [D]]
  layer += [[1, D, 4 * D], [4 * D], [1, 4 * D, D], [D], [D], [D]]
  shapes = [[5, D], [7, D], *layer, *layer]
  numbers = np.arange(sum(int(np.prod(shape)) for shape in shapes), dtype=np.float32)
  release = {'params_shapes.json': _encoded(shapes)}
  for i, part in enumerate(np.array_split(numbers, 3)):
    out = io.BytesIO()
    np.save(out, part)
    release[f'params_{i}.npy'] = out.getvalue()
  yield Reader('weights/gpt1 release', release, read)
  said = {
    'config.json': json.loads((_GOLDENS / 'hugging_face/gpt2/config.json').read_text()),
    'generation_config.json': {'eos_token_id': [3, 0], 'temperature': 0.7},
  }

  def of_facts(found: facts.Facts, there: pathlib.Path) -> None:
    facts.other_ends(found, 3, 61)
    facts.notes(found, 3, there)
    facts.to_write(found, 5, 61, True)

  made = {name: _encoded(about) for name, about in said.items()}
  yield Reader('weights/facts', made, lambda there: of_facts(facts.read(there), there))
  yield Reader(
    'weights/kept facts',
    {'hugging_face.json': _encoded({'files': said, 'ignored': ['x']})},
    lambda there: of_facts(facts.kept(there), there),
  )
  yield Reader(
    'weights/end of text',
    {'config.json': _encoded({'eos_token_id': 3})},
    lambda there: hugging_face._end_of_text(there, 9),
  )


def _tasks() -> Iterable[Reader]:
  """Yields the readers of labelled and of prompted tasks, and of texts."""
  with tempfile.TemporaryDirectory() as name:
    data = prompt_files.write(pathlib.Path(name))
    for task in TASKS.values():
      path = prompted_files.find(task, data, task.split)
      there = path.relative_to(data)
      made = _files(path) if path.is_dir() else {}
      made = {f'{there}/{n}': d for n, d in made.items()}
      for beside in () if made else path.parent.iterdir():
        if beside.stem.split('-')[0] == path.stem.split('-')[0]:
          made[str(there.parent / beside.name)] = beside.read_bytes()
      packed = (gzip.decompress, gzip.compress)
      yield Reader(
        f'prompted/{task}',
        made,
        functools.partial(_read_prompted, task=task),
        packed={n: packed for n in made if n.endswith('.gz')},
      )
  page = b' = Title = \n\n A text of @-@ words , and <unk> .\n = = Part = = \n More .\n'
  for text in TEXTS.values():
    if str(text) in ('enwik8', 'text8'):  # must have 100 million bytes
      continue
    yield Reader(
      f'text/{text.name}',
      {'a.txt': page},
      functools.partial(_read_text, text=text),
    )
  for name, (file, content) in _labelled().items():
    beside = {'a.ans': b'A\tB\tC\tD\n'} if name == 'mctest' else {}
    yield Reader(
      f'labelled/{name}',
      {file: content} | beside,
      functools.partial(_read_labelled, name=name, file=file),
    )


def _read_prompted(folder: pathlib.Path, task: Any) -> None:
  prompted_files.read(task, folder)


def _read_text(folder: pathlib.Path, text: Any) -> None:
  prompted_files.read_documents(text, folder / 'a.txt')


def _read_labelled(folder: pathlib.Path, name: str, file: str) -> None:
  labelled.read(name, folder / file, 'dev')


def _labelled() -> dict[str, tuple[str, bytes]]:
  """Returns a file of each form in which labelled tasks are published."""
  passage = {
    'article': 'A text.',
    'questions': ['What?', 'Who?'],
    'options': [['a', 'b', 'c', 'd']] * 2,
    'answers': ['A', 'D'],
    'id': 'x.txt',
  }
  pair = {'sentence1': 'A dog ran.', 'sentence2': 'It ran.'}
  snli = {'captionID': 'c', 'pairID': 'p', 'gold_label': 'neutral'}
  snli |= {'annotator_labels': [], **pair}
  story = ['id', 'props', 'A story.\\newlineMore.']
  for _ in range(4):
    story += ['one: What?', 'a', 'b', 'c', 'd']
  out = io.StringIO()
  names = ['InputStoryid', *(f'InputSentence{i}' for i in (1, 2, 3, 4))]
  names += ['RandomFifthSentenceQuiz1', 'RandomFifthSentenceQuiz2', 'AnswerRightEnding']
  table = csv.writer(out, lineterminator='\n')
  table.writerow(names)
  for i in range(400):
    table.writerow([f's{i}', *('One, two.', 'b', 'c', 'd', 'e', 'f'), 1 + i % 2])
  scores = 'index genre filename year old_index source1 source2 sentence1 sentence2 '
  scores = f'{scores}score'.replace(' ', '\t')
  scored = '0\tg\tf\t2012\t1\ts\ts\tA man.\tA boy.\t3.5'
  return {
    'sst2': ('a.tsv', b'sentence\tlabel\nit was good\t1\nit was bad\t0\n'),
    'cola': ('a.tsv', b'gj04\t1\t\tThe dog ran.\ngj04\t0\t*\tRan dog.\n'),
    'stsb': ('a.tsv', f'{scores}\n{scored}\n{scored}\n'.encode()),
    'snli': ('a.jsonl', _lines(snli, snli)),
    'rte': ('a.jsonl', _lines(*({**pair, 'label': i, 'idx': i} for i in (0, 1)))),
    'race': ('a.txt', json.dumps(passage).encode() + b'\n'),
    'mctest': ('a.tsv', '\t'.join(story).encode() + b'\n'),
    'storycloze': ('a.csv', out.getvalue().encode()),
  }


def _sweeps(folder: pathlib.Path) -> Iterable[Reader]:
  """Yields the readers of sweep files and of a sweep's own files."""
  text = (ROOT / 'tests/user_files/sweep.py').read_bytes()
  yield Reader('sweep/file', {'sweep.py': text}, lambda f: plan.read(f / 'sweep.py'))
  folder.mkdir()
  made = plan.planned(
    grid({'optim.lr': [1e-3, 3e-3], 'seed': [0, 1]}),
    base=config.Run(),
    given={},
    config_file='experiments/quickstart.py',
    sweep_file='sweep.py',
    folder=folder,
    argv=['launch.py', 'sweep'],
  )
  plan.write(made, {'commit': 'abc'})
  about = _files(folder)
  yield Reader('sweep/sweep.json', about, plan.load)
  rows = ''.join(f'{each.name},failed,1e-3,0\n' for each in made.entries)
  states = {'sweep.csv': f'name,state,optim.lr,seed\n{rows}'.encode()}

  def report(there: pathlib.Path) -> None:
    sweep_tables.collected(plan.load(there))

  yield Reader('sweep/sweep.csv', about | states, report, damaged=['sweep.csv'])


def _results() -> Iterable[Reader]:
  """Yields the readers of results."""
  score = {'value': 0.5, 'low': 0.4, 'high': 0.6}
  result = {
    **{'task': 'hellaswag', 'form': 'choices', 'rule': 'per_token', 'split': 'dev'},
    **{'shots': 1, 'seed': 0, 'limit': 0, 'examples': 'train', 'questions': 10},
    **{'truncated': 3, 'metrics': {'accuracy': {'per_token': score, 'sum': score}}},
    **{'chance': 0.25, 'step': 20, 'checkpoint': 'best', 'parameters_sha256': 'x'},
    **{'parameters': 13_890, 'tokenizer': 'bpe', 'prompts_sha256': 'p', 'int8': False},
  }

  def report(folder: pathlib.Path) -> None:
    choice = task_results.choose(task_results.read([folder]))
    task_results.labels(choice.shown)
    for task in task_results.tasks(choice.shown):
      task_results.metrics(choice.shown, task)

  made = {'eval/a.json': _encoded(result), 'eval/b.json': _encoded(result)}
  yield Reader('results/report of tasks', made, report)
  yield Reader(
    'results/task again',
    {'a.json': _encoded(result)},
    lambda f: runs_benchmark.described(runs_benchmark._read(f / 'a.json')),
  )
  for form, record in (
    ('boolq', {'logp': [-1.5, -2], 'other_logp': [-1, -3.0], 'tokens': [1, 2]}),
    ('lambada', dict.fromkeys(('logp', 'last_logp'), -1.5)),
    ('coqa', {'text': 'an answer'}),
  ):
    if form == 'lambada':
      rules = ('last_word', 'last_word_filtered', 'last_token', 'last_token_filtered')
      record |= dict.fromkeys(rules, True)
    number = len(_benchmark(form).questions)
    records = _lines(*({'number': i} | record for i in range(number)))
    yield Reader(
      f'results/answers of {form}',
      {'a.jsonl': records},
      functools.partial(_answers, name=form),
    )
  seed = {'step': 9, 'accuracy': 0.5, 'intervals': {'accuracy': [0.4, 0.6]}}
  over = {'mean': 0.5, 'median': 0.5, 'std': 0.0, 'low': 0.4, 'high': 0.6}
  tuned = {'task': 'sst2', 'examples': 9, 'seeds': {'0': seed, '1': seed}}
  tuned |= {'over_seeds': {'accuracy': over}}

  def fine_tuned(folder: pathlib.Path) -> str:
    found = finetune_results.read_results(folder / 'results.json', LABELLED['sst2'])
    return finetune_results.described({'task': 'sst2'} | found)

  yield Reader('results/fine-tuning', {'results.json': _encoded(tuned)}, fine_tuned)
  yield Reader(
    'results/predictions',
    {'dev_predictions.tsv': b'prediction\tlabel\n1\t1\n0\t1\n'},
    finetune_results.read_predictions,
  )
  recorded = committed.Result(
    'a.py', '', 'python a.py', [('x', 1.0, 0.5, 1.5), ('y', 2)], {'seed': 0},
    {'seconds': 3}, {'commit': 'abc'},
  )  # fmt: skip
  yield Reader(
    'results/committed',
    {'a.json': _encoded(dataclasses.asdict(recorded))},
    lambda f: committed.read(f / 'a.json'),
  )


@functools.cache
def _benchmark(name: str) -> benchmark.Benchmark:
  with tempfile.TemporaryDirectory() as data:
    folder = prompt_files.write(pathlib.Path(data))
    (made,) = benchmark.plan([name], folder, shots=[0])
    return made


def _answers(folder: pathlib.Path, name: str) -> None:
  """Resumes a benchmark from a file of answers; a model adds what is missing."""
  from gpt_jax.evaluation.likelihood import TokenScores

  model = benchmark.TaskModel(
    score=lambda task, asked: (
      (i, TokenScores([-1.0], [True], [True])) for i in range(len(asked))
    ),
    write=lambda task, prompts: ((i, 'x') for i in range(len(prompts))),
    window=lambda pairs: iter(()),
    encode=lambda text: [0] * len(text),
    T=10**6,
  )
  benchmark.run_benchmark(_benchmark(name), model, folder / 'a.jsonl')


def _experiments() -> Iterable[Reader]:
  """Yields what only experiments/ reads."""
  compare = scripts.opened('prompts/compare.py')
  rows = _lines({'q': 'Who?', 'answer': 'A man'}, {'q': 'x', 'answer': ['a', 'b']})
  yield Reader(
    'experiments/prompts/compare.py',
    {'a.jsonl': rows},
    lambda f: compare.read(f / 'a.jsonl'),
  )
  addition = scripts.opened('gpt3/addition.py')
  rows = _lines({'context': 'Q: What is 3 plus 4?', 'completion': '7'})
  yield Reader(
    'experiments/gpt3/addition.py',
    {'a.jsonl': rows},
    lambda f: addition.operands(f / 'a.jsonl'),
  )
  zero_shot = scripts.opened('gpt1/zero_shot.py')
  line = {'task': 'sst2', 'step': 5, 'tokens': 9, 'metric': 'accuracy', 'examples': 9}
  line |= dict.fromkeys(('value', 'low', 'high', 'alike'), 0.5)
  line |= {'chance': 0.5, 'reference': 1.0, 'sha256': 'x'}

  def there(folder: pathlib.Path) -> list[str]:
    lines = zero_shot.lines_there(folder / 'a.jsonl', {})
    return [zero_shot.described(each) for each in lines.values()]

  yield Reader('experiments/gpt1/zero_shot.py', {'a.jsonl': _lines(line, line)}, there)


def _hub(folder: pathlib.Path) -> Iterable[Reader]:
  """Yields the readers of folders that Hugging Face's `datasets` saved."""
  import datasets

  datasets.disable_progress_bars()
  rows = [{'text': _TEXT, 'id': i} for i in range(3)]
  datasets.Dataset.from_list(rows).save_to_disk(folder / 'text')
  yield Reader(
    'hub/text',
    _files(folder / 'text'),
    lambda there: sum(len(part.text) for part in sources.parts(f'hf:{there}')),
  )
  table = datasets.Dataset.from_dict({'sentence': ['a b', 'c'], 'label': [0, 1]})
  table = table.cast_column(
    'label', datasets.ClassLabel(names=['negative', 'positive'])
  )
  saved = datasets.DatasetDict({'train': table, 'validation': table})
  saved.save_to_disk(folder / 'labelled')
  yield Reader(
    'hub/labelled',
    _files(folder / 'labelled'),
    lambda there: labelled.read('sst2', f'hf:{there}', 'dev'),
  )


def _workdirs(folder: pathlib.Path) -> Iterable[Reader]:
  """Returns the readers of a run's folder."""
  folder.mkdir()
  run = config.Run()
  workdir.write_run_json(run, folder, vocab=300, data={}, devices=[], argv=['x'])
  line = {'step': 1, 'loss': 2.5, 'lr': 1e-3, 'grad_norm': 1.0, 'seconds': 3.0}
  made = _files(folder) | {'metrics.jsonl': _lines(line, line | {'step': 2})}
  sums = {'step': 2, 'losses': 'abc', 'rest': 'd', 'params': {'wte': 'x'}}
  made |= {'fingerprints.jsonl': _lines(sums)}
  held = {'text': '', 'text_sha256': 'x', 'step': 2, 'int8': False, 'valid_nll': 1.0}
  held |= {'valid_ppl': 2.7, 'valid_bpb': 0.5}
  made |= {'held_out.json': _encoded([held | {'baselines': {}}])}
  made |= {'groups.json': _encoded([[0, 1]]), 'diverged.json': _encoded({'step': 3})}
  made |= {'samples.txt': b'=== step 2 ===\na text\n'}
  mark = [3, 'ab']
  about = {'step': 2, 'run': 'x', 'nll': 1.5, 'tensors': {'params': {'wte': 'x'}}}
  about |= {'files': {'params/d/a': mark}, 'record': {'metrics.jsonl': mark}}
  made |= {
    'checkpoints/2/manifest.json': _encoded(about),
    'checkpoints/2/params/d/a': b'abc',
  }
  reads: dict[str, Callable] = {
    'run.json': lambda f: (workdir.read_run(f), workdir.sessions(f)),
    'metrics.jsonl': workdir.seconds_of_training,
    'fingerprints.jsonl': metrics_log.read_checksums,
    'held_out.json': workdir.read_held_out,
    'groups.json': workdir.old_groups,
    'diverged.json': workdir.diverged,
    'samples.txt': metrics_log.last_samples,
    'checkpoints/2/manifest.json': lambda f: (
      saved.done(f),
      saved.losses(f / 'checkpoints'),
      manifest.read(f / 'checkpoints/2'),
    ),
  }
  return [
    Reader(f'workdir/{name}', made, read, damaged=[name])
    for name, read in reads.items()
  ]
