"""What becomes of each field of Hugging Face's config.json and generation_config.json.

docs/hugging_face.md shows these tables; tests hold the page to them, and them to the
fields that transformers' own classes have.
"""

import re
from typing import Any, NamedTuple

FAMILIES = 'gpt2', 'openai-gpt', 'gpt_neo'


class Field(NamedTuple):
  """What becomes of a field.

  Attributes:
    fate: 'used', it makes the model what it is; 'kept', it changes nothing here, and
      an export writes it as it was; 'only', any value but those of `only` is refused.
    note: what it is for, or why.
    only: the values that are not refused.
  """

  fate: str
  note: str
  only: tuple = ()


def _all(fate: str, note: str, names: str) -> dict[str, Field]:
  return {name: Field(fate, note) for name in names.split()}


_COMMON = {
  'model_type': Field('used', 'the architecture'),
  'vocab_size': Field('used', 'model.vocab; may exceed the entries of the tokenizer'),
  'tie_word_embeddings': Field('used', 'model.tied'),
  'eos_token_id': Field('used', 'ends a text, if generation_config.json is not there'),
  'architectures': Field('used', 'an export names the language model'),
  **_all('used', 'weights are read as float32, and exported so', 'dtype torch_dtype'),
  'layer_norm_epsilon': Field('only', 'the eps of our LayerNorm', (1e-5,)),
  **{
    name: Field('only', note, (False, None))
    for name, note in (
      ('is_encoder_decoder', 'models here have no encoder'),
      ('add_cross_attention', 'models here have no encoder to look at'),
    )
  },
  **{
    name: Field('only', note, (None, {}))
    for name, note in (
      ('quantization_config', 'the weights are of another form'),
      ('auto_map', 'code of its own says what it computes'),
      ('per_layer_config', 'layers of several shapes'),
      ('pruned_heads', 'layers of several shapes'),
    )
  },
  **_all(
    'kept',
    'no prompt begins with it and no padding is read here',
    'bos_token_id pad_token_id decoder_start_token_id sep_token_id cls_token_id '
    'mask_token_id unk_token_id',
  ),
  'initializer_range': Field('kept', 'new weights are drawn with 0.02'),
  **_all(
    'kept',
    'of classifiers',
    'id2label label2id num_labels _num_labels problem_type finetuning_task '
    'task_specific_params',
  ),
  **_all(
    'kept',
    'how transformers computes and returns the same',
    'use_cache output_hidden_states output_attentions return_dict use_return_dict '
    'return_dict_in_generate chunk_size_feed_forward gradient_checkpointing '
    'torchscript use_bfloat16 tf_legacy_loss attn_implementation _attn_implementation '
    '_attn_implementation_autoset tie_last_hidden_states',
  ),
  **_all(
    'kept',
    'of models with an encoder',
    'is_decoder tie_encoder_decoder cross_attention_hidden_size',
  ),
  **_all(
    'kept',
    'where it comes from',
    'transformers_version name_or_path _name_or_path _commit_hash tokenizer_class '
    'prefix',
  ),
}
_SHAPE = {
  'n_layer': 'model.L',
  'n_embd': 'model.D',
  'n_head': 'model.N',
  'n_positions': 'model.T',
}
_DROPOUT = 'another rate than of the residual branches is kept, and not used here'
_OLDER = {
  **{name: Field('used', note) for name, note in _SHAPE.items()},
  'resid_pdrop': Field('used', 'model.dropout'),
  **_all('kept', _DROPOUT, 'embd_pdrop attn_pdrop'),
  **_all(
    'kept',
    'of a multiple-choice head',
    'summary_type summary_use_proj summary_activation summary_proj_to_labels '
    'summary_first_dropout summary_last_dropout',
  ),
}
CONFIG = {
  'gpt2': _COMMON
  | _OLDER
  | {
    'n_inner': Field('used', 'model.F; null is 4 n_embd'),
    'activation_function': Field('used', 'model.activation'),
    'scale_attn_weights': Field('used', 'model.attention_scale'),
    'scale_attn_by_inverse_layer_idx': Field(
      'used', "goes into the query's weights; an export says false"
    ),
    'reorder_and_upcast_attn': Field('kept', 'the same, in another order'),
  },
  'openai-gpt': _COMMON
  | _OLDER
  | {
    'afn': Field('used', 'model.activation'),
    **_all('kept', 'of older versions', 'predict_special_tokens n_special'),
  },
  'gpt_neo': _COMMON
  | {
    'num_layers': Field('used', 'model.L'),
    'hidden_size': Field('used', 'model.D'),
    'num_heads': Field('used', 'model.N'),
    'max_position_embeddings': Field('used', 'model.T'),
    'intermediate_size': Field('used', 'model.F; null is 4 hidden_size'),
    'activation_function': Field('used', 'model.activation'),
    'attention_types': Field('used', 'model.attention'),
    'attention_layers': Field('used', 'the same, layer by layer; must agree'),
    'window_size': Field('used', 'model.band'),
    'resid_dropout': Field('used', 'model.dropout'),
    **_all('kept', _DROPOUT, 'embed_dropout attention_dropout'),
    **_all(
      'kept',
      'of classifiers',
      'classifier_dropout summary_type summary_use_proj summary_activation '
      'summary_proj_to_labels summary_first_dropout',
    ),
  },
}
# Other names of fields: transformers' attribute_map, and n_ctx of older files.
_OLDER_ALIASES = {
  'num_hidden_layers': 'n_layer',
  'hidden_size': 'n_embd',
  'num_attention_heads': 'n_head',
  'max_position_embeddings': 'n_positions',
  'n_ctx': 'n_positions',
}
ALIASES = {
  'gpt2': _OLDER_ALIASES,
  'openai-gpt': _OLDER_ALIASES,
  'gpt_neo': {'num_hidden_layers': 'num_layers', 'num_attention_heads': 'num_heads'},
}
# Rates that we have one of, model.dropout: the one that is used first.
DROPOUTS = {
  'gpt2': ('resid_pdrop', 'embd_pdrop', 'attn_pdrop'),
  'openai-gpt': ('resid_pdrop', 'embd_pdrop', 'attn_pdrop'),
  'gpt_neo': ('resid_dropout', 'embed_dropout', 'attention_dropout'),
}

