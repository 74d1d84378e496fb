"""Tokenizers: text to ids and back, behind one small protocol.

`train` makes one from texts, `open_path` reads one that others made, `load` opens a
folder that `save` wrote. Ids are 0 .. vocab - 1; `eot`, the end-of-text token, is one
of them and stands before every document of a token file.
"""

from gpt_jax.config import TRAINED
from gpt_jax.tokenizers.byte_level import ByteLevel
from gpt_jax.tokenizers.characters import Bytes, Characters, Numbers
from gpt_jax.tokenizers.gpt1 import GPT1
from gpt_jax.tokenizers.kinds import load, open_model, open_path, train
from gpt_jax.tokenizers.protocol import (
  Tokenizer,
  digest,
  encode_special,
  special_tokens,
  start_of_text,
  text_of,
)
from gpt_jax.tokenizers.sentencepiece_model import SentencePiece
from gpt_jax.tokenizers.tokenizer_json import TokenizerJson

__all__ = [
  'GPT1',
  'TRAINED',
  'ByteLevel',
  'Bytes',
  'Characters',
  'Numbers',
  'SentencePiece',
  'Tokenizer',
  'TokenizerJson',
  'digest',
  'encode_special',
  'load',
  'open_model',
  'open_path',
  'special_tokens',
  'start_of_text',
  'text_of',
  'train',
]
