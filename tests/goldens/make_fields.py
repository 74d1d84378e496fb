"""Makes hugging_face_fields.json: the fields that transformers' own classes have.

  pip install torch==2.13.0 transformers
  python tests/goldens/make_fields.py

Of config.json by architecture, with other names of fields; of generation_config.json;
and the names of activations. tests/test_their_fields.py holds our tables to it.
"""

import dataclasses
import json
import pathlib

import transformers
from transformers.activations import ACT2FN
from transformers.models.openai.modeling_openai import ACT_FNS

HERE = pathlib.Path(__file__).resolve().parent


def main() -> None:
  kinds = (
    transformers.GPT2Config,
    transformers.OpenAIGPTConfig,
    transformers.GPTNeoConfig,
  )
  fields, aliases = {}, {}
  for kind in kinds:
    made = kind(num_layers=24) if kind.model_type == 'gpt_neo' else kind()
    names = {field.name for field in dataclasses.fields(made)} | set(made.to_dict())
    fields[kind.model_type] = sorted(names)
    aliases[kind.model_type] = kind.attribute_map
  about = {
    'transformers': transformers.__version__,
    'config': fields,
    'aliases': aliases,
    'generation_config': sorted(vars(transformers.GenerationConfig())),
    'activations': sorted(ACT2FN),
    'activations of openai-gpt': sorted(ACT_FNS),
  }
  text = json.dumps(about, indent=1, sort_keys=True) + '\n'
  (HERE / 'hugging_face_fields.json').write_text(text)


if __name__ == '__main__':
  main()
