"""Makes folders of tiny random models by transformers, in the variations that occur.

  pip install torch==2.13.0 transformers
  python tests/goldens/make_folders.py FOLDER     # all of them, to look at
  python tests/goldens/make_folders.py            # folders/, the few that CI reads

`CASES` has each with what should become of it. Beside those in folders/ is
expected.json: prompt, ids that transformers generates greedily, ends, and logits.
tests/test_folders.py imports and exports all, and opens them in transformers again.
"""

import dataclasses
import json
import pathlib
import sys
from collections.abc import Callable

import numpy as np
import safetensors.torch
import tokenizers
import torch
import transformers
from tokenizers import decoders, models, pre_tokenizers, trainers

HERE = pathlib.Path(__file__).resolve().parent / 'folders'
PROMPT = [5, 17, 9]
NEW = 8  # tokens that are generated
SIZES = {'n_layer': 2, 'n_embd': 8, 'n_head': 2, 'n_positions': 16, 'vocab_size': 43}
NEO = {
  'num_layers': 2,
  'hidden_size': 8,
  'num_heads': 2,
  'max_position_embeddings': 16,
  'vocab_size': 43,
  'attention_types': [[['global', 'local'], 1]],
  'window_size': 4,
}
_ENDS = {'bos_token_id': 0, 'eos_token_id': 0}
_TEXT = [
  'the function returns a list of all the names that are in the file. ' * 4,
  "It's 2 o'clock, and the cat sat on the mat: f(x) = x + 1\n" * 4,
]


@dataclasses.dataclass(frozen=True)
class Case:
  """A folder, and what becomes of it.

  Attributes:
    make: writes it.
    refused: a pattern of the message where it is refused; '' where it is imported.
    ignore: what the import passes over; without that it is refused.
    either: whether it may also be imported; then it is equal.
    more_ends: whether a text ends here at the tokenizer's end-of-text too.
  """

  make: Callable[[pathlib.Path], None]
  refused: str = ''
  ignore: tuple[str, ...] = ()
  more_ends: bool = False
  either: bool = False


def gpt2(kind: str = 'GPT2LMHeadModel', seed: int = 0, **fields):
  """Returns a random GPT-2."""
  c = transformers.GPT2Config(**SIZES | _ENDS | fields)
  return _random(getattr(transformers, kind), c, seed)


def gpt1(kind: str = 'OpenAIGPTLMHeadModel', **fields):
  """Returns a random GPT-1."""
  c = transformers.OpenAIGPTConfig(**SIZES | fields)
  return _random(getattr(transformers, kind), c, 0)


def neo(**fields):
  """Returns a random GPT-Neo."""
  return _random(
    transformers.GPTNeoForCausalLM, transformers.GPTNeoConfig(**NEO | _ENDS | fields), 0
  )


def _random(kind, c, seed: int):
  torch.manual_seed(seed)
  model = kind(c).eval()
  with torch.no_grad():
    for parameter in model.parameters():
      parameter.add_(0.3 * torch.randn_like(parameter))
  return model


def greedy(model, prompt: list[int], **settings) -> list[int]:
  """Returns the ids that transformers generates, by its own end."""
  with torch.no_grad():
    ids = model.generate(
      torch.tensor([prompt]),
      attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
      do_sample=False,
      max_new_tokens=NEW,
      pad_token_id=0,
      **settings,
    )
  return ids[0, len(prompt) :].tolist()


def third(model) -> int:
  """Returns the third id that it generates: an end that is reached."""
  return greedy(model, PROMPT, eos_token_id=-1)[2]


def plain(model, **options) -> Callable[[pathlib.Path], None]:
  """Returns what saves a model."""
  return lambda folder: model().save_pretrained(folder, **options)


