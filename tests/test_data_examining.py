"""Reading all of a data set once: library and program."""

import numpy as np
import pytest
from PIL import Image

from cfg_jax.data import check, open_source
from cfg_jax.data.examining import Report, examine, some
from tests import encodings
from tests.data_files import random_images, write_encoded


def album(folder, counts, side=8):
    """Random pictures {class: number} of varying size."""
    for name, count in counts.items():
        (folder / name).mkdir()
        for i in range(count):
            pixels = random_images(side + i % 2, side, 3, seed=i)
            Image.fromarray(pixels).save(folder / name / f"{i:02}.png")
    return folder


def test_a_folder_of_varying_sizes_is_counted_and_its_damage_listed(tmp_path):
    album(tmp_path, {"cat": 5, "dog": 3})
    (tmp_path / "dog" / "01.png").write_bytes(b"no picture")
    report = check("folder", data_dir=str(tmp_path))
    assert report.counts == {"cat": 5, "dog": 2}
    assert list(report.bad) == [6] and "dog/01.png: picture cannot be" in report.bad[6]
    text = str(report).splitlines()
    assert text[0] == "7 examples in 2 classes can be read" and "1 cannot be read" in text


def test_tfds_records_are_counted_and_their_damage_listed(tmp_path, data_dir):
    pictures = [encoded for encoded, shown in encodings.encodings().values()]
    write_encoded(tmp_path, pictures)
    report = check("encoded_pictures", data_dir=str(tmp_path))
    # The last of the twenty encodings has no meaning.
    assert report.counts == {"cat": 10, "dog": 9} and list(report.bad) == [19]
    assert sum(check("digits", data_dir=data_dir).counts.values()) == 1797


def test_files_and_points_are_counted(tmp_path):
    np.savez(tmp_path / "a.npz", images=random_images(6, 4, 4, 1), labels=[0, 1, 1, 0, 1, 1])
    assert check("npz", data_dir=str(tmp_path / "a.npz")) == Report({"0": 2, "1": 4}, {})
    assert sum(check("mixture").counts.values()) == len(open_source("mixture", "train"))


def test_a_class_without_an_example_is_named():
    class Lonely:
        label_names = ("cat", "dog", "owl")

        def __len__(self):
            return 2

        def __getitem__(self, index):
            return {"label": 2 * index}

    report = examine(Lonely())
    assert report.counts == {"cat": 1, "dog": 0, "owl": 1}
    assert "without an example: dog" in str(report)


def test_a_long_list_is_cut():
    assert some(list("abcde")) == "a; b; c; d; e"
    assert some(list("abcdefg")) == "a; b; c; d; e; and 2 more"


@pytest.mark.parametrize("damage", [False, True])
def test_the_program_prints_the_report_and_its_code_says_whether_all_can_be_read(tmp_path, damage):
    from tests.programs import run_program

    album(tmp_path, {"cat": 5, "dog": 3})
    if damage:
        (tmp_path / "dog" / "01.png").write_bytes(b"no picture")
    done = run_program("launch.prepare", "--dataset=folder", f"--data_dir={tmp_path}", "--check")
    assert done.returncode == damage and not done.stderr, done
    assert f"{8 - damage} examples in 2 classes can be read" in done.stdout
    assert ("dog/01.png" in done.stdout) == damage
