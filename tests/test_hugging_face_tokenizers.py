"""Our tokenizers as Hugging Face's files: the ids and texts that those give."""

import io
import json
import math
import pathlib
import random
import subprocess
import sys

import pytest
import sentencepiece
import tokenizers as theirs
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt_jax import tokenizers
from gpt_jax.config import UserError
from gpt_jax.tokenizers import byte_level, gpt1, hugging_face

ROOT = pathlib.Path(__file__).resolve().parent.parent
GOLDEN = json.loads((ROOT / 'tests/goldens/tokenizers.json').read_text('utf-8'))
EOT = '<|endoftext|>'
MARK = '\u2581'
ODD = {
  'nothing': '',
  'blanks': '  \t\n\r\n \u00a0\u2028\u3000 ',
  'NUL and other controls': 'a\x00b\x01\x7f\x85',
  'combining marks': 'cafe\u0301 Z\u0351\u0343\u0342 \u0301',
  'emoji': '👩‍👩‍👧‍👦🇫🇷👍🏽',
  'right to left': 'שלום \u202eabc\u202c مرحبا',
  'compatibility characters': '\ufb01 \uff26\uff55 \u2460\u00bd \u212a',
  'names of pieces': f'a<unk><0x41><0x0A></s><pad><0xff>\u2585{EOT}',
  'the mark of SentencePiece': f'{MARK}a{MARK}{MARK} {MARK} <{MARK}0x41>',
  'one repeated character': 'a' * 5000,
  'one repeated blank': ' ' * 5000,
  'one repeated letter outside ASCII': 'é' * 5000,
}
# Characters that meet in few texts, so that hypothesis finds them together.
tricky = st.text(
  st.one_of(
    st.sampled_from(f' \n\t{MARK}\u2585\ufffd\x00\u0301\u05e9\u200d👍ﬁaA1.\'"<|>0x4'),
    st.characters(codec='utf-8'),
  )
)


@pytest.fixture(scope='session')
def written(trained, tmp_path_factory):
  """Each of them as it is read back from its tokenizer.json."""
  folder = tmp_path_factory.mktemp('written')
  return {kind: write(tokenizer, folder / kind) for kind, tokenizer in trained.items()}


def write(tokenizer, folder):
  hugging_face.write(tokenizer, folder, 128)
  read = theirs.Tokenizer.from_file(str(folder / 'tokenizer.json'))
  read.encode_special_tokens = True  # what split_special_tokens=True sets
  return read


def suit(tokenizer, text):
  """Returns what a tokenizer can encode of a text."""
  if tokenizer.kind != 'chars':
    return text
  known = set(tokenizer.pieces(range(tokenizer.eot)))
  return ''.join(character for character in text if character in known)


def assert_same_ids(ours, found, text):
  ids = ours.encode(text)
  if found != ids and is_unigram(ours):
    # SentencePiece adds 32-bit floats: of ways to cut that are equally likely in them,
    # either may be chosen.
    score = ours._processor.get_score
    assert math.isclose(sum(map(score, ids)), sum(map(score, found)), rel_tol=1e-6)
    assert ours.decode(found) == ours.decode(ids)
  else:
    assert found == ids


def is_unigram(ours):
  return ours.kind in ('unigram', 'sentencepiece') and any(
    not ours._processor.get_score(i).is_integer() for i in range(ours.vocab)
  )


def assert_same(ours, read, text):
  text = suit(ours, text)
  ids = ours.encode(text)
  assert_same_ids(ours, read.encode(text).ids, text)
  assert read.decode(ids) == ours.decode(ids)


KINDS = tokenizers.TRAINED


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('odd', ODD.values(), ids=ODD)
def test_odd_texts_have_the_same_ids(trained, written, kind, odd):
  assert_same(trained[kind], written[kind], odd)


@pytest.mark.parametrize('kind', KINDS)
@given(text=tricky)
@settings(max_examples=150, deadline=None)
def test_any_text_has_the_same_ids(trained, written, kind, text):
  assert_same(trained[kind], written[kind], text)


@pytest.mark.parametrize('kind', KINDS)
def test_english_has_the_same_ids_whole_and_in_parts(trained, written, kind, text):
  assert_same(trained[kind], written[kind], text)
  for start in range(0, len(text), 1000):
    assert_same(trained[kind], written[kind], text[start : start + 1000])