def ending(config_end, generation_end) -> Callable[[pathlib.Path], None]:
  """Returns what saves a model with these ends; 'none' is no file, 3 the third id."""

  def make(folder: pathlib.Path) -> None:
    model = gpt2()
    end = third(model)
    model.save_pretrained(folder)
    ends = {3: end, (3, 7): [end, 7], (7, 3): [7, end]}
    edit(folder, 'config.json', eos_token_id=ends.get(config_end, config_end))
    if generation_end == 'none':
      (folder / 'generation_config.json').unlink()
    else:
      value = ends.get(generation_end, generation_end)
      edit(folder, 'generation_config.json', eos_token_id=value)

  return make


def edit(folder: pathlib.Path, name: str, remove: tuple = (), **changes) -> None:
  """Changes fields of a JSON file."""
  about = json.loads((folder / name).read_text()) | changes
  about = {key: value for key, value in about.items() if key not in remove}
  (folder / name).write_text(json.dumps(about, indent=1))


def edited(model, remove: tuple = (), **changes) -> Callable[[pathlib.Path], None]:
  """Returns what saves a model, and changes its config.json."""

  def make(folder: pathlib.Path) -> None:
    model().save_pretrained(folder)
    edit(folder, 'config.json', remove, **changes)

  return make


def tensors(model, change, **changes) -> Callable[[pathlib.Path], None]:
  """Returns what saves a model, and changes its tensors and its config.json."""

  def make(folder: pathlib.Path) -> None:
    edited(model, **changes)(folder)
    path = folder / 'model.safetensors'
    arrays = change(safetensors.torch.load_file(path))
    arrays = {name: array.clone().contiguous() for name, array in arrays.items()}
    safetensors.torch.save_file(arrays, path, metadata={'format': 'pt'})

  return make


def byte_level(added: tuple = (), prefix: bool = False):
  """Returns a tokenizer of GPT-2's kind with some 300 entries."""
  made = tokenizers.Tokenizer(models.BPE())
  made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
  made.decoder = decoders.ByteLevel()
  trainer = trainers.BpeTrainer(
    vocab_size=280,
    initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    show_progress=False,
  )
  made.train_from_iterator(_TEXT, trainer)
  made.add_special_tokens(['<|endoftext|>'])
  made.add_special_tokens(list(added))
  end = dict.fromkeys(('bos_token', 'eos_token', 'unk_token'), '<|endoftext|>')
  return transformers.PreTrainedTokenizerFast(tokenizer_object=made, **end)


def with_tokenizer(
  padding: int = 0, then: Callable | None = None, added=(), prefix=False, **fields
) -> Callable[[pathlib.Path], None]:
  """Returns what saves a GPT-2 with a tokenizer; `then` changes the folder."""

  def make(folder: pathlib.Path) -> None:
    tokenizer = byte_level(added, prefix)
    vocab = len(tokenizer)
    ends = {'bos_token_id': vocab - 1 - len(added)} | fields
    ends = {'eos_token_id': ends['bos_token_id']} | ends
    model = gpt2(vocab_size=vocab + padding, **ends)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if then:
      then(folder, model, tokenizer)

  return make


def _another_end(folder, model, tokenizer) -> None:
  end = third(model)
  edit(folder, 'config.json', eos_token_id=end)
  edit(folder, 'generation_config.json', eos_token_id=end)


def _chat(folder, model, tokenizer) -> None:
  tokenizer.chat_template = '{% for m in messages %}{{ m.content }}{% endfor %}'
  tokenizer.pad_token = '<|endoftext|>'
  tokenizer.save_pretrained(folder)
  edit(
    folder,
    'generation_config.json',
    temperature=0.7,
    top_k=5,
    do_sample=True,
    pad_token_id=tokenizer.pad_token_id,
  )


def _own_gpt1(folder) -> None:
  """Saves a GPT-1 with a tokenizer of its kind."""
  pieces = [*'abcdefghijklmnopqrstuvwxyz.,', '<unk>']
  vocab = {piece: i for i, piece in enumerate([*pieces, *(f'{p}</w>' for p in pieces)])}
  merges = [('t', 'h'), ('th', 'e</w>')]
  vocab |= {'th': len(vocab), 'the</w>': len(vocab) + 1}
  gpt1(vocab_size=len(vocab)).save_pretrained(folder)
  (folder / 'vocab.json').write_text(json.dumps(vocab))
  lines = ['#version: 0.2', *map(' '.join, merges)]
  (folder / 'merges.txt').write_text('\n'.join(lines) + '\n')


