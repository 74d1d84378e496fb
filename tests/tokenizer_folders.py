"""Folders as Hugging Face's users have them, each with what makes it unlike others.

`FOLDERS` has a function for each, which writes it. All are made here of one small
vocabulary; which ids they give is in goldens/tokenizer_folders.json.
"""

import json
import pathlib

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from gpt_jax.tokenizers.byte_level import BYTE_CHARACTERS

EOT = '<|endoftext|>'
TEXTS = (
  '',
  'the model returns the words',
  '  two  blanks\n\tand a tab, 12345 <x>',
  f'hello{EOT} there {EOT}{EOT}the',
  '<|user|>hello<|im_end|>\nthe',
  'the <|user|> hello <|im_end|>  the <|user|> <|im_end|>!',
  'x<|user|>y a<mask>b a <mask> b NOT nOt not nothing',
  '<s>the</s> <unk> [PAD] <pad>',
  'Café naïve ﬁ Ångström Ⅷ 日本 👍🏽',
  "it 's a dog , is n't it ? ' yes ' .",
)
_PAIRS = 't h', 'th e', 'Ġ the', 'h e', 'l l', 'he ll', 'hell o', 'Ġ a', 'i n', 'Ġ Ġ'
MERGES = [tuple(pair.split(' ')) for pair in (*_PAIRS, 'e r', 'r e', 'o r', 'Ġ w')]


def vocabulary(*last: str) -> dict[str, int]:
  """Returns a byte-level vocabulary that ends with some entries."""
  made = [*BYTE_CHARACTERS.values(), *(a + b for a, b in MERGES), *last]
  return {entry: i for i, entry in enumerate(dict.fromkeys(made))}


SIZE = len(vocabulary())  # ids before the end of text


def put(folder: pathlib.Path, **files) -> None:
  """Writes values as JSON files, texts as they are; `__` in a name is a dot."""
  for name, value in files.items():
    text = value if isinstance(value, str) else json.dumps(value)
    name = name.replace('__', '.') if '__' in name else f'{name}.json'
    (folder / name).write_text(text, encoding='utf-8')


def pair(folder: pathlib.Path, *last: str, model: str = 'gpt2', **files) -> None:
  """Writes vocab.json, merges.txt and config.json."""
  lines = ['#version: 0.2', *map(' '.join, MERGES)]
  vocab = vocabulary(*(last or (EOT,)))
  put(folder, vocab=vocab, merges__txt='\n'.join(lines) + '\n')
  put(folder, config={'model_type': model}, **files)


def gpt2(*last: str, prefix: bool = False) -> tokenizers.Tokenizer:
  """Returns the pipeline of GPT-2's form."""
  made = tokenizers.Tokenizer(models.BPE(vocabulary(*(last or (EOT,))), MERGES))
  made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
  made.decoder = decoders.ByteLevel()
  made.add_special_tokens([EOT])
  return made


def whole(folder: pathlib.Path, made: tokenizers.Tokenizer, **config) -> None:
  """Writes a tokenizer.json that is read as it is."""
  config = {'tokenizer_class': 'PreTrainedTokenizerFast', 'eos_token': EOT} | config
  config = {name: value for name, value in config.items() if value is not None}
  put(folder, tokenizer__json=made.to_str(), tokenizer_config=config)
  put(folder, config={'model_type': 'gpt2'})


def token(text: str, **flags: bool) -> dict:
  """Returns an added token as files have it."""
  names = 'single_word', 'lstrip', 'rstrip', 'normalized', 'special'
  return {'content': text} | dict.fromkeys(names, False) | flags


CHAT = {'<|user|>': SIZE + 1, '<|im_end|>': SIZE + 2}


def plain(folder):
  pair(folder)


def released(folder):
  pair(folder, tokenizer_config={'model_max_length': 1024})
  put(folder, tokenizer__json=gpt2().to_str())


def neo(folder):
  pair(folder, model='gpt_neo', tokenizer_config={'tokenizer_class': 'GPT2Tokenizer'})


def pad_is_eos(folder):
  names = dict.fromkeys(('bos_token', 'eos_token', 'pad_token', 'unk_token'), EOT)
  about = {'errors': 'replace', 'padding_side': 'left', 'model_max_length': 64}
  pair(folder, special_tokens_map=names, tokenizer_config=about | names)