# Of generation_config.json, what `launch.py sample` takes by a name of its own.
FLAGS = {
  'temperature': 'temperature',
  'top_k': 'top_k',
  'top_p': 'top_p',
  'min_p': 'min_p',
  'typical_p': 'typical_p',
  'repetition_penalty': 'repetition_penalty',
  'no_repeat_ngram_size': 'no_repeat_ngram',
  'max_new_tokens': 'max_new_tokens',
  'min_new_tokens': 'min_new_tokens',
  'num_beams': 'beams',
  'num_beam_groups': 'groups',
  'diversity_penalty': 'diversity',
  'length_penalty': 'length_penalty',
  'early_stopping': 'early_stopping',
  'num_return_sequences': 'num_return',
  'stop_strings': 'stop',
}
GENERATION = {
  'eos_token_id': Field('used', 'ends a text: a number, a list, or null for none'),
  **{
    name: Field('kept', f'no default here; `sample` takes --{flag}')
    for name, flag in FLAGS.items()
  },
  'do_sample': Field('kept', 'no default here; --temperature=0 is greedy'),
  **_all(
    'kept',
    'no default here, and no flag',
    'max_length min_length max_time epsilon_cutoff eta_cutoff top_h '
    'encoder_repetition_penalty bad_words_ids renormalize_logits forced_bos_token_id '
    'forced_eos_token_id remove_invalid_values exponential_decay_length_penalty '
    'suppress_tokens begin_suppress_tokens sequence_bias token_healing guidance_scale '
    'watermarking_config penalty_alpha dola_layers constraints force_words_ids',
  ),
  **_all(
    'kept',
    'no prompt begins with it and no padding is read here',
    'pad_token_id bos_token_id decoder_start_token_id encoder_no_repeat_ngram_size',
  ),
  **_all(
    'kept',
    'how transformers computes and returns the same',
    'use_mtp use_cache cache_implementation cache_config max_cache_len '
    'output_attentions output_hidden_states output_scores output_logits '
    'return_dict_in_generate is_assistant num_assistant_tokens '
    'num_assistant_tokens_schedule assistant_confidence_threshold '
    'prompt_lookup_num_tokens max_matching_ngram_size assistant_early_exit '
    'assistant_lookbehind target_lookbehind assistant_ensemble_weight speculation_type '
    'compile_config disable_compile continuous_batching_config low_memory '
    'prefill_chunk_size',
  ),
  **_all('kept', 'where it comes from', '_from_model_config transformers_version'),
}
# Notes of what a user of transformers expects to act.
NO_DEFAULT = {f.note for f in GENERATION.values() if f.note.startswith('no default')}

# An unknown field is kept; unless it is switched on and named after a part of what a
# model computes: files of other code have such, and this code would compute another
# function.
_PARTS = re.compile(
  r'(^|_)(act|activation|adapter|alibi|attn|attention|bias|clip|conv|cross|dim|embd|'
  r'embed\w*|expert\w*|ffn|gate\w*|head\w*|inner|intermediate|kv|layer\w*|logit\w*|'
  r'lora|mlp|moe|mup|norm\w*|parallel|position\w*|qkv?|quant\w*|residual|rope|rotary|'
  r'scal\w+|soft\w*|window\w*)(_|$)'
)


def may_change_the_function(name: str, value: Any) -> bool:
  """Returns whether an unknown field of config.json is refused."""
  off = value is None or value is False or value in (0, '', [], {})
  return not off and 'drop' not in name and bool(_PARTS.search(name))