def _torch_file(folder) -> None:
  plain(gpt2)(folder)
  arrays = safetensors.torch.load_file(folder / 'model.safetensors')
  torch.save(arrays, folder / 'pytorch_model.bin')
  (folder / 'model.safetensors').unlink()


def _wrong_index(folder) -> None:
  gpt2().save_pretrained(folder, max_shard_size='4KB')
  path = folder / 'model.safetensors.index.json'
  index = json.loads(path.read_text())
  index['weight_map']['transformer.wpe.bias'] = index['weight_map'].popitem()[1]
  path.write_text(json.dumps(index))


_HEAD = 'lm_head.weight'
_WTE = 'transformer.wte.weight'
_ALIASES = {
  'hidden_size': 8,
  'num_hidden_layers': 2,
  'num_attention_heads': 2,
  'max_position_embeddings': 16,
}
_NAMES = ('n_embd', 'n_layer', 'n_head', 'n_positions')


def _value_head(arrays: dict) -> dict:
  head = {
    'v_head.summary.weight': torch.ones(1, 8),
    'v_head.summary.bias': torch.ones(1),
  }
  return arrays | head


def _two_names(factor: float) -> Callable[[dict], dict]:
  return lambda arrays: arrays | {_HEAD: arrays[_WTE] * factor}


def _only_head(arrays: dict) -> dict:
  rest = {name: array for name, array in arrays.items() if name != _WTE}
  return rest | {_HEAD: arrays[_WTE]}


