"""Features in files of arrays: grids with their places, patches, and the questions of another source about them."""

import json
import multiprocessing

import h5py
import numpy as np
import pytest
import torch

from iprm.vqa.data.examples import DataError
from iprm.vqa.data.features import Arrays
from iprm.vqa.data.sources import source
from iprm.vqa.data.tensors import load

GRID = np.random.default_rng(0).normal(size=(3, 4, 2, 5)).astype(np.float32)  # S, C, H, W
PATCHES = GRID.reshape(3, 4, 10).swapaxes(1, 2).copy()  # S, N, C


def write(path, array):
    if path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            file["features"] = array
    elif path.suffix == ".npz":
        np.savez(path, **{str(i): scene for i, scene in enumerate(array)})
    else:
        np.save(path, array)
    return path


def questions(folder, *scenes):
    found = [{"question": "Red?", "answer": "yes", "image_index": scene} for scene in scenes]
    for split in ("train", "val"):
        (folder / f"CLEVR_{split}_questions.json").write_text(json.dumps({"questions": found}))


@pytest.mark.parametrize("ending", [".npy", ".npz", ".h5"])
def test_a_grid_becomes_cells_with_their_places(tmp_path, ending):
    arrays = Arrays(write(tmp_path / f"x{ending}", GRID))
    tokens = arrays.tokens(arrays.name(1))
    assert tokens.shape == (10, 6)
    row, column = 1, 3
    np.testing.assert_array_equal(tokens[row * 5 + column], [*GRID[1, :, row, column], 1.0, 0.5])


@pytest.mark.parametrize("ending", [".npy", ".npz", ".h5"])
def test_patches_are_taken_as_they_are(tmp_path, ending):
    arrays = Arrays(write(tmp_path / f"x{ending}", PATCHES.astype(np.float16)))
    tokens = arrays.tokens(arrays.name(2))
    assert tokens.dtype == np.float32
    np.testing.assert_array_equal(tokens, PATCHES[2].astype(np.float16).astype(np.float32))


def test_questions_about_features(tmp_path):
    questions(tmp_path, 2, 0, 2)
    for split in ("train", "val"):
        write(tmp_path / f"{split}_features.h5", GRID)
    data = load(source("features", tmp_path))
    assert data.train.source.number_columns == (*(f"channel {i}" for i in range(4)), "down", "right")
    batch = data.train.batch(torch.tensor([1, 2]))
    assert batch.labels.shape == (2, 10, 0)
    np.testing.assert_array_equal(batch.numbers[:, :, :4], PATCHES[[0, 2]])
    assert batch.visual_mask.all()
    assert data.train.true_tokens(0) is None


def test_scenes_of_different_sizes_are_padded_with_zeros(tmp_path):
    questions(tmp_path, 0, 1)
    np.savez(tmp_path / "both.npz", **{"0": PATCHES[0], "1": PATCHES[1, :3]})
    batch = load(source("features", tmp_path, file="both")).train.batch(torch.tensor([0, 1]))
    assert batch.visual_mask.sum(1).tolist() == [10, 3]
    assert (batch.numbers[1, 3:] == 0).all()


@pytest.mark.parametrize("ending", [".npy", ".npz", ".h5"])
@pytest.mark.parametrize(("array", "places"), [(GRID, ["down", "right"]), (PATCHES, [])])
def test_names_of_the_numbers(tmp_path, ending, array, places):
    write(tmp_path / f"train_features{ending}", array)
    columns = source("features", tmp_path).number_columns
    assert list(columns) == [f"channel {i}" for i in range(4)] + places


def test_questions_from_another_folder(tmp_path):
    (tmp_path / "clevr").mkdir()
    questions(tmp_path / "clevr", 1)
    write(tmp_path / "train_features.npy", PATCHES)
    reader = source("features", tmp_path, questions_folder=str(tmp_path / "clevr"))
    assert [question.scene for question in reader.questions("train")] == [1]
    np.testing.assert_array_equal(reader.scenes("train", [1])[0].numbers, PATCHES[1])


def _total(arrays, name):
    return arrays.tokens(name).sum()


@pytest.mark.parametrize("ending", [".npy", ".npz", ".h5"])
def test_a_fork_reads_what_its_parent_does(tmp_path, ending):
    arrays = Arrays(write(tmp_path / f"x{ending}", PATCHES))
    asked = [(arrays, arrays.name(scene)) for scene in (0, 1, 2, 1)]
    expected = [_total(*each) for each in asked]  # the parent holds the file open
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.starmap(_total, asked, chunksize=1) == expected


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 4)), r"expected an array \(S, N, C\) or .*, got \(3, 4\)"),
        (np.zeros((0, 4, 4)), r"expected an array .*, got \(0, 4, 4\)"),
        (np.full((1, 2, 2), np.nan), "scene 0: expected finite numbers"),
        (np.full((1, 2, 2), "red"), "scene 0: expected an array of numbers"),
    ],
)
def test_wrong_arrays(tmp_path, array, message):
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(DataError, match=f"x.npy: {message}"):
        Arrays(tmp_path / "x.npy").tokens(0)


@pytest.mark.parametrize("ending", [".npy", ".npz", ".h5"])
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and no more", b"no arrays"])
def test_files_of_another_kind(tmp_path, ending, content):
    path = tmp_path / f"x{ending}"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"x{ending}: expected arrays"):
        Arrays(path).keys()


def test_hdf5_without_features(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["images"] = GRID
    with pytest.raises(DataError, match=r"x.h5: expected arrays, in HDF5 the data set 'features'"):
        Arrays(tmp_path / "x.h5").keys()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"colour": "red"}, "source features: got an unexpected keyword argument 'colour'"),
        ({"file": 3}, "source features: file: expected str, got 3"),
        ({"questions": ["clevr"]}, r"source features: questions: expected str, got \['clevr'\]"),
        ({"questions_folder": 1.5}, "source features: questions_folder: expected str, got 1.5"),
        ({"questions": "moon"}, "source: expected one of clevr, .*, got 'moon'"),
    ],
)
def test_wrong_options(tmp_path, options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        source("features", tmp_path, **options)


def test_missing_scenes_and_files(tmp_path):
    questions(tmp_path, 3)
    reader = source("features", tmp_path)
    with pytest.raises(DataError, match=r"no features: expected .*train_features.npy or"):
        reader.scenes("train", [3])
    write(tmp_path / "train_features.npy", PATCHES)
    with pytest.raises(DataError, match=r"train_features.npy: expected features of the scene 3"):
        source("features", tmp_path).scenes("train", [3])
    write(tmp_path / "val_features.npy", PATCHES[:, :, :2])
    with pytest.raises(DataError, match=r"val_features.npy: scene 0: expected 4 numbers a token.*got 2"):
        source("features", tmp_path).scenes("val", [0])[0]
