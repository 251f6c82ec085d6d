"""Config fields on the command line that the config does not have."""

import runpy
from pathlib import Path

import jax
import pytest

from cfg_jax.config import build
from cfg_jax.config.by_path import by_path
from cfg_jax.config.fields import FIELDS
from configs import digits, digits_transformer
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
    assert said[at + 1] == "      step size of AdamW (a number above 0, also in float32)"
    assert sum(line.startswith("  --config.") for line in said) == len(FIELDS)


def test_without_a_config_the_help_has_no_fields():
    assert fields.described(["train"]) == ""


MADE = "from configs import base\n\ndef get_config():\n    config = base.get_config()\n    {}\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def get_config(:", "{path}, line 1: SyntaxError: invalid syntax"),
        ("import absent_library", "{path}, line 1: ModuleNotFoundError: No module named 'absent_"),
        ("x = 1", "{path} has no function get_config: begin with a copy of configs/digits.py"),
        ("def get_config(name):\n    pass", "{path}: TypeError: get_config() missing 1 required"),
        (MADE.format("return {}"), "get_config() of {path} returns dict, not a ConfigDict: "),
        (MADE.format("pass"), "get_config() of {path} returns NoneType, not a ConfigDict: "),
        (MADE.format("config.trian.seed = 1"), "{path}, line 5: AttributeError: 'trian' Did you m"),
        (MADE.format("config.seed = 1 / 0"), "{path}, line 5: ZeroDivisionError: division by zer"),
        (MADE.format("config.train = 3"), "{path}, line 5: TypeError: Could not override field 't"),
        (MADE.format("exit(3)"), "{path}, line 5: SystemExit: 3"),
        (None, "{path} cannot be read (No such file or directory): give a file or the name of a"),
    ],
)
def test_a_file_that_is_no_config_is_one_line_with_the_place_in_it(tmp_path, text, said):
    path = tmp_path / "mine.py"
    if text is not None:
        path.write_text(text)
    given = ["train", f"--config={path}"]
    found = fields.fault(given, TypeError("whatever ConfigDict says"))
    assert found.startswith(said.format(path=path))
    assert "\n" not in found and "Traceback" not in found


@pytest.mark.parametrize(
    ("module", "change", "said"),
    [
        (digits_transformer, {"model.width": 50}, "config.model.width=50: need a multiple"),
        (digits_transformer, {"model.in_context_start": 40}, "config.model.in_context_start=40: n"),
        (digits_transformer, {"model.patch": 3}, "config.model: images of shape (8, 8, 1): patch"),
        (digits, {"model.norm_groups": 7}, "config.model.norm_groups=7: need a divisor of the 32"),
        (digits, {"model.attention_resolutions": (5,)}, "config.model.attention_resolutions has 5"),
    ],
)
def test_a_network_that_its_settings_cannot_make_names_them_by_their_path(module, change, said):
    config = module.get_config()
    config.update_from_flattened_dict(change)
    with pytest.raises(ValueError) as error:
        task = build.assemble(config, (8, 8, 1), 10)
        jax.eval_shape(task.init, jax.random.key(0))
    assert str(error.value).startswith(said)


def test_an_error_of_sampling_settings_names_them_by_their_path_once():
    with pytest.raises(ValueError, match="^config.sampling.eta=0.5 with config.sampling.solver='h"):
        with by_path("sampling", ["eta", "solver"]):
            raise ValueError("eta=0.5 with solver='heun': choose another, since zeta=1 is not eta")
    with pytest.raises(ValueError, match="^config.train.seed is 3$"), by_path("train", ["seed"]):
        raise ValueError("config.train.seed is 3")


def test_the_page_of_config_fields_is_up_to_date():
    docs = Path(__file__).parents[1] / "docs"
    made = runpy.run_path(str(docs / "config_table.py"))["page"]()
    assert (docs / "config.md").read_text("utf-8") == made
