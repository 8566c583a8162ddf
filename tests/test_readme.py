import pathlib
import re

from experiments import readme_table

ROOT = pathlib.Path(__file__).parents[1]


def test_the_table_of_mixers_is_that_of_the_registry():
  text = readme_table.README.read_text()
  assert text == readme_table.updated(text), "run: python -m experiments.readme_table"


def test_every_file_that_the_readme_names_is_there():
  text = readme_table.README.read_text()
  for link in re.findall(r"\]\((?!http|#)([^)]+)\)", text):
    assert (ROOT / link).exists(), link
  for config in re.findall(r"experiments/configs/\w+\.py", text):
    assert (ROOT / config).exists(), config


def test_the_ten_lines_for_another_project_run():
  text = readme_table.README.read_text()
  (block,) = re.findall(r"```python\n(import jax\n.*?)```", text, flags=re.DOTALL)
  exec(block, {})
