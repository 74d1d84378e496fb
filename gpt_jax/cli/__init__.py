"""The verbs of launch.py: the flags of each, and what it calls."""

from gpt_jax.cli import (
  chat,
  contamination,
  curation,
  dialogues,
  models,
  results,
  training,
)

VERBS = {
  'prepare': (training.prepare_flags, training.prepare),
  'train': (training.train_flags, training.train),
  'reproduce': (training.reproduce_flags, training.reproduce),
  'replay': (training.replay_flags, training.replay),
  'where': (training.where_flags, training.where),
  'describe': (training.describe_flags, training.describe),
  'eval': (models.eval_flags, models.evaluate),
  'sample': (models.sample_flags, models.sample),
  'chat': (chat.chat_flags, chat.chat),
  'dialogues': (dialogues.dialogues_flags, dialogues.dialogues),
  'metrics': (dialogues.metrics_flags, dialogues.metrics),
  'import': (results.import_flags, results.import_),
  'verify': (results.verify_flags, results.verify),
  'export': (results.export_flags, results.export),
  'tokenize': (models.tokenize_flags, models.tokenize),
  'sweep': (training.sweep_flags, training.sweep),
  'plot': (results.plot_flags, results.plot),
  'compare': (results.compare_flags, results.compare),
  'explain': (models.explain_flags, models.explain),
  'contamination': (
    contamination.contamination_flags,
    contamination.contamination,
  ),
  'report': (results.report_flags, results.write_report),
  'curate': (curation.curate_flags, curation.curate),
}