def added_json(folder):
  """Ids decide the order, not the file."""
  pair(folder, added_tokens=dict(reversed(CHAT.items())))


def added_special(folder):
  names = {'additional_special_tokens': list(CHAT), 'eos_token': '<|im_end|>'}
  pair(folder, added_tokens=CHAT, special_tokens_map=names)


def added_extra_twice(folder):
  """Those of tokenizer_config.json count."""
  pair(folder, tokenizer_config={'additional_special_tokens': ['<|user|>']})
  put(folder, special_tokens_map={'additional_special_tokens': ['<|im_end|>']})


def extra_described(folder):
  described = {'content': '<|im_end|>', 'lstrip': True}
  pair(folder, special_tokens_map={'extra_special_tokens': [described, '<|user|>']})


def added_named_twice(folder):
  """special_tokens_map.json counts where the two differ."""
  pair(folder, added_tokens=CHAT, special_tokens_map={'eos_token': '<|im_end|>'})
  put(folder, tokenizer_config={'eos_token': EOT, 'bos_token': EOT})


def added_decoder(folder):
  """added_tokens_decoder makes special_tokens_map.json void."""
  ids = {SIZE: EOT, SIZE + 1: '<|user|>', SIZE + 2: '<|im_end|>'}
  decoder = {str(i): token(text, special=True) for i, text in ids.items()}
  decoder[str(SIZE + 2)]['rstrip'] = True
  about = {'added_tokens_decoder': decoder, 'eos_token': '<|im_end|>'}
  pair(folder, tokenizer_config=about, special_tokens_map={'eos_token': EOT})
  put(folder, added_tokens=CHAT)


def added_inside(folder):
  """Added tokens that the vocabulary has already."""
  last = '<|user|>', EOT, '<|im_end|>'
  pair(folder, *last, added_tokens={'<|user|>': SIZE, '<|im_end|>': SIZE + 2})


def named_only(folder):
  """Tokens that are named, but have no id in any file: they get the next."""
  pair(
    folder, special_tokens_map={'pad_token': '[PAD]', 'sep_token': token('<|user|>')}
  )


def typed(folder):
  """As tokenizer_config.json had it up to version 4.33."""
  eot = token(EOT, normalized=True) | {'__type': 'AddedToken'}
  names = dict.fromkeys(('bos_token', 'eos_token', 'unk_token'), eot)
  more = [token('<|user|>', lstrip=True) | {'__type': 'AddedToken'}, '<|im_end|>']
  about = {'errors': 'replace', 'name_or_path': 'somewhere', 'add_prefix_space': False}
  about |= names | {'additional_special_tokens': more}
  pair(folder, tokenizer_config=about, special_tokens_map=names)


def version4(folder):
  """All that version 4 writes of a vocabulary with added tokens."""
  made = gpt2()
  made.add_special_tokens(list(CHAT))
  ids = {EOT: SIZE} | CHAT
  decoder = {str(i): token(text, special=True) for text, i in ids.items()}
  names = dict.fromkeys(('bos_token', 'eos_token', 'unk_token'), EOT)
  names |= {'additional_special_tokens': list(CHAT), 'pad_token': '<|im_end|>'}
  about = {'added_tokens_decoder': decoder, 'tokenizer_class': 'GPT2Tokenizer'}
  about |= {'add_prefix_space': False, 'clean_up_tokenization_spaces': True} | names
  pair(folder, tokenizer_config=about, special_tokens_map=names, added_tokens=CHAT)
  put(folder, tokenizer__json=made.to_str())


def own_names(folder):
  about = {'eos_token': '</s>', 'bos_token': '<s>', 'unk_token': '<unk>'}
  pair(folder, '<s>', '</s>', '<unk>', tokenizer_config=about)


def model_specific(folder):
  about = {'image_token': '<|user|>', 'extra_special_tokens': {'end': '<|im_end|>'}}
  pair(folder, added_tokens=CHAT, tokenizer_config=about)


def prefix_class(folder):
  pair(folder, tokenizer_config={'add_prefix_space': True}, added_tokens=CHAT)


def prefix_over_file(folder):
  pair(folder, tokenizer_config={'add_prefix_space': True})
  put(folder, tokenizer__json=gpt2().to_str())


