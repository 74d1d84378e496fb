"""Tokenizers: what they lose (nothing), what they equal, and how they fail."""

import hashlib
import json
import pathlib
import re
import subprocess
import sys
import tarfile

import numpy as np
import pytest
import regex
import tokenizers as their_tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt_jax import tokenizers
from gpt_jax.config import UserError
from gpt_jax.tokenizers import byte_level, gpt1, sentencepiece_model, texts
from gpt_jax.tokenizers.bpe_files import read_bpe
from gpt_jax.tokenizers.texts import even_sample

ROOT = pathlib.Path(__file__).resolve().parent.parent
GOLDEN = json.loads((ROOT / 'tests/goldens/tokenizers.json').read_text('utf-8'))
# What breaks tokenizers: see the names.
ODD = {
  'nothing': '',
  'blanks': '  \t\n\r\n \u00a0\u2028\u3000 ',
  'NUL and other controls': 'a\x00b\x01\x7f\x85',
  'combining marks': 'cafe\u0301 Z\u0351\u0343\u0342 \u0301',
  'emoji': '👩‍👩‍👧‍👦🇫🇷👍🏽',
  'right to left': 'שלום \u202eabc\u202c مرحبا',
  'looks like a special token': '<|endoftext|><unk><0x41></s>\u2585',
  'the mark of SentencePiece': '\u2581a\u2581\u2581 \u2581',
  'one repeated character': 'a' * 30_000,
  'one repeated blank': ' ' * 30_000,
  'one repeated letter outside ASCII': 'é' * 10_000,
}
# Characters that meet in few texts, so that hypothesis finds them together.
tricky = st.text(
  st.one_of(
    st.sampled_from(' \n\t\u2581\u2585\ufffd\x00\u0301\u05e9\u200d👍ﬁaA1.\'"<|>'),
    st.characters(codec='utf-8'),
  )
)


@pytest.fixture(scope='session')
def beginning(text):
  return text[:1000]


LOSSLESS = 'bpe', 'unigram', 'byte_bpe', 'bytes'
KINDS = *LOSSLESS, 'chars'


@pytest.mark.parametrize('kind', LOSSLESS)
@pytest.mark.parametrize('odd', ODD.values(), ids=ODD)
def test_odd_texts_come_back(trained, kind, odd):
  tokenizer = trained[kind]
  ids = tokenizer.encode(odd)
  assert tokenizer.decode(ids) == odd
  assert tokenizer.eot not in ids
  assert all(0 <= i < tokenizer.vocab for i in ids)


@pytest.mark.parametrize('kind', LOSSLESS)
@given(text=tricky)
@settings(max_examples=150, deadline=None)
def test_any_text_comes_back(trained, kind, text):
  tokenizer = trained[kind]
  ids = tokenizer.encode(text)
  assert tokenizer.decode(ids) == text
  assert tokenizer.encode_array(text).tolist() == ids
  assert len(tokenizer.pieces(ids)) == len(ids)


@pytest.mark.parametrize('kind', LOSSLESS)
def test_a_lone_surrogate_becomes_the_replacement_character(trained, kind):
  tokenizer = trained[kind]
  assert tokenizer.decode(tokenizer.encode('a\ud800b\udfff')) == 'a\ufffdb\ufffd'