def test_ties_of_unigram_are_rare(trained, written, text):
  parts = [text[start : start + 1000] for start in range(0, len(text), 1000)]
  ours, read = trained['unigram'], written['unigram']
  tied = sum(ours.encode(part) != read.encode(part).ids for part in parts)
  assert tied <= len(parts) / 20


@pytest.mark.parametrize('kind', KINDS)
def test_eot_is_special_and_no_encoding_adds_it(trained, written, kind):
  ours, read = trained[kind], written[kind]
  hello = ours.encode('hello')
  assert read.get_vocab_size() == ours.vocab
  assert read.token_to_id(EOT) == ours.eot
  assert read.encode('hello', add_special_tokens=True).ids == hello
  ids = [ours.eot, *hello, ours.eot]
  assert read.decode(ids) == 'hello'
  assert read.decode(ids, skip_special_tokens=False) == f'{EOT}hello{EOT}'


@pytest.mark.parametrize('kind', KINDS)
def test_the_name_of_eot_in_a_text_is_eot_only_there(trained, written, kind):
  ours = trained[kind]
  read = theirs.Tokenizer.from_str(written[kind].to_str())
  read.encode_special_tokens = False
  a = ours.encode('a')
  assert read.encode(f'a{EOT}a').ids == [*a, ours.eot, *a]
  assert ours.eot not in ours.encode(suit(ours, f'a{EOT}a'))


@pytest.mark.parametrize('kind', KINDS)
def test_ids_that_no_text_gives_decode_to_the_same(trained, written, kind):
  ours, draw = trained[kind], random.Random(0)
  # Byte pieces are left out: where they are not UTF-8, the number of U+FFFD differs.
  ids = [i for i in range(ours.vocab) if not ours.pieces([i])[0].startswith('<0x')]
  assert [written[kind].decode([i]) for i in ids] == [ours.decode([i]) for i in ids]
  for _ in range(100):
    some = draw.choices(ids, k=20)
    assert written[kind].decode(some) == ours.decode(some)


@pytest.mark.parametrize('kind', ['byte_bpe', 'bytes'])
@given(content=st.binary(max_size=100))
@settings(max_examples=100, deadline=None)
def test_bytes_that_are_not_utf8_decode_to_the_same(trained, written, kind, content):
  ids = trained[kind].encode_bytes(content)
  assert written[kind].decode(ids) == trained[kind].decode(ids)


def test_a_character_that_has_no_id_is_an_error_there_too(written):
  with pytest.raises(Exception, match='Missing'):
    written['chars'].encode('hello \x00')


@pytest.mark.parametrize('kind', KINDS)
def test_only_named_files_are_written_and_others_stay(trained, kind, tmp_path):
  (tmp_path / 'config.json').write_text('{}')
  for _ in range(2):  # over those of before, too
    differs = hugging_face.write(trained[kind], tmp_path, 77)
  names = {'config.json', 'tokenizer.json', 'tokenizer_config.json'}
  names |= {'vocab.json', 'merges.txt'} if kind == 'byte_bpe' else set()
  assert {path.name for path in tmp_path.iterdir()} == names
  assert (tmp_path / 'config.json').read_text() == '{}'
  about = json.loads((tmp_path / 'tokenizer_config.json').read_text('utf-8'))
  assert about == {
    'tokenizer_class': 'PreTrainedTokenizerFast',
    'model_max_length': 77,
    'bos_token': EOT,
    'eos_token': EOT,
    'clean_up_tokenization_spaces': False,
  }
  assert bool(differs) == (kind == 'unigram')


def test_other_words_stand_in_tokenizer_json_alone(trained, text, tmp_path):
  parts = trained['byte_bpe']
  words = r'\s+|\d|[^\s\d]+'
  ours = byte_level.ByteLevel(parts._vocab, parts._merges, words=words)
  read = write(ours, tmp_path)
  for odd in (text[:20_000], *ODD.values()):
    assert_same(ours, read, odd)
  assert ours.encode(text) != parts.encode(text)
  # vocab.json and merges.txt would be read as with GPT-2's words.
  assert not (tmp_path / 'vocab.json').exists()
  assert tokenizers.open_path(tmp_path).encode(text) == ours.encode(text)


