"""The published models: their exact sizes, by shapes alone."""

import jax
import pytest

from gpt_jax import config
from gpt_jax.config import UserError, papers
from gpt_jax.model.gpt import init_params
from gpt_jax.model.gpt_config import GPTConfig
from gpt_jax.runs.cost import parameter_count

# Computed from the tables for a vocabulary of 50,257 (GPT-1: 40,478); GPT-2's 124M is
# also what llm.c prints.
COUNTS = {
  ('gpt1', None): 116_534_784,
  ('gpt2', '124M'): 124_439_808,
  ('gpt2', '355M'): 354_823_168,
  ('gpt2', '774M'): 774_030_080,
  ('gpt2', '1558M'): 1_557_611_200,
  ('gpt3', 'Small'): 125_226_240,
  ('gpt3', 'Medium'): 355_871_744,
  ('gpt3', 'Large'): 760_300_032,
  ('gpt3', 'XL'): 1_315_723_264,
  ('gpt3', '2.7B'): 2_651_553_280,
  ('gpt3', '6.7B'): 6_658_404_352,
  ('gpt3', '13B'): 12_853_386_240,
  ('gpt3', '175B'): 174_604_259_328,
  ('dialogpt', '117M'): 124_439_808,
  ('dialogpt', '345M'): 354_823_168,
  ('dialogpt', '762M'): 774_030_080,
}


def published(family, size):
  return getattr(papers, family)(*[size] * (size is not None))


@pytest.mark.parametrize('family, size', COUNTS)
def test_a_published_model_has_exactly_its_parameters(family, size):
  cfg = GPTConfig.of(published(family, size), vocab=0)
  assert parameter_count(cfg) == COUNTS[family, size]


def test_every_published_size_is_counted():
  assert {size for family, size in COUNTS if family == 'gpt2'} == set(papers.GPT2_SIZES)
  assert {size for family, size in COUNTS if family == 'gpt3'} == set(papers.GPT3_SIZES)
  sizes = {size for family, size in COUNTS if family == 'dialogpt'}
  assert sizes == set(papers.DIALOGPT_SIZES)


@pytest.mark.parametrize('family, size', COUNTS)
def test_a_published_model_is_a_valid_config(family, size):
  config.check(config.Run(model=published(family, size)))


def test_gpt1_has_24_layer_norms_and_gpt2_25():
  def norms(model):
    cfg = GPTConfig.of(model, vocab=0)
    tree = jax.eval_shape(lambda: init_params(cfg, 0))
    paths = jax.tree_util.tree_leaves_with_path(tree)
    return sum(path[-1].key == 'scale' for path, _ in paths)

  assert norms(papers.gpt1()) == 24
  assert norms(papers.gpt2('124M')) == 25


def test_gpt3_alternates_unless_told_otherwise():
  def kinds(**fields):
    return GPTConfig.of(papers.gpt3('Small', **fields), vocab=0).attention

  assert kinds() == ('dense', 'banded') * 6
  assert kinds(banded=False) == ('dense',) * 12


def test_an_unknown_size_is_an_error_that_names_the_sizes():
  with pytest.raises(UserError, match='must be one of 124M, 355M'):
    papers.gpt2('124m')


# Table 2.1 of GPT-3 (Brown et al. 2020), d_head; GPT-2's released heads are all of 64.
HEADS = {'Large': 96, 'XL': 128, '2.7B': 80, '6.7B': 128, '13B': 128, '175B': 128}


@pytest.mark.parametrize('family, size', COUNTS)
def test_heads_are_as_wide_as_the_papers_say(family, size):
  model = published(family, size)
  wide = model.D // model.N
  assert wide == HEADS.get(size, 64)


def test_gpt1_and_dialogpt_have_dropout_and_gpt2_has_none():
  rates = [m.dropout for m in (papers.gpt1(), papers.dialogpt(), papers.gpt2())]
  assert rates == [0.1, 0.1, 0.0]
  assert papers.gpt1().dropout_wte and not papers.dialogpt().dropout_wte


def test_fine_tuning_has_the_numbers_of_gpt1_s_paper():
  run = papers.gpt1_finetuning('rte')
  # Radford et al. 2018, section 4.1, "Fine-tuning details".
  assert (run.optim.lr, run.batch, run.task.epochs) == (6.25e-5, 32, 3)
  assert (run.optim.schedule, run.optim.final_lr) == ('linear', 0.0)
  assert (run.task.warmup, run.task.aux, run.task.dropout) == (0.002, 0.5, 0.1)
  assert run.optim.clip == 1.0  # the release's
  assert papers.gpt1_finetuning('rte', 'no_aux').task.aux == 0
  assert papers.gpt1_finetuning('rte', 'no_pretraining').task.transfer == 'none'
  assert papers.gpt1_finetuning('rte', 'layers=3').task.transfer == '3'
  assert papers.gpt1_finetuning('rte', 'frozen').task.train == 'frozen'