def prefix_file(folder):
  whole(folder, gpt2(prefix=True))


def bos_added(folder):
  about = {'add_bos_token': True, 'add_eos_token': True, 'bos_token': '<s>'}
  pair(folder, EOT, '<s>', tokenizer_config=about)


def eos_added(folder):
  pair(folder, tokenizer_config={'add_eos_token': True})


def bos_passed_over(folder):
  """With a tokenizer.json that says nothing of it."""
  pair(folder, tokenizer_config={'add_bos_token': True})
  put(folder, tokenizer__json=gpt2().to_str())


def class_with_frame(folder):
  """What GPT-2's class takes of tokenizer.json besides the vocabulary."""
  made = gpt2()
  made.enable_truncation(3)
  made.enable_padding(length=20, pad_id=SIZE, pad_token=EOT)
  made.post_processor = processors.TemplateProcessing(
    single=f'{EOT} $A', pair=f'{EOT} $A $B', special_tokens=[(EOT, SIZE)]
  )
  pair(folder, tokenizer_config={'tokenizer_class': 'GPT2TokenizerFast'})
  put(folder, tokenizer__json=made.to_str())


def bos_of_file(folder):
  made = gpt2(EOT, '<s>')
  made.add_special_tokens(['<s>'])
  made.post_processor = processors.TemplateProcessing(
    single='<s> $A', pair='<s> $A <s> $B', special_tokens=[('<s>', SIZE + 1)]
  )
  whole(folder, made, bos_token='<s>', add_eos_token=True)


def flags(folder):
  made = gpt2()
  made.add_special_tokens(
    [
      tokenizers.AddedToken('<|user|>', lstrip=True, rstrip=True),
      tokenizers.AddedToken('<mask>', single_word=True),
    ]
  )
  made.add_tokens([tokenizers.AddedToken('not', single_word=True)])
  whole(folder, made, mask_token='<mask>')


def normalized(folder):
  made = gpt2()
  made.normalizer = normalizers.Lowercase()
  made.add_tokens([tokenizers.AddedToken('NOT'), '<|user|>'])
  made.add_tokens([tokenizers.AddedToken('nOt', normalized=False)])
  whole(folder, made)


def unspecial_eot(folder):
  made = json.loads(gpt2().to_str())
  made['added_tokens'][0]['special'] = False
  whole(folder, tokenizers.Tokenizer.from_str(json.dumps(made)))


def nfc(folder):
  made = gpt2()
  steps = (
    normalizers.NFC(),
    normalizers.Replace('hello', 'the'),
    normalizers.Lowercase(),
  )
  made.normalizer = normalizers.Sequence(list(steps))
  whole(folder, made)


def digits(folder):
  made = gpt2()
  steps = pre_tokenizers.Digits(individual_digits=True), made.pre_tokenizer
  made.pre_tokenizer = pre_tokenizers.Sequence(list(steps))
  whole(folder, made)


def split(folder):
  made = gpt2()
  cut = pre_tokenizers.Split(tokenizers.Regex(r'\p{N}{1,2}|\s'), 'isolated')
  last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
  made.pre_tokenizer = pre_tokenizers.Sequence([cut, last])
  whole(folder, made)


def merges_ignored(folder):
  """Words that are entries are not merged."""
  about = json.loads(gpt2('Ġmodel', 'words', EOT).to_str())
  about['model']['ignore_merges'] = True
  whole(folder, tokenizers.Tokenizer.from_str(json.dumps(about)))


def cut_off(folder):
  made = gpt2()
  made.enable_truncation(3)
  made.enable_padding(length=20, pad_id=SIZE, pad_token=EOT)
  whole(folder, made)


def metaspace(folder):
  letters = dict.fromkeys('▁' + ''.join(TEXTS[1:3]).replace(' ', ''))
  entries = ['<unk>', '<s>', '</s>', *letters, 'th', 'the', '▁the']
  entries += [f'<0x{byte:02X}>' for byte in range(256)]
  vocab = {entry: i for i, entry in enumerate(dict.fromkeys(entries))}
  merges = [('t', 'h'), ('th', 'e'), ('▁', 'the')]
  model = models.BPE(
    vocab, merges, unk_token='<unk>', byte_fallback=True, fuse_unk=True
  )
  made = tokenizers.Tokenizer(model)
  made.pre_tokenizer = pre_tokenizers.Metaspace()
  steps = decoders.ByteFallback(), decoders.Metaspace()
  made.decoder = decoders.Sequence(list(steps))
  made.add_special_tokens(['<unk>', '<s>', '</s>'])
  whole(folder, made, eos_token='</s>', bos_token='<s>', unk_token='<unk>')


