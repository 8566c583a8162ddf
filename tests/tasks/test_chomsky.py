"""Each answer, computed from its prompt in plain Python."""

import jax
import numpy as np
import pytest

from jaxseq import tasks
from jaxseq.tasks import chomsky
from jaxseq.tasks import chomsky_context_free as free

make = jax.jit(chomsky.batch, static_argnums=(1, 2))
KEYS = jax.random.split(jax.random.key(0), 100)


def even_pairs(bits):
  return [sum(x != y for x, y in zip(bits, bits[1:])) % 2]


def cycle_navigation(steps):
  place = 0
  for step in steps:
    place = (place + {0: -1, 1: 0, 2: 1}[step]) % 5
  return [place]


def modular_arithmetic(prompt):
  return [eval("".join("01234+-*"[x] for x in prompt)) % 5]


def modular_arithmetic_brackets(prompt):
  return [eval("".join("01234+-()"[x] for x in prompt)) % 5]


def solve_equation(prompt):
  left, right = "".join("01234+-()x="[x] for x in prompt).split("=")
  return [
    x for x in range(5) if (eval(left.replace("x", str(x))) - int(right)) % 5 == 0
  ]


def stack_manipulation(prompt):
  stack = []
  for x in prompt:
    if x == 2:
      stack = stack[:-1]
    else:
      stack.append({0: 0, 1: 1, 3: 0, 4: 1}[x])
  return [*stack[::-1], 2]


def missing_duplicate(prompt):
  half, place = len(prompt) // 2, prompt.index(2)
  return [prompt[(place + half) % len(prompt)]]


def binary_addition(prompt):
  number = lambda bits: int("".join(map(str, bits[::-1])), 2)
  plus = prompt.index(2)
  total = number(prompt[:plus]) + number(prompt[plus + 1 :])
  return [*(int(x) for x in f"{total:b}"[::-1] if total), 2]


# The answer, and how long prompts and whole sequences are.
SOLVERS = {
  "even_pairs": (even_pairs, 11, 12),
  "cycle_navigation": (cycle_navigation, 11, 12),
  "modular_arithmetic": (modular_arithmetic, 11, 13),
  "reverse_string": (lambda x: x[::-1], 6, 13),
  "stack_manipulation": (stack_manipulation, 11, 24),
  "modular_arithmetic_brackets": (modular_arithmetic_brackets, 22, 23),
  "solve_equation": (solve_equation, 22, 23),
  "duplicate_string": (lambda x: x + x, 6, 20),
  "missing_duplicate": (missing_duplicate, 12, 14),
  "odds_first": (lambda x: x[1::2] + x[0::2], 7, 14),
  "bucket_sort": (sorted, 7, 14),
  "binary_addition": (binary_addition, 8, 18),
}


@pytest.mark.parametrize("name", SOLVERS)
def test_answers_are_those_of_a_slow_solver(name):
  solve, n, length = SOLVERS[name]
  config = tasks.task(name).config()
  batch = jax.tree.map(np.asarray, make(KEYS, config, length))
  prompts = set()
  for inputs, targets, weights in zip(
    batch["inputs"].tolist(), batch["targets"].tolist(), batch["weights"].tolist()
  ):
    prompt, answer = inputs[:n], solve(inputs[:n])
    ask, rest = config.vocab_size - 1, length - n - len(answer)
    assert ask not in prompt and inputs[n:] == [ask] * (length - n)
    assert targets == [0] * n + answer + [0] * rest
    assert weights == [0] * n + [1] * len(answer) + [0] * rest
    prompts.update(prompt)
  # Numbers and places on the cycle are answers alone, some of the time.
  assert prompts <= set(range(config.num_symbols)) and len(prompts) > 1


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6])
def test_short_expressions_are_well_formed(n):
  config = free.ModularArithmeticBracketsConfig()
  batch = jax.tree.map(np.asarray, make(KEYS[:20], config, n + 1))
  for inputs, targets in zip(batch["inputs"].tolist(), batch["targets"]):
    assert [targets[n]] == modular_arithmetic_brackets(inputs[:n])


@pytest.mark.parametrize("name", SOLVERS)
def test_the_shortest_length_is_enough_and_a_shorter_one_is_refused(name):
  config = tasks.task(name).config()
  least = config.least_length
  shapes = jax.eval_shape(lambda: chomsky.batch(KEYS, config, least))
  assert shapes["targets"].shape == (100, least) and config.prompt_length(least) >= 1
  with pytest.raises(ValueError, match=f"{name} needs .* >= {least}; got {least - 1}"):
    chomsky.batch(KEYS[:2], config, least - 1)


@pytest.mark.parametrize(
  "name, fields",
  [
    ("even_pairs", dict(held_out_examples=0)),
    ("cycle_navigation", dict(cycle_length=1)),
    ("modular_arithmetic", dict(modulus=1)),
    ("solve_equation", dict(modulus=1)),
    ("bucket_sort", dict(num_symbols=1)),
  ],
)
def test_wrong_fields_are_refused(name, fields):
  (field, value), *_ = fields.items()
  with pytest.raises(ValueError, match=f"{name} needs {field} .*; got {value}"):
    tasks.task(name).config(**fields)
