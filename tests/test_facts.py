"""What Hugging Face folders say: ends, settings and fields, kept and written back."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy
from test_convert import GOLDENS, gpt2_with_tokenizer

from gpt_jax.config import UserError
from gpt_jax.inference import hugging_face
from gpt_jax.runs import import_export
from gpt_jax.runs.load import load
from gpt_jax.weights import config_json, convert, facts


def edit(folder, name='config.json', remove=(), **changes):
  path = folder / name
  about = json.loads(path.read_text()) if path.exists() else {}
  about = {key: v for key, v in (about | changes).items() if key not in remove}
  path.write_text(json.dumps(about))


def change(folder, function):
  path = folder / 'model.safetensors'
  arrays = function(safetensors.numpy.load_file(path))
  safetensors.numpy.save_file(arrays, path, metadata={'format': 'pt'})


def about(folder, name='config.json'):
  return json.loads((folder / name).read_text())


@pytest.fixture
def gpt2(tmp_path):
  """The golden GPT-2, of 61 entries, to be changed."""
  shutil.copytree(GOLDENS / 'gpt2', tmp_path / 'gpt2')
  return tmp_path / 'gpt2'


@pytest.fixture
def spoken(tmp_path):
  """A GPT-2 of 265 entries with its tokenizer."""
  return gpt2_with_tokenizer(tmp_path / 'spoken')


NONE = object()  # no generation_config.json


@pytest.mark.parametrize(
  'in_config, in_generation, ends',
  [
    (3, NONE, (3,)),
    (0, NONE, (0,)),
    ([7, 3, 7], NONE, (7, 3)),
    (None, NONE, ()),
    (3, 5, (5,)),
    (3, [5, 0], (5, 0)),
    (3, None, ()),
    (None, 0, (0,)),
    (50256, NONE, ()),
    (50256, [4, 50256], (4,)),
    (61, NONE, ()),
  ],
)
def test_generation_config_says_which_ids_end_a_text(
  gpt2, in_config, in_generation, ends
):
  edit(gpt2, eos_token_id=in_config)
  if in_generation is not NONE:
    edit(gpt2, 'generation_config.json', eos_token_id=in_generation)
  model = hugging_face.open_model(gpt2).model
  assert facts.ends(facts.read(gpt2), 61) == ends
  # Without a tokenizer the first is `eot`.
  assert (model.tokenizer.eot, *model.ends) == (ends or (61,))


def test_a_file_without_an_end_means_transformers_default(gpt2):
  edit(gpt2, remove=['eos_token_id'])
  assert facts.ends(facts.read(gpt2), 61) == ()
  edit(gpt2, vocab_size=50257)
  assert facts.ends(facts.read(gpt2), 50257) == (50256,)
  edit(gpt2, 'generation_config.json')  # it is there, and says none
  assert facts.ends(facts.read(gpt2), 50257) == ()


@pytest.mark.parametrize('end', [62, -1, '3', 1.0, [3, [4]], {}])
def test_an_end_that_is_no_id_is_refused_with_its_file(gpt2, end):
  edit(gpt2, 'generation_config.json', eos_token_id=end)
  with pytest.raises(
    UserError, match='generation_config.json: eos_token_id=.* 0 .. 61'
  ):
    hugging_face.open_model(gpt2)


def test_ends_besides_the_tokenizers_go_into_the_workdir_and_out(spoken, tmp_path):
  edit(spoken, eos_token_id=63)
  edit(spoken, 'generation_config.json', eos_token_id=[63, 5], temperature=0.7)
  said = import_export.import_model(str(spoken), tmp_path / 'w')
  eot = load(spoken).tokenizer.eot
  for text in (
    f'a text ends at 63, 5, {eot}',
    'eos_token_id is 63 in config.json and [63, 5] in generation_config.json, which',
    f'{eot} is end-of-text to the tokenizer and no eos_token_id',
    'temperature=0.7: kept, and no defaults here; sample takes --temperature=0.7',
  ):
    assert text in said
  assert load(tmp_path / 'w').ends == load(spoken).ends == (63, 5)
  import_export.export_model(tmp_path / 'w', 'best', tmp_path / 'out')
  assert about(tmp_path / 'out')['eos_token_id'] == 63
  written = about(tmp_path / 'out', 'generation_config.json')
  assert written == about(spoken, 'generation_config.json')


def test_a_model_that_was_trained_here_ends_with_its_documents_too(spoken, tmp_path):
  edit(spoken, eos_token_id=63)
  edit(spoken, 'generation_config.json', eos_token_id=[63, 5])
  opened = hugging_face.open_model(spoken)
  model = dataclasses.replace(opened.model, step=9)
  said = hugging_face.export(model, 0.1, tmp_path / 'out', opened.facts)
  ends = [63, 5, model.tokenizer.eot]
  assert f'eos_token_id is {", ".join(map(str, ends))}, with the end-of-text' in said
  for name in ('config.json', 'generation_config.json'):
    assert about(tmp_path / 'out', name)['eos_token_id'] == ends


def test_files_that_are_not_read_are_named(spoken, tmp_path):
  (spoken / 'README.md').write_text('more')
  (spoken / 'chat_template.jinja').write_text('of the tokenizer')
  said = import_export.import_model(str(spoken), tmp_path / 'w')
  assert '  not read: README.md' in said.splitlines()


def test_kept_fields_are_written_back_and_used_ones_in_their_words(gpt2, tmp_path):
  edit(gpt2, trained_by='me', n_inner=None, activation_function='gelu_fast')
  edit(gpt2, embd_pdrop=0.3, summary_type='mean', reorder_and_upcast_attn=True)
  said = import_export.import_model(str(gpt2), tmp_path / 'w')
  assert "config.json: trained_by='me': unknown, and kept" in said
  assert 'embd_pdrop=0.3: kept, not used; model.dropout is resid_pdrop=0.1' in said
  import_export.export_model(tmp_path / 'w', 'best', tmp_path / 'out')
  assert about(tmp_path / 'out') == about(gpt2)
  # Another rate is written as it is.
  opened = hugging_face.open_model(gpt2)
  hugging_face.export(opened.model, 0.2, tmp_path / 'other', opened.facts)
  rates = [about(tmp_path / 'other')[f'{n}_pdrop'] for n in ('resid', 'embd', 'attn')]
  assert rates == [0.2, 0.2, 0.2]


def test_a_workdir_without_facts_is_opened_and_exported_as_before(spoken, tmp_path):
  import_export.import_model(str(spoken), tmp_path / 'w')
  (tmp_path / 'w/hugging_face.json').unlink()
  assert load(tmp_path / 'w').ends == ()
  import_export.export_model(tmp_path / 'w', 'best', tmp_path / 'out')
  assert about(tmp_path / 'out') == about(spoken)


@pytest.mark.parametrize(
  'content, says',
  [
    ('{}', "lacks 'files'"),
    ('{"files": {"../x": ""}, "ignored": []}', 'no file that is kept'),
    ('{"files": {"config.json": ""}, "ignored": []}', 'instead of an object'),
    ('{"files": {}, "ignored": [3]}', 'instead of text'),
  ],
)
def test_damaged_facts_of_a_workdir_are_an_error_that_names_them(
  tmp_path, content, says
):
  (tmp_path / 'hugging_face.json').write_text(content)
  with pytest.raises(UserError, match=f'hugging_face.json.* is damaged: .*{says}'):
    facts.kept(tmp_path)


def test_a_failed_import_leaves_no_workdir(gpt2, tmp_path):
  edit(gpt2, 'generation_config.json', eos_token_id='x')
  with pytest.raises(UserError, match="eos_token_id='x' must be in 0 .. "):
    import_export.import_model(str(gpt2), tmp_path / 'w')
  assert not (tmp_path / 'w').exists()


def test_names_of_fields_that_mean_others_are_read(gpt2):
  wanted = convert.read(gpt2)
  names = {
    'n_embd': 'hidden_size',
    'n_layer': 'num_hidden_layers',
    'n_positions': 'n_ctx',
  }
  found = about(gpt2)
  edit(gpt2, remove=names, **{new: found[old] for old, new in names.items()})
  again = convert.read(gpt2)
  assert again[0] == wanted[0]
  jax.tree.map(np.testing.assert_array_equal, again[1], wanted[1])
  edit(gpt2, n_positions=10)
  with pytest.raises(UserError, match='n_ctx=11 must be n_positions=10, of which'):
    convert.read(gpt2)


@pytest.mark.parametrize(
  'name, ours',
  [(n, ours) for n, ours in config_json.ACTIVATIONS['gpt2'].items()] + [('silu', '')],
)
def test_activations_are_ours_or_refused(gpt2, name, ours):
  edit(gpt2, activation_function=name)
  _, model, wrong = config_json.read_config(gpt2 / 'config.json')
  assert (model.activation == ours and not wrong) or (name == 'silu' and wrong)


@pytest.mark.parametrize(
  'changes, says',
  [
    (
      {'rotary_dim': 4},
      'rotary_dim=4 is unknown, and may change .*--ignore=rotary_dim',
    ),
    ({'quantization_config': {'bits': 8}}, 'quantization_config=.* must be None'),
    ({'auto_map': {'AutoModel': 'x.Y'}}, 'auto_map=.* must be None: code of its own'),
    ({'is_encoder_decoder': True}, 'is_encoder_decoder=True must be False'),
    ({'scale_attn_by_inverse_layer_idx': 2}, 'must be of type bool'),
  ],
)
def test_a_field_that_changes_the_function_is_refused(gpt2, changes, says):
  edit(gpt2, **changes)
  with pytest.raises(UserError, match=says):
    convert.read(gpt2)


def test_an_unknown_field_may_be_passed_over_and_is_not_written(gpt2, tmp_path):
  edit(gpt2, rotary_dim=4)
  said = import_export.import_model(str(gpt2), tmp_path / 'w', ignore=['rotary_dim'])
  assert 'passed over: rotary_dim' in said
  said = import_export.export_model(tmp_path / 'w', 'best', tmp_path / 'out')
  assert 'left out, as the import did: rotary_dim' in said
  assert 'rotary_dim' not in about(tmp_path / 'out')


def test_heads_are_named_and_passed_over(gpt2, tmp_path):
  head = {'v_head.weight': np.ones((1, 12), np.float32)}
  change(gpt2, lambda arrays: arrays | head)
  with pytest.raises(
    UserError, match=r"extra: v_head.weight(.|\n)*--ignore='v_head\*'"
  ):
    import_export.import_model(str(gpt2), tmp_path / 'w')
  for pattern in ('v_head.*', 'v_head*'):
    weights = convert.read_all(gpt2, [pattern])
    assert weights.notes == ['passed over: v_head.weight']
  with pytest.raises(UserError, match='ignore=x.* must be the name of a tensor'):
    convert.read(gpt2, ['x*'])
  with pytest.raises(UserError, match='missing: h.0.ln_1.bias'):
    convert.read(gpt2, ['v_head*', 'transformer.h.0.ln_1.bias'])


def test_a_tied_matrix_is_read_under_either_name(gpt2):
  wanted, wte = convert.read(gpt2)[1], 'transformer.wte.weight'
  change(gpt2, lambda arrays: arrays | {'lm_head.weight': arrays[wte]})
  both = convert.read(gpt2)[1]
  change(gpt2, lambda arrays: {n: a for n, a in arrays.items() if n != wte})
  alone = convert.read(gpt2)[1]
  for found in (both, alone):
    jax.tree.map(np.testing.assert_array_equal, wanted, found)
  change(gpt2, lambda arrays: arrays | {wte: arrays['lm_head.weight'] + 1})
  with pytest.raises(UserError, match='lm_head.weight differs from wte.weight'):
    convert.read(gpt2)
  edit(gpt2, tie_word_embeddings=False)
  untied = convert.read(gpt2)[1]
  np.testing.assert_array_equal(untied['lm_head'][:61], wanted['wte'][:61])


def test_a_tensor_under_two_names_must_be_one(gpt2):
  name = 'transformer.ln_f.bias'
  change(gpt2, lambda arrays: arrays | {'ln_f.bias': arrays[name]})
  convert.read(gpt2)
  change(gpt2, lambda arrays: arrays | {'ln_f.bias': arrays[name] + 1})
  with pytest.raises(UserError, match='ln_f.bias: there are two, with and without'):
    convert.read(gpt2)


def test_queries_are_divided_where_attention_is_scaled_by_layer(gpt2, tmp_path):
  wanted = convert.read(gpt2)[1]
  edit(gpt2, scale_attn_by_inverse_layer_idx=True)
  found = convert.read_all(gpt2)
  assert 'scale_attn_by_inverse_layer_idx goes into the weights' in found.notes[0]
  for layer, factor in (('h_0', 1), ('h_1', 2)):
    for part in ('kernel', 'bias'):
      old, new = wanted[layer]['attn'], found.params[layer]['attn']
      np.testing.assert_array_equal(new['q'][part] * factor, old['q'][part])
      np.testing.assert_array_equal(new['k'][part], old['k'][part])
  opened = hugging_face.open_model(gpt2)
  hugging_face.export(opened.model, 0.1, tmp_path / 'out', opened.facts)
  assert about(tmp_path / 'out')['scale_attn_by_inverse_layer_idx'] is False


def shards(folder, *parts):
  arrays = safetensors.numpy.load_file(folder / 'model.safetensors')
  (folder / 'model.safetensors').unlink()
  names, index = list(arrays), {}
  for i, chosen in enumerate(parts):
    file = f'model-{i}.safetensors'
    mine = {n: arrays[n] for n in names[chosen]}
    safetensors.numpy.save_file(mine, folder / file)
    index |= dict.fromkeys(mine, file)
  edit(folder, 'model.safetensors.index.json', weight_map=index)


def test_an_index_and_its_shards_must_agree(gpt2):
  whole = (gpt2 / 'model.safetensors').read_bytes()
  wanted = convert.read(gpt2)[1]
  shards(gpt2, slice(0, 9), slice(9, None))
  jax.tree.map(np.testing.assert_array_equal, wanted, convert.read(gpt2)[1])
  index = about(gpt2, 'model.safetensors.index.json')['weight_map']
  name = 'model.safetensors.index.json'
  edit(gpt2, name, weight_map=index | {'x': 'model-0.safetensors'})
  with pytest.raises(UserError, match='model-0.safetensors: lacks x, which'):
    convert.read(gpt2)
  # As in transformers the whole file comes first.
  (gpt2 / 'model.safetensors').write_bytes(whole)
  convert.read(gpt2)
  shards(gpt2, slice(0, 9), slice(8, None))
  with pytest.raises(UserError, match='model-1.safetensors: another file has '):
    convert.read(gpt2)


def test_weights_of_other_types_are_refused_by_name(gpt2):
  change(gpt2, lambda a: a | {'transformer.wpe.weight': np.zeros((11, 12), np.int8)})
  with pytest.raises(UserError, match='wpe.weight is of type I8, which must be one of'):
    convert.read(gpt2)
  change(gpt2, lambda a: a | {'transformer.wpe.weight': np.zeros((11, 12), np.float16)})
  assert convert.read_all(gpt2).notes == [
    'weights of float16 and float32 are read as float32, and exported so'
  ]