def unigram(folder):
  letters = dict.fromkeys('▁' + ''.join(TEXTS[1:3]).replace(' ', ''))
  pieces = [('<unk>', 0.0), ('</s>', 0.0), ('▁the', -2.0), ('the', -2.5), ('in', -3.0)]
  pieces += [(each, -5.0 - i / 8) for i, each in enumerate(letters)]
  made = tokenizers.Tokenizer(models.Unigram(pieces, unk_id=0))
  made.normalizer = normalizers.NFKC()
  made.pre_tokenizer = pre_tokenizers.Metaspace()
  made.decoder = decoders.Metaspace()
  made.add_special_tokens(['</s>'])
  whole(folder, made, eos_token='</s>')


def word_level(folder):
  words = "the model returns words hello it 's a dog , is n't ? ' yes . there".split()
  entries = ['[UNK]', '[PAD]', '</s>', *words]
  vocab = {entry: i for i, entry in enumerate(entries)}
  made = tokenizers.Tokenizer(models.WordLevel(vocab, unk_token='[UNK]'))
  made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
  made.add_special_tokens(['[UNK]', '[PAD]', '</s>'])
  names = {'eos_token': '</s>', 'pad_token': '[PAD]', 'unk_token': '[UNK]'}
  whole(folder, made, clean_up_tokenization_spaces=True, **names)


def templates(folder):
  about = {'chat_template': [{'name': 'default', 'template': 'A{{ messages }}'}]}
  pair(folder, tokenizer_config=about | {'split_special_tokens': True})


def template_files(folder):
  pair(folder, tokenizer_config={'chat_template': 'old'}, added_tokens=CHAT)
  put(folder, chat_template__jinja='{% for m in messages %}{{ m }}\n{% endfor %}')
  (folder / 'additional_chat_templates').mkdir()
  (folder / 'additional_chat_templates/tool.jinja').write_text('{{ tools }}')


GPT1 = ['<unk>', *'abcdehlmnorst', *(f'{c}</w>' for c in 'abcdehlmnorst.,')]
GPT1 += ['th', 'the</w>', 'hel', 'he', 'lo</w>', 'hello</w>', 'no']
GPT1_MERGES = 't h', 'th e</w>', 'h e', 'he l', 'l o</w>', 'hel lo</w>', 'n o'


def gpt1_files(folder, **files):
  vocab = {entry: i for i, entry in enumerate(GPT1)}
  put(folder, vocab=vocab, merges__txt='\n'.join(['#version: 0.2', *GPT1_MERGES, '']))
  put(folder, config={'model_type': 'openai-gpt'}, **files)


def gpt1(folder):
  gpt1_files(folder)


def gpt1_added(folder):
  size = len(GPT1)
  added = {'<|user|>': size, '<|im_end|>': size + 1, 'NOT': size + 2}
  names = {'eos_token': '<|im_end|>', 'unk_token': '<unk>'}
  gpt1_files(folder, added_tokens=added, special_tokens_map=names)


NAMES = """
  plain released neo pad_is_eos added_json added_special added_extra_twice
  extra_described added_named_twice added_decoder added_inside named_only typed
  version4 own_names model_specific prefix_class prefix_over_file prefix_file
  bos_added eos_added bos_passed_over class_with_frame bos_of_file flags
  normalized unspecial_eot nfc digits split merges_ignored cut_off metaspace
  unigram word_level templates template_files gpt1 gpt1_added
"""
FOLDERS = {name: globals()[name] for name in NAMES.split()}


def write(name: str, folder: pathlib.Path) -> pathlib.Path:
  """Writes one of `FOLDERS` into a folder, which is made, and returned."""
  folder.mkdir(parents=True)
  FOLDERS[name](folder)
  return folder
