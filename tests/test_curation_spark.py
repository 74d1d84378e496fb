"""Spark writes the same bytes: in this machine's threads, and on a cluster of it."""

import contextlib
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import time

import curation_corpus
import curation_jobs as jobs
import pytest
from test_curation_pipeline import CURATION

from gpt_jax.config import UserError
from gpt_jax.data.curation import engine, ingest, pipeline, shards

pyspark = pytest.importorskip('pyspark')
pytest.importorskip('zstandard')
if not shutil.which('java'):
  pytest.skip('no java, which Spark needs', allow_module_level=True)
TESTS = pathlib.Path(__file__).resolve().parent


@pytest.fixture(autouse=True)
def on_loopback(monkeypatch):
  monkeypatch.setenv('SPARK_LOCAL_IP', '127.0.0.1')
  # Executors import the functions of tests, and this package from Spark's archive.
  monkeypatch.setenv('PYTHONPATH', str(TESTS))
  monkeypatch.setattr(ingest, '_TOGETHER', 1)
  yield
  if active := pyspark.SparkContext._active_spark_context:
    active.stop()


@pytest.fixture(scope='module')
def cluster():
  """The URL of a standalone master on 127.0.0.1 with two workers."""
  run = pathlib.Path(pyspark.__file__).parent / 'bin/spark-class'
  with socket.socket() as free, socket.socket() as other:
    for each in (free, other):
      each.bind(('127.0.0.1', 0))
    ports = [str(each.getsockname()[1]) for each in (free, other)]
  environment = os.environ | {
    'SPARK_LOCAL_IP': '127.0.0.1',
    'PYTHONPATH': str(TESTS),
    'PYSPARK_PYTHON': sys.executable,
  }
  master = 'org.apache.spark.deploy.master.Master'
  worker = 'org.apache.spark.deploy.worker.Worker'
  url = f'spark://127.0.0.1:{ports[0]}'
  with contextlib.ExitStack() as stack:

    def start(*arguments: str) -> None:
      process = subprocess.Popen(
        [str(run), *arguments],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
      )
      stack.callback(process.wait)
      stack.callback(process.kill)

    start(master, '--host', '127.0.0.1', '--port', ports[0], '--webui-port', ports[1])
    for _ in range(100):
      with (
        contextlib.suppress(OSError),
        socket.create_connection(('127.0.0.1', int(ports[0])), 1),
      ):
        break
      time.sleep(0.2)
    for _ in range(2):
      own = ['--cores', '1', '--memory', '1g', '--webui-port', '0']
      start(worker, '--host', '127.0.0.1', *own, url)
    yield url


def same_as_local(folder: pathlib.Path, master: str) -> None:
  """Runs curations and a grouping on Spark and in this process."""
  curation_corpus.write(folder, files=2)
  curation_corpus.write_copies(folder)
  os.chdir(folder)
  every = {}
  for name in ('local', 'spark'):
    content = {}
    for curation in (CURATION, curation_corpus.COMPARING):
      of = f'{len(curation.stages)} stages'
      path = str(folder / name / of)
      run = (
        engine.local(1, f'{path}/state')
        if name == 'local'
        else engine.spark(master, f'{path}/state')
      )
      done = pipeline.run(curation, path, run)
      some = curation_corpus.content(pathlib.Path(path))
      some.pop('report.json')  # it has its own path
      content |= {f'{of}/{file}': each for file, each in some.items()}
    files = run.group(
      'words', jobs.words, jobs.joined, shards.list_shards(done[-1].folder), 3
    )
    every[name] = content, [pathlib.Path(file).read_bytes() for file in files]
  assert every['local'] == every['spark'] and len(every['local'][0]) == 15 + 24


def test_local_threads_write_the_same_bytes(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  same_as_local(tmp_path, 'local[2]')
  run = engine.spark('local[2]', tmp_path / 'other')
  with pytest.raises(UserError, match='number=3 must not be given'):
    run.map('fails', jobs.fails, range(5))
  # What was done has marks, and is not done again.
  marks = shards.names_in(tmp_path / 'other/fails')
  assert '000000.json' in marks and '000003.json' not in marks
  with pytest.raises(RuntimeError, match=r'(?s)in breaks.*ZeroDivisionError'):
    run.map('breaks', jobs.breaks, range(5))


def test_a_cluster_of_two_workers_writes_the_same_bytes(tmp_path, monkeypatch, cluster):
  monkeypatch.chdir(tmp_path)
  same_as_local(tmp_path, cluster)