def test_merges_go_by_their_pairs(tmp_path):
  # "bc" goes first, and then "a", "bc" is no listed pair: "abc" is never made.
  entries = [*byte_level.BYTE_CHARACTERS.values(), 'bc', 'ab', 'abc', EOT]
  vocab = {entry: i for i, entry in enumerate(entries)}
  ours = byte_level.ByteLevel(vocab, [('b', 'c'), ('a', 'b'), ('ab', 'c')])
  assert write(ours, tmp_path).encode('abcab').tokens == ['a', 'bc', 'ab']


def test_a_less_than_sign_without_a_piece_is_its_byte(tmp_path, text):
  ours = tokenizers.train('unigram', [text[:30_000].replace('<', '')], 400)
  read = write(ours, tmp_path)
  assert ours.pieces(ours.encode('<')) == ['<0x3C>']
  for odd in ('<', '<0x41>', '<0x3C>', f'<{MARK}', '<<unk>> a < b', *ODD.values()):
    assert_same(ours, read, odd)


def given_model(text, **options):
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(text[:50_000].split('\n')),
    model_writer=model,
    vocab_size=500,
    minloglevel=2,
    **options,
  )
  return tokenizers.SentencePiece(model.getvalue())


@pytest.fixture(
  scope='module',
  params=[
    (model, fallback, squeeze, prefix)
    for model in ('bpe', 'unigram')
    for fallback, squeeze, prefix in (
      (True, False, True),  # as LLaMA's
      (True, True, True),
      (False, True, False),
      (False, False, False),
    )
  ],
  ids=str,
)
def given_pair(request, text, tmp_path_factory):
  model, fallback, squeeze, prefix = request.param
  ours = given_model(
    text,
    model_type=model,
    byte_fallback=fallback,
    remove_extra_whitespaces=squeeze,
    add_dummy_prefix=prefix,
    normalization_rule_name='identity',
  )
  return ours, write(ours, tmp_path_factory.mktemp('given'))


@given(text=tricky)
@settings(max_examples=100, deadline=None)
def test_any_text_has_the_same_ids_in_a_model_given(given_pair, text):
  assert_same(*given_pair, text)


def test_odd_texts_and_eot_are_the_same_in_a_model_given(given_pair, text):
  ours, read = given_pair
  for odd in (text[:5000], *ODD.values()):
    assert_same(ours, read, odd)
  assert read.decode([ours.eot, *ours.encode('a b'), ours.eot]) == 'a b'
  assert ours.pieces(range(3)) == ['<unk>', '<s>', '</s>']
  assert read.decode([1, 0, 1, 2]) == ours.decode([1, 0, 1, 2]) == ' \u2047 '


def test_only_ways_to_cut_the_same_text_are_tied(trained):
  ours = trained['unigram']
  one, other = ours.encode('\x00'), ours.encode('\x01')  # bytes, with scores of 0
  assert hugging_face._are_tied(ours, one, one)
  assert not hugging_face._are_tied(ours, one, other)


def test_a_model_that_normalises_is_an_error_that_leaves_the_folder(text, tmp_path):
  (tmp_path / 'tokenizer.json').write_text('of before')
  ours = given_model(text, model_type='unigram', normalization_rule_name='nmt_nfkc')
  with pytest.raises(UserError, match=r"text '\\n' has the ids \[\], but \[\d"):
    hugging_face.write(ours, tmp_path, 128)
  assert [path.name for path in tmp_path.iterdir()] == ['tokenizer.json']
  assert (tmp_path / 'tokenizer.json').read_text() == 'of before'


def test_the_given_32k_model_normalises(shared_data, tmp_path):
  (path,) = (shared_data / 'vocab/sentencepiece').glob('*.model')
  with pytest.raises(UserError, match='has the ids'):
    hugging_face.write(tokenizers.open_path(path), tmp_path, 128)
  assert not list(tmp_path.iterdir())


@pytest.fixture(scope='session', params=['gpt2', 'gpt1'])
def released(request, shared_data, tmp_path_factory):
  ours = tokenizers.open_path(shared_data / 'vocab' / request.param, 'basic')
  folder = tmp_path_factory.mktemp(request.param)
  return request.param, ours, write(ours, folder), folder


