"""Commands of the pages: parsed by the programs, run by a test, or marked as not run by one."""

import json
import re
import shlex

import pytest

from cfg_jax.config.fields import FIELDS, TRANSFORMER_FIELDS
from tests.programs import ROOT, run_program
from tests.test_readme import PAGES, blocks

# Start of a command: what runs it.
RUN_BY = {
    "bash launch/demo.sh": "tests/test_long.py",
    "bash launch/digits_experiment.sh": "tests/test_sweep.py",
    "bash launch/test.sh": ".ci/run",
    "bash launch/tpu_vm.sh": "tests/test_launch_scripts.py",  # as a dry run
    "export TPU_NAME": "tests/test_launch_scripts.py",
    "sbatch": "tests/test_launch_scripts.py",  # with stand-ins for Slurm
    "pip install": ".ci/run",  # of the extras [test] and [docs]
}
MARKS = ("not run", "by hand")
# Files that the reader has and the tests do not.
OWN = {
    "--config=folder:pictures": "--config=folder",
    "--config=folder:pictures:64": "--config=folder",
    "--config=./flowers.py": "--config=base",
}


def lines():
    """(page, command with its comment) of every command."""
    for page, block in blocks("bash"):
        for line in block.replace("\\\n", " ").splitlines():
            if line.strip() and not line.startswith("#"):
                yield page, line


def by_program():
    """{program: its commands as lists of arguments}."""
    found = {}
    for _, line in lines():
        words = shlex.split(line, comments=True)
        if words[0] == "cfg-jax":
            arguments = [OWN.get(word, word) for word in words[2:]]
            found.setdefault(words[1], []).append(arguments)
    return found


@pytest.mark.parametrize("program", by_program())
def test_a_program_accepts_the_commands_of_the_pages(program):
    done = run_program("tests.parsed", program, json.dumps(by_program()[program]))
    assert done.returncode == 0 and not done.stdout, done


def test_a_command_of_other_programs_has_a_test_or_says_that_it_has_none():
    for page, line in lines():
        command, _, comment = line.partition(" #")
        if command.startswith("cfg-jax ") or any(mark in comment for mark in MARKS):
            continue
        runner = next((RUN_BY[start] for start in RUN_BY if command.startswith(start)), None)
        assert runner, f"{page}: {line}: add the comment {' or '.join(MARKS)}, or a test"
        assert (ROOT / runner).exists()


def test_fields_that_the_pages_name_are_there():
    known = {*FIELDS, *TRANSFORMER_FIELDS, "data.size"}  # the last one of the data set "mixture"
    sections = {field.partition(".")[0] for field in known}
    for page, text in PAGES.items():
        for field in re.findall(r"config\.(\w+\.\w+)", text):
            if field.partition(".")[0] in sections:
                assert field in known, (page, field)
