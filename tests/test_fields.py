"""Config fields on the command line that the config does not have."""

import runpy
from pathlib import Path

import pytest

from cfg_jax.config.fields import FIELDS
from launch import fields

# field given: nearest field
TYPOS = {
    "optim.lr": "optim.learning_rate",
    "optm.learning_rate": "optim.learning_rate",
    "optim.learning_rate.x": "optim.learning_rate",
    "optim.num_steps": "train.num_steps",
    "sampling.num_stps": "sampling.num_steps",
    "p_uncond": "diffusion.p_uncond",
    "seeed": "seed",
}


@pytest.mark.parametrize("field", TYPOS)
@pytest.mark.parametrize("form", ["--config.{}=1", "-config.{}"])
def test_an_unknown_field_is_named_with_the_nearest_one_first(field, form):
    said = fields.unknown(["train", "--config=configs/digits.py", form.format(field), "1"])
    assert said.startswith(f"--config.{field} is not a field of the config: did you mean ")
    assert said.split("did you mean ")[1].split(" or ")[0] == f"--config.{TYPOS[field]}"
    assert "\n" not in said


def test_fields_of_the_config_itself_are_known_and_the_base_has_no_say():
    given = ["--config.data.size=3", "--config.train.num_steps=1"]
    assert fields.unknown(["--config=configs/mixture.py", *given]) is None
    assert fields.unknown(["--config=configs/digits.py", *given]) is not None


def test_the_help_of_a_config_lists_every_field_with_value_meaning_and_range():
    said = fields.described(["train", "--config=configs/digits.py"]).splitlines()
    at = said.index("  --config.optim.learning_rate=0.001")
    assert said[at + 1] == "    step size of AdamW (a number above 0, also in float32)"
    assert sum(line.startswith("  --config.") for line in said) == len(FIELDS)


def test_the_help_of_a_config_that_cannot_be_read_says_so():
    assert "cannot be read" in fields.described(["train", "--config=configs/none.py"])
    assert fields.described(["train"]) == ""


def test_the_page_of_config_fields_is_up_to_date():
    docs = Path(__file__).parents[1] / "docs"
    made = runpy.run_path(str(docs / "config_table.py"))["page"]()
    assert (docs / "config.md").read_text("utf-8") == made