@pytest.mark.parametrize('kind', ['byte_bpe', 'bytes'])
@given(content=st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_any_bytes_come_back(trained, kind, content):
  tokenizer = trained[kind]
  ids = tokenizer.encode_bytes(content)
  assert tokenizer.decode_bytes(ids) == content
  assert tokenizer.decode(ids) == content.decode(errors='replace')
  assert tokenizer.eot not in ids


@pytest.mark.parametrize('kind', KINDS)
def test_a_tokenizer_is_the_same_after_saving_and_loading(
  trained, kind, text, tmp_path
):
  before = trained[kind]
  before.save(tmp_path / 'a')
  after = tokenizers.load(tmp_path / 'a')
  assert (after.kind, after.vocab, after.eot) == (kind, before.vocab, before.eot)
  assert after.unknown == before.unknown
  assert after.encode(text[:20_000]) == before.encode(text[:20_000])
  assert after.pieces(range(after.vocab)) == before.pieces(range(before.vocab))
  after.save(tmp_path / 'b')
  assert tokenizers.digest(tmp_path / 'a') == tokenizers.digest(tmp_path / 'b')


@pytest.mark.parametrize('kind', KINDS)
def test_training_twice_gives_the_same_tokenizer(trained, kind, text, tmp_path):
  trained[kind].save(tmp_path / 'a')
  again = tokenizers.train(kind, [text], trained[kind].vocab)
  again.save(tmp_path / 'b')
  assert tokenizers.digest(tmp_path / 'a') == tokenizers.digest(tmp_path / 'b')


@pytest.mark.parametrize('kind', KINDS)
def test_the_digest_tells_tokenizers_apart(trained, kind, text, tmp_path):
  trained[kind].save(tmp_path / 'a')
  for other in KINDS:
    trained[other].save(tmp_path / other)
  same = [
    k
    for k in KINDS
    if tokenizers.digest(tmp_path / k) == tokenizers.digest(tmp_path / 'a')
  ]
  assert same == [kind]


@pytest.mark.parametrize('kind', KINDS)
def test_eot_decodes_to_nothing_and_growing_ids_to_growing_text(trained, kind, text):
  tokenizer = trained[kind]
  sample = text[3000:3300]
  ids = [tokenizer.eot, *tokenizer.encode(sample)]
  assert tokenizer.decode(ids[:1]) == ''
  assert tokenizer.decode(np.array(ids)) == sample  # numpy's integers will do
  shown = [tokenizer.decode(ids[:n]) for n in range(len(ids) + 1)]
  assert all(b.startswith(a) for a, b in zip(shown, shown[1:], strict=False))


def test_characters_are_those_of_the_text_in_code_point_order():
  tokenizer = tokenizers.train('chars', ['hello', ' wörld\n'], 0)
  assert ''.join(tokenizer.pieces(range(tokenizer.eot))) == '\n dehlorwö'
  assert tokenizer.encode('hö') == [4, 9]
  assert tokenizer.decode([4, 10, 9]) == 'hö'


@pytest.mark.parametrize('character', ['x', '\x00', '€', '\ud800', '👍'])
def test_an_unknown_character_is_an_error_with_its_position(character):
  tokenizer = tokenizers.train('chars', ['hello'], 0)
  with pytest.raises(UserError, match=f'U\\+{ord(character):04X}.* position 3 '):
    tokenizer.encode(f'hel{character}o')


@pytest.mark.parametrize('kind', ['bpe', 'unigram'])
def test_pieces_of_line_ends_and_blanks_are_learnt(trained, kind):
  pieces = trained[kind].pieces(range(trained[kind].vocab))
  assert any('\n' in piece[1:] for piece in pieces)
  assert '\u2581' * 3 in pieces
  assert pieces[trained[kind].eot] == '<|endoftext|>'


@given(text=tricky, size=st.integers(1, 300))
@settings(max_examples=100, deadline=None)
def test_runs_that_no_piece_crosses_give_the_ids_of_the_whole(
  trained, beginning, text, size
):
  tokenizer = trained['bpe']
  whole = f'{beginning}{text}{beginning[::-1]}' + text * 50
  assert tokenizer.decode(tokenizer.encode(whole)) == whole
  # `encode` cuts a text at the mark of SentencePiece before it makes runs: alone, the
  # processor takes the mark for a blank.
  whole = whole.replace('\u2581', '')
  runs = list(tokenizer._runs(whole, size))
  assert ''.join(runs) == whole
  ids = [tokenizer._processor.encode(run) for run in runs]
  assert sum(ids, []) == tokenizer._processor.encode(whole)


def test_long_english_is_cut_into_many_runs_and_keeps_its_ids(trained, text):
  tokenizer = trained['bpe']
  size = sentencepiece_model._RUN
  assert len(list(tokenizer._runs(text, size))) > len(text) / size / 2
  assert tokenizer.encode(text) == tokenizer._processor.encode(text)


def test_bpe_without_dropped_merges_gives_the_ids_of_sentencepiece(trained, text):
  tokenizer = trained['bpe']
  sample = text[:30_000] + ''.join(ODD.values())
  assert tokenizer.sample(sample, 0.0, 0) == tokenizer.encode(sample)


@pytest.mark.parametrize('kind', ['bpe', 'unigram'])
def test_sampling_is_as_rough_as_that_of_sentencepiece(trained, kind, text):
  tokenizer, sample = trained[kind], text[:60_000]
  ours = len(tokenizer.sample(sample, 0.2, 0))
  theirs = [
    len(
      tokenizer._processor.encode(
        line, enable_sampling=True, alpha=0.2, nbest_size=-1 if kind == 'bpe' else 64
      )
    )
    for line in tokenizer._runs(sample, 1)
  ]
  assert abs(ours / sum(theirs) - 1) < 0.02  # 6 standard deviations, measured


@pytest.mark.parametrize('kind', ['bpe', 'unigram'])
def test_sampling_cuts_one_text_in_many_ways_each_by_its_seed(trained, kind, text):
  tokenizer, sample = trained[kind], text[1000:1400] + ' \u2581 end'
  drawn = [tokenizer.sample(sample, 0.2, seed) for seed in range(5)]
  assert drawn == [tokenizer.sample(sample, 0.2, seed) for seed in range(5)]
  assert len(set(map(tuple, drawn))) == 5
  assert {tokenizer.decode(ids) for ids in drawn} == {sample}
  assert min(map(len, drawn)) > len(tokenizer.encode(sample))


def test_a_seed_draws_the_same_in_another_process(trained, text, tmp_path):
  code = (
    'import sys; from gpt_jax import tokenizers; '
    'print(tokenizers.load(sys.argv[1]).sample(sys.argv[2], 0.2, 7))'
  )
  for kind in ('bpe', 'unigram'):
    trained[kind].save(tmp_path / kind)
    command = [sys.executable, '-c', code, str(tmp_path / kind), text[:2000]]
    out = subprocess.run(command, capture_output=True, text=True, cwd=ROOT).stdout
    assert json.loads(out) == trained[kind].sample(text[:2000], 0.2, 7)


@pytest.mark.parametrize(
  ('kind', 'vocab', 'wanted'),
  [
    ('bpe', 100_000, 'too large for this text.*data.vocab=[0-9]+ or less'),
    ('unigram', 100_000, 'too large for this text.*data.vocab=[0-9]+ or less'),
    ('byte_bpe', 1_000_000, 'too large for this text.*data.vocab=[0-9]+ or less'),
    ('bpe', 200, 'too small.*data.vocab=[0-9]+ or more'),
    ('unigram', 200, 'too small.*data.vocab=[0-9]+ or more'),
    ('byte_bpe', 200, 'too small.*data.vocab=257 or more'),
  ],
)
def test_the_advice_about_a_vocabulary_of_the_wrong_size_works(
  text, kind, vocab, wanted
):
  part = [text[:20_000]]
  with pytest.raises(UserError, match=wanted) as e:
    tokenizers.train(kind, part, vocab)
  advised = int(str(e.value).rsplit('data.vocab=', 1)[1].split()[0])
  assert tokenizers.train(kind, part, advised).vocab == advised


def test_the_sample_to_learn_from_is_spread_evenly_and_bounded():
  texts = [str(i % 10) * 100 for i in range(1000)]
  kept = even_sample(iter(texts), 5000)
  assert 2500 <= sum(map(len, kept)) <= 5000
  assert kept == texts[:: 1000 // len(kept) + 1]
  assert even_sample(iter(texts), 100_000) == texts


def test_a_byte_level_bpe_trained_here_is_the_vocabulary_of_tokenizers(trained, text):
  theirs = their_tokenizers.ByteLevelBPETokenizer()
  theirs.train_from_iterator([text], 999, min_frequency=0, show_progress=False)
  ours = trained['byte_bpe']
  assert theirs.get_vocab() == {
    piece: i for i, piece in enumerate(ours.pieces(range(999)))
  }
  assert ours.eot == 999 and ours.vocab == 1000
  assert ours._tiktoken is not None
  assert ours.encode(text) == theirs.encode(text).ids


@given(text=tricky)
@settings(max_examples=200, deadline=None)
def test_tiktoken_gives_the_ids_of_tokenizers(trained, text):
  ours = trained['byte_bpe']
  theirs = byte_level.pipeline(ours._vocab, ours._merges, byte_level.GPT2_WORDS)
  assert ours.encode(text) == theirs.encode(text).ids


def byte_vocabulary(*more):
  entries = [*byte_level.BYTE_CHARACTERS.values(), *more]
  return {entry: i for i, entry in enumerate(entries)}


def test_merges_that_tiktoken_would_do_otherwise_are_left_to_tokenizers(tmp_path):
  # "bc" goes first, and then "a", "bc" is no listed pair: "abc" is never made.
  merges = [('b', 'c'), ('a', 'b'), ('ab', 'c')]
  vocab = byte_vocabulary('bc', 'ab', 'abc', '<|endoftext|>')
  byte_level.ByteLevel(vocab, merges).save(tmp_path)
  for tokenizer in (byte_level.ByteLevel(vocab, merges), tokenizers.load(tmp_path)):
    assert tokenizer._tiktoken is None
    assert tokenizer.pieces(tokenizer.encode('abcab')) == ['a', 'bc', 'ab']
  merges[:2] = merges[1::-1]
  tokenizer = byte_level.ByteLevel(vocab, merges)
  assert tokenizer._tiktoken is not None
  assert tokenizer.pieces(tokenizer.encode('abcab')) == ['abc', 'ab']


def test_ids_need_not_follow_the_order_of_merges():
  merges = [('a', 'b'), ('ab', 'c')]
  entries = [
    '<|endoftext|>',
    'abc',
    *byte_level.BYTE_CHARACTERS.values(),
    '<pad>',
    'ab',
  ]
  tokenizer = byte_level.ByteLevel({e: i for i, e in enumerate(entries)}, merges)
  assert tokenizer.eot == 0
  assert tokenizer.pieces(tokenizer.encode('abcab<pad>')) == ['abc', 'ab', *'<pad>']
  assert tokenizer.decode([1, 0, 258, 259]) == 'abc<pad>ab'


@pytest.mark.parametrize(
  ('change', 'wanted'),
  [
    (lambda v, m: m.append(('a', 'x')), r"merge 2 \('a', 'x'\) does not fit.*no 'ax'"),
    (lambda v, m: v.pop('a'), 'ids of its'),
    (lambda v, m: v.update(Q='Q'), 'is no entry with its id'),
    (lambda v, m: v.update({'ab': 0}), 'ids of its'),
    (lambda v, m: v.update({'Q2': v.pop('Q')}), "must have, among them 'Q'"),
    (lambda v, m: v.update({'end': v.pop('<|endoftext|>')}), 'no entry <|endoftext|>'),
    (lambda v, m: m.append(('a', 'b', 'c')), 'line 3 is not two entries'),
  ],
)
def test_files_that_do_not_fit_each_other_are_an_error(tmp_path, change, wanted):
  vocab, merges = byte_vocabulary('ab', '<|endoftext|>'), [('a', 'b')]
  change(vocab, merges)
  (tmp_path / 'vocab.json').write_text(json.dumps(vocab))
  content = '\n'.join(['#version: 0.2', *map(' '.join, merges)])
  (tmp_path / 'merges.txt').write_text(content)
  with pytest.raises(UserError, match=wanted):
    tokenizers.open_path(tmp_path)


def test_a_tokenizer_json_gives_the_ids_of_its_files(trained, text, tmp_path):
  ours = trained['byte_bpe']
  for i, words in enumerate((byte_level.GPT2_WORDS, r'\s+|\d|[^\s\d]+')):
    theirs = byte_level.pipeline(ours._vocab, ours._merges, words)
    theirs.add_special_tokens(['<|endoftext|>'])
    theirs.save(str(tmp_path / f'{i}.json'))
    opened = tokenizers.open_path(tmp_path / f'{i}.json')
    theirs.encode_special_tokens = True
    sample = text[:50_000] + ''.join(ODD.values())
    assert opened.encode(sample) == theirs.encode(sample).ids
    opened.save(tmp_path / 'saved')
    assert tokenizers.load(tmp_path / 'saved').encode(sample) == opened.encode(sample)


def test_a_tokenizer_json_of_another_kind_is_an_error_that_says_what_differs(tmp_path):
  path = tmp_path / 'tokenizer.json'
  theirs = their_tokenizers.Tokenizer(their_tokenizers.models.WordPiece({'a': 0}))
  theirs.normalizer = their_tokenizers.normalizers.NFC()
  theirs.save(str(path))
  with pytest.raises(UserError, match='WordPiece.*normalizer.*pre_tokenizer'):
    tokenizers.open_path(tmp_path)
  path.write_text('{}')
  with pytest.raises(UserError, match=r"tokenizer\.json is damaged: it lacks 'model'"):
    tokenizers.open_path(path)


@pytest.mark.parametrize(
  ('name', 'content', 'wanted'),
  [
    ('a.model', b'not a model', 'a.model: not a SentencePiece model'),
    ('a.model', b'', 'a.model: not a SentencePiece model'),
    ('kind.json', b'{"kind": "new"}', "kind='new' is unknown"),
    ('kind.json', b'{"kind":', 'damaged'),
    ('kind.json', b'{"kind": "bpe"}', 'sentencepiece.model: can not be read'),
    ('kind.json', b'{"kind": "chars"}', 'damaged'),
    ('other', b'', 'holds no tokenizer'),
  ],
)
def test_damaged_tokenizer_files_are_errors_that_name_them(
  tmp_path, name, content, wanted
):
  (tmp_path / name).write_bytes(content)
  with pytest.raises(UserError, match=wanted):
    tokenizers.open_path(tmp_path)


def test_a_missing_tokenizer_is_an_error(tmp_path):
  for reader, message in (
    (tokenizers.open_path, 'holds no tokenizer; give one of'),
    (tokenizers.open_model, 'can not be read: No such file'),
    (tokenizers.load, 'holds no tokenizer: there is no kind.json in it'),
  ):
    with pytest.raises(UserError, match=f'nowhere: {message}'):
      reader(tmp_path / 'nowhere')


def test_a_given_sentencepiece_model_takes_its_own_end_of_text(shared_data):
  (path,) = (shared_data / 'vocab/sentencepiece').glob('*.model')
  tokenizer = tokenizers.open_path(path)
  assert tokenizer.kind == 'sentencepiece'
  assert tokenizer.pieces([tokenizer.eot]) == ['</s>']
  assert tokenizer.decode(tokenizer.encode('Hello world')) == 'Hello world'
  assert tokenizers.open_path(path.parent).vocab == tokenizer.vocab


@pytest.fixture(scope='session')
def gpt2(shared_data):
  return tokenizers.open_path(shared_data / 'vocab/gpt2')


@pytest.fixture(scope='session')
def gpt1_basic(shared_data):
  return tokenizers.open_path(shared_data / 'vocab/gpt1', 'basic')


def test_gpt2_gives_the_ids_of_hugging_face(gpt2):
  assert (gpt2.kind, gpt2.vocab, gpt2.eot) == ('byte_bpe', 50257, 50256)
  assert [gpt2.encode(text) for text in GOLDEN['texts']] == GOLDEN['gpt2']


@pytest.mark.parametrize(
  'names', [('encoder.json', 'vocab.bpe'), ('vocab.json', 'merges.txt')]
)
def test_gpt2_is_read_by_the_names_of_its_release_and_of_hugging_face(
  gpt2, shared_data, tmp_path, names
):
  for old, new in zip(('vocab.json', 'merges.txt'), names, strict=True):
    (tmp_path / new).write_bytes((shared_data / 'vocab/gpt2' / old).read_bytes())
  opened = tokenizers.open_path(tmp_path)
  assert opened.encode('Hello world') == [15496, 995] == gpt2.encode('Hello world')
  opened.save(tmp_path / 'a')
  gpt2.save(tmp_path / 'b')
  assert tokenizers.digest(tmp_path / 'a') == tokenizers.digest(tmp_path / 'b')


def test_gpt2_gives_the_ids_of_hugging_face_on_all_the_data_at_hand(gpt2, shared_data):
  differing = []
  for name, wanted in GOLDEN['gpt2 digests'].items():
    archive, _, member = name.partition('.tar.xz/')
    if member:
      with tarfile.open(shared_data / f'{archive}.tar.xz') as opened:
        content = opened.extractfile(member).read()
    else:
      content = (shared_data / name).read_bytes()
    ids = gpt2.encode_array(content.decode())
    if hashlib.sha256(ids.astype('<u4').tobytes()).hexdigest() != wanted:
      differing.append(name)
  assert len(GOLDEN['gpt2 digests']) > 100
  assert not differing


@given(content=st.binary(max_size=100), text=tricky)
@settings(max_examples=200, deadline=None)
def test_any_bytes_and_texts_come_back_from_gpt2(gpt2, content, text):
  assert gpt2.decode_bytes(gpt2.encode_bytes(content)) == content
  assert gpt2.decode(gpt2.encode(text)) == text


def test_gpt1_gives_the_ids_of_hugging_face_after_basic_cleaning(gpt1_basic):
  assert (gpt1_basic.vocab, gpt1_basic.eot) == (40479, 40478)
  assert [gpt1_basic.encode(text) for text in GOLDEN['texts']] == GOLDEN['gpt1 basic']


def test_gpt1_gives_the_ids_of_the_release_rules(shared_data, tmp_path):
  pytest.importorskip('ftfy')
  pytest.importorskip('spacy')
  tokenizer = tokenizers.open_path(shared_data / 'vocab/gpt1')
  assert tokenizer.cleaning == 'release'
  assert [tokenizer.encode(t) for t in GOLDEN['texts']] == GOLDEN['gpt1 release']
  tokenizer.save(tmp_path)
  assert tokenizers.load(tmp_path).cleaning == 'release'


def test_gpt1_of_hugging_face_files_is_known_by_its_word_ends(shared_data, tmp_path):
  folder = shared_data / 'vocab/gpt1'
  for old, new in (
    ('encoder_bpe_40000.json', 'vocab.json'),
    ('vocab_40000.bpe', 'merges.txt'),
  ):
    (tmp_path / new).write_bytes((folder / old).read_bytes())
  opened = tokenizers.open_path(tmp_path, 'basic')
  assert opened.kind == 'gpt1'
  assert opened.encode('Hello there') == [3570, 655]


def test_gpt1_decodes_words_apart_and_line_ends_as_they_were(gpt1_basic):
  ids = gpt1_basic.encode('Hello, world') + [40477] + gpt1_basic.encode('She left')
  assert gpt1_basic.decode([gpt1_basic.eot, *ids]) == 'hello , world \nshe left'
  assert gpt1_basic.unknown == {0}
  assert 0 in gpt1_basic.encode('日')


def test_gpt1_cleaning_follows_the_release():
  clean = gpt1.standardize
  assert clean('a—b–c―d…e´f') == "a - b - c - d...e'f"
  assert clean('--!!x"(a),[b]*/') == '--  !! x " ( a ) ,  [ b ] * /'.replace('  ', ' ')
  assert clean(' a \n\n \t b\r\nc  d\t') == 'a \n b \n c d'
  assert clean('a\\b++\\') == 'a\\b ++ \\'  # its pattern for these is no raw string


def test_gpt1_leaves_a_backslash_within_its_word_as_the_release_does(shared_data):
  pytest.importorskip('ftfy')
  pytest.importorskip('spacy')
  tokenizer = tokenizers.open_path(shared_data / 'vocab/gpt1', 'release')
  assert tokenizer.encode('a\\b') == [8, 127, 259]


def test_release_cleaning_without_its_packages_says_what_to_install(monkeypatch):
  monkeypatch.setitem(sys.modules, 'ftfy', None)
  with pytest.raises(UserError, match='pip install ftfy spacy'):
    gpt1._choose_cleaning('release')
  assert gpt1._choose_cleaning('auto') == 'basic'


def test_special_tokens_by_name(trained):
  """Their names are those tokens only where that is asked for."""
  tokenizer = trained['byte_bpe']
  text = 'a<|endoftext|> b'
  expected = [*tokenizer.encode('a'), tokenizer.eot, *tokenizer.encode(' b')]
  assert tokenizers.encode_special(tokenizer, text) == expected
  assert tokenizer.eot not in tokenizer.encode(text)
  assert tokenizers.encode_special(tokenizer, '') == []


def test_a_merge_of_number_signs_is_no_comment(tmp_path):
  (tmp_path / 'vocab.json').write_text('{"#": 0, "##": 1}')
  (tmp_path / 'merges.txt').write_text('#version: 0.2\n# #\n')
  _, merges = read_bpe(tmp_path / 'vocab.json', tmp_path / 'merges.txt')
  assert merges == [('#', '#')]


def test_the_digest_knows_which_file_holds_what(tmp_path):
  digests = set()
  for names in (('a', 'b'), ('a', 'c'), ('b', 'a')):
    folder = tmp_path / ''.join(names)
    folder.mkdir()
    for name, content in zip(names, ('x', 'y'), strict=True):
      (folder / name).write_text(content)
    digests.add(tokenizers.digest(folder))
  assert len(digests) == 3


def test_words_are_cut_as_by_the_byte_level_splitter_of_tokenizers():
  text = "I'll say it's 12345 things, 3½  or  more...\n\n\t x=1;--\r\n"
  text += " don't 日本42 \u2028 é "
  splitter = their_tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
  wanted = [text[a:b] for _, (a, b) in splitter.pre_tokenize_str(text)]
  assert regex.findall(byte_level.GPT2_WORDS, text) == wanted
  assert ' 12345' in wanted


def test_gpt1_reads_words_in_lower_case():
  pytest.importorskip('ftfy')
  pytest.importorskip('spacy')
  vocab = {'<unk>': 0, 'a': 1, 'b': 2, 'a</w>': 3, 'b</w>': 4, 'ab</w>': 5}
  for cleaning in ('release', 'basic'):
    made = gpt1.GPT1(vocab, [('a', 'b</w>')], cleaning=cleaning)
    assert made.encode('Ab A b') == made.encode('ab a b') == [5, 3, 4]
    assert made.decode([5, made.eot, 3, 4]) == 'ab a b'


def test_of_two_names_that_begin_alike_the_longer_counts():
  tokenizer = tokenizers.Bytes()
  tokenizer.added = {'<a': 300, '<a>': 301}
  assert tokenizers.encode_special(tokenizer, 'x<a>y<a') == [120, 301, 121, 300]


# --- Characters of others


SHAKESPEARE = "\n !$&',-.3:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


@pytest.mark.parametrize('form', ['list', 'object', 'turned'])
def test_characters_of_others_have_no_end_of_text_of_their_own(tmp_path, form):
  """As nanoGPT has them: 65, of which none ends a text."""
  order = SHAKESPEARE[::-1] if form == 'turned' else SHAKESPEARE
  ids = {character: i for i, character in enumerate(order)}
  shuffled = dict(sorted(ids.items(), key=lambda item: hash_of(item[0])))
  (tmp_path / 'chars.json').write_text(
    json.dumps(list(order) if form == 'list' else shuffled)
  )
  opened = tokenizers.open_path(tmp_path / 'chars.json')
  assert (opened.kind, opened.vocab, opened.eot) == ('chars', 65, 65)
  text = 'To be, or not:\nBE!'
  assert opened.encode(text) == [ids[character] for character in text]
  assert opened.decode([65, *opened.encode(text)]) == text
  opened.save(tmp_path / 'saved')
  again = tokenizers.load(tmp_path / 'saved')
  assert (again.vocab, again.eot, again.encode(text)) == (65, 65, opened.encode(text))
  assert tokenizers.start_of_text(again) == ids['\n']
  with pytest.raises(UserError, match="character 'é'"):
    opened.encode('é')


def test_a_document_begins_after_its_end_of_text_if_there_is_one():
  start = tokenizers.start_of_text
  assert start(tokenizers.Characters('ab\n')) == 3
  assert start(tokenizers.Characters('ab\n', end=False)) == 2
  assert start(tokenizers.Characters('ab', end=False)) == 0
  assert start(tokenizers.Numbers(7, 7)) == 7 and start(tokenizers.Bytes()) == 256


def hash_of(character):
  return hashlib.sha256(character.encode()).hexdigest()


def test_characters_of_others_may_have_an_end_of_text(tmp_path):
  (tmp_path / 'chars.json').write_text(json.dumps(['b', 'a', '<|endoftext|>']))
  opened = tokenizers.open_path(tmp_path / 'chars.json')
  assert (opened.vocab, opened.eot, opened.encode('ab')) == (3, 2, [1, 0])
  opened.save(tmp_path / 'saved')
  assert tokenizers.load(tmp_path / 'saved').encode('ab') == [1, 0]


def test_folders_of_older_versions_are_what_they_were(tmp_path):
  trained = tokenizers.train('chars', ['bca'], 0)
  trained.save(tmp_path)
  kept = json.loads((tmp_path / 'kind.json').read_text())
  assert kept == {'kind': 'chars', 'characters': 'abc'}
  assert (trained.vocab, trained.eot) == (4, 3)
  (tmp_path / 'kind.json').write_text('{"kind": "chars", "characters": "cab"}')
  assert tokenizers.load(tmp_path).encode('abc') == [0, 1, 2]


@pytest.mark.parametrize(
  ('name', 'content', 'wanted'),
  [
    ('c.json', '{"a": 0, "b": 2}', 'the ids of its 2 characters must be 0 .. 1'),
    ('c.json', '["a", "b", "a"]', '1 of its characters are there twice'),
    ('c.json', '["a", "<|endoftext|>", "b"]', 'c.json is damaged: list instead of'),
    ('c.json', '{"ab": 0}', "lacks 'model'"),
    ('c.json', '["a"', 'not JSON'),
    ('meta.pkl', '', "is a pickle, which runs code, .*'stoi'"),
  ],
)
def test_other_lists_of_characters_are_refused(tmp_path, name, content, wanted):
  (tmp_path / name).write_text(content)
  with pytest.raises(UserError, match=wanted):
    tokenizers.open_path(tmp_path / name)


# --- Words of any length


BLOWN_UP = ['a', 'ab', '-', ' ', '\n', '7', '日', '🙂', "'", 'a.']


@pytest.mark.parametrize('unit', BLOWN_UP)
def test_trainers_are_given_no_long_word(unit):
  text = f'Before it {unit * 3000} and after'
  pieces = list(texts.with_short_words(text, byte_level._LONG_WORDS))
  assert ''.join(pieces) == text
  words = [w for p in pieces for w in regex.findall(byte_level.GPT2_WORDS, p)]
  assert max(map(len, words)) <= 257  # with the blank before it
  sentences = list(sentencepiece_model._sentences('unigram', [text]))
  assert ''.join(sentences) == text
  longest = max(
    len(run) for each in sentences for run in regex.findall('[^ ]+| +', each)
  )
  assert longest <= 256
  assert list(sentencepiece_model._sentences('bpe', [text])) == [text]


def test_texts_of_people_are_given_whole(shared_data):
  for name in ('tinyshakespeare.txt', 'wikitext-2/valid.txt'):
    text = (shared_data / 'text' / name).read_text(encoding='utf-8')
    assert list(texts.with_short_words(text, byte_level._LONG_WORDS)) == [text]
    assert list(sentencepiece_model._sentences('unigram', [text])) == [text]
  # Without blanks, as Chinese is written, but not the same over and over.
  prose = text.replace(' ', '')[:8192]
  assert list(sentencepiece_model._sentences('unigram', [prose])) == [prose]
  word = 'a' * 256
  assert list(texts.with_short_words(word, byte_level._LONG_WORDS)) == [word]


@pytest.mark.parametrize('kind', ['byte_bpe', 'bpe', 'unigram'])
def test_a_run_of_equal_characters_is_learnt_from_and_comes_back(kind):
  run = 'a' * 100_000
  prose = (pathlib.Path(byte_level.__file__)).read_text()
  trained = tokenizers.train(kind, [prose, run], 500)
  assert max(len(piece) for piece in trained.pieces(range(trained.vocab))) <= 256
  for text in (run, prose + run):
    assert trained.decode(trained.encode(text)) == text


@given(st.text(st.sampled_from(' \n\t\r\x0b\u00a0\u2028ab'), max_size=30))
def test_blanks_and_line_ends_are_what_the_release_s_expression_makes_of_them(text):
  wanted = re.sub(r'\s*\n\s*', ' \n ', text)
  assert gpt1.standardize(text) == re.sub(r'[^\S\n]+', ' ', wanted).strip()


def test_many_blanks_are_read_in_passing():
  # By the release's own expression they take half a minute.
  assert gpt1.standardize('a' + ' ' * 150_000 + 'b') == 'a b'


def test_words_that_spacy_gets_are_bounded(shared_data, monkeypatch):
  pytest.importorskip('ftfy')
  pytest.importorskip('spacy')
  tokenizer = tokenizers.open_path(shared_data / 'vocab/gpt1', 'release')
  cut, given = tokenizer._cut, []
  monkeypatch.setattr(tokenizer, '_cut', lambda text: given.append(text) or cut(text))
  address = 'https' + '.x' * 300
  tokenizer.encode(f'see {address} now {"x" * 3000} end')
  assert ''.join(given) == f'see {address} now {"x" * 3000} end'
  assert max(len(word) for each in given for word in each.split()) == len(address)


def test_an_end_of_text_that_is_no_entry_can_not_be_named():
  letters = tokenizers.Characters('abc', end=False)
  assert tokenizers.special_tokens(letters) == {}
  assert tokenizers.encode_special(letters, 'ab') == [0, 1]
  with pytest.raises(UserError, match="character '<'"):
    tokenizers.encode_special(letters, 'a<|endoftext|>')
