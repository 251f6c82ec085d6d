"""Config fields on the command line that the config does not have."""

import pytest

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