def test_vocabularies_of_releases_have_the_ids_of_hugging_face(released, text):
  name, ours, read, folder = released
  name = {'gpt1': 'gpt1 basic'}.get(name, name)
  assert [read.encode(text).ids for text in GOLDEN['texts']] == GOLDEN[name]
  for odd in (text[:30_000], *GOLDEN['texts'], *ODD.values()):
    assert_same(ours, read, odd)
  assert read.decode([ours.eot, *ours.encode('hello, you')]) == (
    'hello , you' if ours.kind == 'gpt1' else 'hello, you'
  )
  again = tokenizers.open_path(folder, 'basic')
  assert (again.kind, again.vocab, again.eot) == (ours.kind, ours.vocab, ours.eot)
  assert again.encode(text[:1000]) == ours.encode(text[:1000])


@given(text=tricky)
@settings(max_examples=200, deadline=None)
def test_any_text_has_the_same_ids_in_vocabularies_of_releases(released, text):
  _, ours, read, _ = released
  assert_same(ours, read, text)


def test_any_ids_of_gpt1_decode_to_the_same(released):
  _, ours, read, _ = released
  draw = random.Random(0)
  for _ in range(200):
    ids = draw.choices(range(ours.vocab), k=20)
    assert read.decode(ids) == ours.decode(ids)
  ends = [i for i in range(ours.vocab) if '\n' in ours.pieces([i])[0]]
  assert read.decode(ends * 2) == ours.decode(ends * 2)
  assert read.decode([]) == '' == read.decode([ours.eot])


def test_cleaning_of_the_release_is_said_to_be_lost(tmp_path):
  pytest.importorskip('ftfy')
  pytest.importorskip('spacy')
  entries = '<unk>', 'a', 'a</w>', '-', '-</w>'
  vocab = {entry: i for i, entry in enumerate(entries)}
  ours = gpt1.GPT1(vocab, [], cleaning='release')
  assert 'ftfy' in hugging_face.write(ours, tmp_path, 128)
  read = theirs.Tokenizer.from_file(str(tmp_path / 'tokenizer.json'))
  basic = gpt1.GPT1(vocab, [], cleaning='basic')
  assert read.encode('A--a').ids == basic.encode('A--a') == [2, 4, 4, 2]
  assert ours.encode('A--a') == [2, 3, 4, 2]
  assert not hugging_face.write(basic, tmp_path, 128)


def test_it_imports_without_jax():
  code = 'import sys, gpt_jax.tokenizers.hugging_face; assert "jax" not in sys.modules'
  subprocess.run([sys.executable, '-c', code], check=True, cwd=ROOT)


def assert_same_for_transformers(ours, folder, model, texts):
  transformers = pytest.importorskip(
    'transformers', reason='transformers is not installed: its reading is not tested'
  )
  hugging_face.write(ours, folder, 128)
  (folder / 'config.json').write_text(json.dumps({'model_type': model}))
  read = transformers.AutoTokenizer.from_pretrained(folder)
  for text in texts:
    text = suit(ours, text)
    ids = ours.encode(text)
    assert_same_ids(ours, read(text, split_special_tokens=True)['input_ids'], text)
    assert read.decode(ids) == ours.decode(ids)
    ids = [ours.eot, *ids, ours.eot]
    assert read.decode(ids, skip_special_tokens=True) == ours.decode(ids)
  assert read.encode(EOT) == [ours.eot] == [read.eos_token_id]
  assert (len(read), read.model_max_length) == (ours.vocab, 128)
  assert read.bos_token == read.eos_token == EOT


@pytest.mark.parametrize('model', ['gpt2', 'openai-gpt', 'gpt_neo'])
@pytest.mark.parametrize('kind', KINDS)
def test_transformers_gives_the_same_ids(trained, text, kind, model, tmp_path):
  texts = (text[3000:5000], "a , b . c n't", *ODD.values())
  assert_same_for_transformers(trained[kind], tmp_path, model, texts)


def test_transformers_gives_the_same_ids_with_released_vocabularies(
  released, text, tmp_path
):
  name, ours, _, _ = released
  model = {'gpt1': 'openai-gpt', 'gpt2': 'gpt2'}[name]
  texts = (text[:5000], *GOLDEN['texts'], *ODD.values())
  assert_same_for_transformers(ours, tmp_path, model, texts)