CASES = {
  'gpt2': Case(plain(gpt2)),
  'eos in config.json alone': Case(ending(3, 'none')),
  'eos in generation_config.json alone': Case(ending(None, 3)),
  'eos a list': Case(ending((7, 3), (7, 3))),
  'eos two, of which one in config.json': Case(ending(7, (3, 7))),
  'eos 0': Case(ending(0, 0)),
  'eos none': Case(ending(None, None)),
  'eos outside the vocabulary': Case(ending(61_000, 61_000), 'must be in 0 .. 43'),
  'tokenizer': Case(with_tokenizer()),
  'tokenizer, and another eos': Case(with_tokenizer(then=_another_end), more_ends=True),
  'padded vocabulary': Case(with_tokenizer(padding=11)),
  'chat template, sampling, padding': Case(with_tokenizer(then=_chat)),
  'added tokens': Case(
    with_tokenizer(added=('<|user|>', '<|im_end|>')), 'tokenizer.json: ', either=True
  ),
  'prefix space': Case(with_tokenizer(prefix=True), 'tokenizer.json: ', either=True),
  'untied': Case(plain(lambda: gpt2(tie_word_embeddings=False))),
  'tied, as lm_head alone': Case(tensors(gpt2, _only_head)),
  'tied, twice': Case(tensors(gpt2, _two_names(1.0))),
  'tied, twice and different': Case(tensors(gpt2, _two_names(2.0)), 'differs from wte'),
  'float16': Case(plain(lambda: gpt2().half())),
  'bfloat16': Case(plain(lambda: gpt2().bfloat16())),
  'shards': Case(plain(gpt2, max_shard_size='4KB')),
  'shards with a wrong index': Case(_wrong_index, 'lacks transformer.wpe.bias'),
  'without prefix': Case(plain(lambda: gpt2('GPT2Model'))),
  'aliases': Case(edited(gpt2, _NAMES, **_ALIASES)),
  'aliases that differ': Case(
    edited(gpt2, hidden_size=24), 'hidden_size=24 must be n_'
  ),
  'gelu_fast': Case(plain(lambda: gpt2(activation_function='gelu_fast'))),
  'gelu_python, wide': Case(
    plain(lambda: gpt2(activation_function='gelu_python', n_inner=12))
  ),
  'relu, unscaled': Case(
    plain(lambda: gpt2(activation_function='relu', scale_attn_weights=False))
  ),
  'quick_gelu': Case(
    plain(lambda: gpt2(activation_function='quick_gelu')), "'quick_gelu' must be one of"
  ),
  'scaled by layer': Case(plain(lambda: gpt2(scale_attn_by_inverse_layer_idx=True))),
  'reordered and upcast': Case(plain(lambda: gpt2(reorder_and_upcast_attn=True))),
  'another epsilon': Case(
    plain(lambda: gpt2(layer_norm_epsilon=1e-6)), 'layer_norm_epsilon=1e-06 must be'
  ),
  'value head': Case(tensors(gpt2, _value_head), ignore=('v_head.*',)),
  'two heads': Case(
    plain(lambda: gpt2('GPT2DoubleHeadsModel')), ignore=('multiple_choice_head.*',)
  ),
  'classifier': Case(
    plain(lambda: gpt2('GPT2ForSequenceClassification', pad_token_id=0)),
    ignore=('score.*',),
  ),
  'dropouts that differ': Case(plain(lambda: gpt2(embd_pdrop=0.3, attn_pdrop=0.2))),
  'unknown, harmless': Case(edited(gpt2, trained_by='me')),
  'unknown, may matter': Case(edited(gpt2, rotary_dim=4), 'rotary_dim=4 is unknown'),
  'quantized': Case(
    edited(gpt2, quantization_config={'bits': 4}), 'quantization_config=.* must be None'
  ),
  'pytorch_model.bin': Case(_torch_file, 'loading and saving it with transformers'),
  'openai-gpt': Case(plain(gpt1)),
  'openai-gpt, two heads': Case(
    plain(lambda: gpt1('OpenAIGPTDoubleHeadsModel')), ignore=('multiple_choice_head.*',)
  ),
  'openai-gpt, relu, an eos': Case(plain(lambda: gpt1(afn='relu', eos_token_id=4))),
  'openai-gpt, silu': Case(
    plain(lambda: gpt1(afn='silu')), "afn='silu' must be one of"
  ),
  'openai-gpt, tokenizer': Case(_own_gpt1),
  'gpt_neo': Case(plain(neo)),
  'gpt_neo, bfloat16 in shards': Case(
    plain(lambda: neo().bfloat16(), max_shard_size='4KB')
  ),
  'gpt_neo, untied, aliases': Case(
    edited(
      lambda: neo(tie_word_embeddings=False),
      ('num_layers', 'num_heads'),
      num_hidden_layers=2,
      num_attention_heads=2,
    )
  ),
  'gpt_neo, its default eos': Case(
    plain(lambda: neo(bos_token_id=50256, eos_token_id=50256))
  ),
}
SMALL = (  # for CI
  'eos two, of which one in config.json',
  'tied, as lm_head alone',
  'scaled by layer',
  'value head',
  'openai-gpt, two heads',
  'gpt_neo, bfloat16 in shards',
)


def expected(folder: pathlib.Path) -> dict:
  """Returns what transformers makes of a folder."""
  model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
  model.eval()
  with torch.no_grad():
    logits = model(torch.tensor([PROMPT])).logits[0].numpy()
  return {
    'prompt': PROMPT,
    'generated': greedy(model, PROMPT),
    'ends': model.generation_config.eos_token_id,
    'logits': np.round(logits.astype(float), 6).tolist(),
  }


def main() -> None:
  small = len(sys.argv) == 1
  there = HERE if small else pathlib.Path(sys.argv[1])
  for name in SMALL if small else CASES:
    folder = there / name.replace(',', '').replace(' ', '_')
    folder.mkdir(parents=True, exist_ok=True)
    CASES[name].make(folder)
    if not CASES[name].refused:
      text = json.dumps(expected(folder)) + '\n'
      (folder / 'expected.json').write_text(text)
    print(folder)


if __name__ == '__main__':
  main()
